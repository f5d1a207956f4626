"""The Inspect task `mmlu_171`: accuracy on the 171 questions under a steering; as typed, of the control.

`inspect eval steer_tasks/mmlu_171.py`, or `inspect eval steer_tasks/mmlu_171` without the checkout.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, Model, get_model

from model_adapters.backends.local import model_shape
from model_adapters.backends.wrapped import prompt_only_refusals
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect import HookSteered, PromptSteered
from model_adapters.harnesses.inspect_messages import inspect_messages
from steer_tasks.arms import NO_BEHAVIOR, Arm, build_arm
from steer_tasks.arms import pairs as named
from steer_tasks.protocols import Protocol, load_protocol
from steer_tasks.questions import Question, QuestionSet, load_questions
from steer_tasks.scorers import accuracy, answered
from steer_tasks.solvers import steered_api, steered_generate

DEFAULT_MODEL = "hook_steered/embedded"


@task
def mmlu_171(
    behavior: str | list[str] | None = None,
    method: str = "control",
    steering: str | None = None,
    draw: int = 0,
    redraw: bool = False,
    protocol: str = "isolated",
    questions: str | None = None,
    text: str | None = None,
    placement: str | None = None,
    layer: int | None = None,
    coefficient: float | None = None,
    dose: float | None = None,
    positions: str | None = None,
    contrasts: str | None = None,
    match: str | None = None,
    first: str | None = None,
    second: str | None = None,
    edits: str | None = None,
    magnitude: float | None = None,
    pairs: int | None = None,
    pool: int | None = None,
    most: int | None = None,
    total: float | None = None,
    everywhere: float | None = None,
    effect: bool | None = None,
    dictionary: str | None = None,
    parameters: dict[str, Any] | list[str] | str | None = None,
) -> Task:
    """The 171 questions in the chain-of-thought form, scored by accuracy and by whether they were answered.

    `behavior` is one, a list, or `all`; sample ids are `behavior/question`, equal in every arm run with the same
    behaviors, and `question` where no behavior enters. `steering` is a frozen steering's file. From `text` on these
    are the methods' parameters; those of a method that isn't ours go into `parameters` (`name=value`, or an object).
    `dictionary` is for methods that choose features on a local model.
    `questions` is a file or folder. Everything that needs no weights is checked here.
    """
    wording = load_protocol(protocol)
    given: dict[str, object] = {
        **{"text": text, "placement": placement, "layer": layer, "coefficient": coefficient, "dose": dose},
        **{"positions": positions, "contrasts": contrasts, "match": match, "first": first, "second": second},
        **{"edits": edits, "magnitude": magnitude, "pairs": pairs, "pool": pool, "most": most, "effect": effect},
        **{"total": total, "everywhere": everywhere},
        **named(parameters),
    }
    if method == "prompt" and given["text"] is None:
        given["text"] = wording.prompting
    given = {name: value for name, value in given.items() if value is not None}
    arm = build_arm(
        method, given, behavior=behavior, steering=steering, draw=draw, redraw=redraw, dictionary=dictionary
    )
    model = under_test()
    check_on(arm, model)
    asked = load_questions("mmlu_171", questions)
    return Task(
        dataset=MemoryDataset(samples(asked, wording, arm), name="mmlu_171"),
        solver=steered_generate(method, behavior, steering, draw, redraw, given, dictionary),
        scorer=[accuracy(), answered()],
        config=GenerateConfig(temperature=0.0, max_tokens=2048),
        model=DEFAULT_MODEL if model is not None and str(model) == "none/none" else None,
        version="1-A",
        metadata=provenance(asked, wording, arm),
    )


def under_test() -> Model | None:
    """The model of the eval that is being set up; None outside one, and `none/none` where none was given."""
    try:
        return get_model()
    except ValueError:  # no eval, and no INSPECT_EVAL_MODEL
        return None


def check_on(arm: Arm, model: Model | None) -> None:
    """Raise Refused where it is plain, without weights, that `model` can't run the arm."""
    if model is None:
        return
    if str(model) == "none/none":
        arm.check_shape(lambda: model_shape("embedded"))
        return
    api = steered_api(model)
    if isinstance(api, HookSteered):
        arm.check_shape(lambda: model_shape(api.model_name, api.revision))
    elif isinstance(api, PromptSteered):
        frozen = arm.frozen()
        if reasons := prompt_only_refusals(frozen) if frozen else []:
            raise Refused("; ".join(reasons))


def samples(asked: QuestionSet, wording: Protocol, arm: Arm) -> list[Sample]:
    """One sample per question and behavior, question by question, so that a limit keeps all behaviors."""
    return [_sample(question, wording, label) for question in asked.questions for label in arm.labels]


def _sample(question: Question, wording: Protocol, label: str) -> Sample:
    return Sample(
        id=question.id if label == NO_BEHAVIOR else f"{label}/{question.id}",
        input=inspect_messages(wording.messages(question, "chain_of_thought")),
        target=question.letter,
        metadata={"question_id": question.id, "subject": question.subject, "behavior": label},
    )


def provenance(asked: QuestionSet, wording: Protocol, arm: Arm) -> dict[str, Any]:
    """What the log says of where the numbers come from."""
    return {
        "questions": asked.provenance(),
        "protocol": wording.provenance(),
        "arm": arm.provenance(),
        "versions": {name: _version(name) for name in ("steer-tasks", "inspect-ai", "torch", "transformers")},
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
