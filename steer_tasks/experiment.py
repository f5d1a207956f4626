"""What our Inspect tasks have in common: the arm's checks, samples with equal ids in every arm, and provenance."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.solver import Solver

from judges.rubric import Rubrics
from model_adapters.backend import Sampling
from model_adapters.backends.local import model_shape
from model_adapters.backends.wrapped import prompt_only_refusals
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.inspect import HookSteered, PromptSteered
from model_adapters.harnesses.inspect_messages import inspect_messages
from model_adapters.identity import digest
from steer_tasks.arm_parameters import ArmRequest
from steer_tasks.arms import NO_BEHAVIOR, Arm
from steer_tasks.open_ended import open_ended_digest, open_prompts
from steer_tasks.protocol import Form, Protocol
from steer_tasks.questions import Question, QuestionSet, load_questions
from steer_tasks.solvers import check_judge, steered_api, steered_generate

DEFAULT_MODEL = "hook_steered/embedded"
SEED = 0
"""Draws which questions a smaller run asks."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Item:
    """One thing that is asked: a question with options, or an open-ended prompt without."""

    id: str
    question: str
    choices: tuple[str, ...] = ()
    letter: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Asked:
    """The items of each behavior, in the order of asking, and what results record of them."""

    name: str
    form: Form
    items: dict[str, tuple[Item, ...]]
    described: dict[str, Any]


def asked_of(name: str, behaviors: Sequence[str], per_behavior: int, source: str | None = None) -> Asked:
    """The questions `mmlu_171`, `mmlu_114` or `open_ended` for some behaviors, `per_behavior` of them (0 for all).

    A smaller number is drawn by a fixed seed: of questions with options the same for every behavior; of open-ended
    prompts a third from the behavior's own and the rest from those that all have in common. A question that a source
    lacks doesn't change which others are drawn.
    """
    if isinstance(per_behavior, bool) or not isinstance(per_behavior, int) or per_behavior < 0:
        raise SteerError(f"questions_per_behavior={per_behavior!r}; it is a whole number, 0 for all")
    if name == "open_ended":
        items = {label: _open_items(label, per_behavior) for label in behaviors}
        described: dict[str, Any] = {"name": name, "digest": open_ended_digest()}
        form: Form = "open_ended"
    elif name in ("mmlu_171", "mmlu_114"):
        found = load_questions(name, source)
        chosen = drawn([question.id for question in found.questions], per_behavior)
        same = tuple(_item(question) for question in found.questions if question.id in chosen)
        items, described, form = dict.fromkeys(behaviors, same), _described(found), "chain_of_thought"
    else:
        raise SteerError(f"questions={name!r} are unknown; there are mmlu_171, mmlu_114, open_ended")
    return Asked(name, form, items, {**described, "per_behavior": per_behavior, "seed": SEED})


def _described(found: QuestionSet) -> dict[str, Any]:
    return dict(found.provenance())


def _item(question: Question) -> Item:
    return Item(question.id, question.question, question.choices, question.letter, question.subject)


def _open_items(label: str, per_behavior: int) -> tuple[Item, ...]:
    prompts = open_prompts(label)
    common = [one for one in prompts if one.id.startswith("common/")]
    own = [one for one in prompts if not one.id.startswith("common/")]
    if per_behavior:
        n_own = min(len(own), -(-per_behavior // 3))
        kept = drawn([one.id for one in own], n_own) if n_own else set()
        kept |= drawn([one.id for one in common], max(per_behavior - n_own, 0)) if per_behavior > n_own else set()
        common = [one for one in common if one.id in kept]
        own = [one for one in own if one.id in kept]
    return tuple(Item(one.id, one.text, subject=one.id.split("/")[0]) for one in [*common, *own])


def drawn(ids: Iterable[str], count: int) -> set[str]:
    """`count` of the ids, or all for 0: those whose SHA-256 with the seed is smallest.

    So a draw of fewer is part of a draw of more, and an id that is missing changes nothing about the others.
    """
    ranked = sorted(ids, key=lambda one: hashlib.sha256(f"{SEED}:{one}".encode()).hexdigest())
    return set(ranked[:count] if count else ranked)


def samples(asked: Asked, protocol: Protocol, arm: Arm, method: str) -> list[Sample]:
    """One sample per question and behavior, question by question, so that a limit keeps all behaviors."""
    most = max(len(items) for items in asked.items.values())
    return [
        _sample(asked.items[label][index], asked.form, protocol, arm, label, method)
        for index in range(most)
        for label in arm.labels
        if index < len(asked.items[label])
    ]


def _sample(item: Item, form: Form, protocol: Protocol, arm: Arm, label: str, method: str) -> Sample:
    behavior = arm.behaviors.get(label)
    return Sample(
        id=item.id if label == NO_BEHAVIOR else f"{label}/{item.id}",
        input=inspect_messages(protocol.messages(item, form, method)),
        target=item.letter,
        metadata={
            "question_id": item.id,
            "subject": item.subject,
            "behavior": label,
            **({"behavior_text": behavior.text} if behavior else {}),
        },
    )


def solver_of(request: ArmRequest, protocol: Protocol) -> Solver:
    """The solver that runs the arm: everything of the steering is in its arguments, and so in the eval's identity."""
    sentence = request.sentence(protocol)
    return steered_generate(
        request.method,
        request.behavior,
        request.steering,
        request.draw,
        request.redraw,
        request.given(protocol),
        request.dictionary,
        sentence.text if sentence else None,
        sentence.placement if sentence else "after",
    )


def config_of(sampling: Sampling) -> GenerateConfig:
    """How a protocol has answers sampled."""
    return GenerateConfig(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        top_p=None if sampling.is_greedy else sampling.top_p,
        seed=sampling.seed,
    )


def under_test() -> Model | None:
    """The model of the eval that is being set up; None outside one, and `none/none` where none was given."""
    try:
        return get_model()
    except ValueError:  # no eval, and no INSPECT_EVAL_MODEL
        return None


def default_model(model: Model | None) -> str | None:
    """The model that a task brings along: only where the command line names none, as a task's own would win over it."""
    return DEFAULT_MODEL if model is not None and str(model) == "none/none" else None


def check_on(arm: Arm, model: Model | None) -> None:
    """Raise Refused where it is plain, without weights, that `model` can't run the arm."""
    if model is None:
        return
    if str(model) == "none/none":
        arm.check_shape(lambda: model_shape("embedded"))
        return
    api = steered_api(model)
    if isinstance(api, HookSteered):
        arm.check_shape(api.shape)
    elif isinstance(api, PromptSteered):
        frozen = arm.frozen()
        if reasons := prompt_only_refusals(frozen) if frozen else []:
            raise Refused("; ".join(reasons))


def judges_of(judge: str | None, rubrics: Rubrics, arm: Arm, model: Model | None, needed: Sequence[str]) -> bool:
    """Whether there is a judge; says in one line how to add one where there is none.

    Raises Refused for a judge that is the model under test, SteerError for a behavior without criteria.
    """
    if "behavior" in needed:
        for one in arm.behaviors.values():
            rubrics.behavior.check(one)
    named = str(model) if model is not None and str(model) != "none/none" else DEFAULT_MODEL
    if judge == named:
        raise Refused(f"the judge {judge} is the model under test; name another with -T judge=PROVIDER/MODEL")
    found = check_judge(judge, model)
    if named in found:
        raise Refused(f"the judge {named} is the model under test; name another with --model-role grader=…")
    # Outside an eval nobody knows yet who will judge.
    if not found and model is not None:
        _log.warning(
            "no judge, so no score for %s; add --model-role grader=PROVIDER/MODEL, or score the log later",
            " and ".join(needed),
        )
    return bool(found)


def provenance(asked: dict[str, Any], protocol: Protocol, arm: Arm, rubrics: Rubrics | None = None) -> dict[str, Any]:
    """What the log says of where the numbers come from."""
    return {
        "questions": asked,
        "protocol": protocol.provenance(),
        "arm": arm.provenance(),
        **({"rubrics": rubrics.provenance()} if rubrics else {}),
        "versions": {name: _version(name) for name in ("steer-tasks", "inspect-ai", "torch", "transformers")},
    }


def version_of(number: int, asked: Asked, protocol: Protocol) -> str:
    """A task's version: ours, and a digest of what is asked and how.

    Inspect takes a finished cell for the same by arguments and version, not by its questions, so that without the
    digest a changed protocol file or question file would be given the old answers.
    """
    return f"{number}-{digest([asked.described, protocol.digest])[:8]}"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
