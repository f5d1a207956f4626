"""Solvers for Inspect: generation under a steering that is prepared once and checked on every answer."""

from typing import Any

from inspect_ai.model import GenerateConfig, Model, get_model, model_roles
from inspect_ai.solver import Generate, Solver, TaskState, solver

from model_adapters.errors import NotApplied, Refused
from model_adapters.harnesses.inspect import SteeredModel
from model_adapters.harnesses.inspect_request import RequestModel
from model_adapters.harnesses.inspect_spec import KEY, Spec, spec_of
from model_adapters.harnesses.once import Once
from model_adapters.identity import digest
from model_adapters.steering import Placement, Steering, SystemPrompt
from steer_tasks.arms import NO_BEHAVIOR, build_arm
from steer_tasks.parameters import hosted_parameters
from steer_tasks.turns import Turns


@solver
def steered_generate(
    method: str = "control",
    behavior: str | list[str] | None = None,
    steering: str | None = None,
    draw: int = 0,
    redraw: bool = False,
    parameters: dict[str, Any] | list[str] | str | None = None,
    dictionary: str | None = None,
    prompting: str | None = None,
    placement: Placement = "after",
) -> Solver:
    """Generate under a method's steering, or under the one in file `steering`.

    The steering is prepared once per model and behavior, through the model's own backend and outside the event loop,
    and refused before anything is generated where the model can't run it. A sample whose metadata has `behavior` gets
    that one's. `prompting` is a sentence, with a place for `{behavior}`, that is added to what the method finds, and
    `placement` how it stands to the system message. An answer whose proof is not of the steering asked for is an
    error. Samples are numbered from 0 for the first epoch. Equal greedy requests of the control wait for the first of
    them where the run keeps its answers (`--cache`, `-M store=true`, `steer run`), so that they are answered once.
    """
    arm = build_arm(
        method,
        hosted_parameters(parameters),
        behavior=behavior,
        steering=steering,
        draw=draw,
        redraw=redraw,
        dictionary=dictionary,
        sentence=SystemPrompt(prompting, placement) if prompting else None,
    )
    prepared: Once[tuple[Spec, dict[str, Any]]] = Once()
    waiting = Turns()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        backend = await steered_api(model).backend()
        label = state.metadata.get("behavior", arm.labels[0] if len(arm.labels) == 1 else None)
        if label not in arm.labels:
            raise Refused(f"the sample's behavior is {label!r}; this run has {', '.join(arm.labels)}")

        def make() -> tuple[Spec, dict[str, Any]]:
            steering, file = arm.prepared(backend, label)
            return spec_of(steering, file), steering_metadata(steering)

        found, about = await prepared.get(f"{backend.identity.digest} {label}", make)
        run = backend.identity.run(found.fingerprint)
        spec = Spec(found.fingerprint, found.file, run, state.epoch - 1)
        body = extra_body(model)
        if KEY in body:
            raise Refused(
                f"extra_body has {KEY!r}, and this task says itself what is steered; use steering=FILE instead"
            )
        state.metadata["fingerprint"] = spec.fingerprint
        state.metadata["steering"] = about
        async with waiting.turn(_shared_key(state, model, spec)):
            state = await generate(state, extra_body={**body, KEY: spec.as_dict()})
        check_report(state.output.metadata, spec, str(model))
        return state

    return solve


def steering_metadata(steering: Steering) -> dict[str, Any]:
    """What a sample records of its steering: its prompts, and the fingerprint before a size or a dictionary applied."""
    return {
        "prompts": [one.text for one in steering.system_prompts],
        "source_fingerprint": steering.provenance.get("source_fingerprint"),
    }


def extra_body(model: Model) -> dict[str, Any]:
    """What task, eval and model say in extra_body; a request's own replaces all of it, so ours must repeat it."""
    return {**(model.config.extra_body or {}), **(_eval_config().extra_body or {})}


def _eval_config() -> GenerateConfig:
    """What task and eval say of generation; nothing where this version of Inspect doesn't tell."""
    try:
        # Not public, but a model that a task brings along, or that is given as an object, doesn't know the eval's.
        from inspect_ai.model._generate_config import active_generate_config
    except ImportError:
        return GenerateConfig()
    return active_generate_config()


def _shared_key(state: TaskState, model: Model, spec: Spec) -> str | None:
    """What tells apart requests that have one answer; None where each must be asked for itself."""
    config = model.config.merge(_eval_config())
    keeps = bool(config.cache) or (isinstance(model.api, RequestModel) and model.api.keeps)
    if spec.file is not None or config.temperature or not keeps:
        return None
    texts = [(message.role, message.text) for message in state.messages]
    return digest([str(model), spec.as_dict(), texts])


def steered_api(model: Model) -> SteeredModel:
    """The provider of a model that steers. Raises Refused, with the name to use instead, for any other."""
    if isinstance(model.api, SteeredModel):
        return model.api
    if str(model) == "none/none":
        raise Refused("there is no model to steer; give --model hook_steered/embedded or another")
    raise Refused(f"{model} doesn't steer; use --model prompt_steered/{model}, or hook_steered/<model> for a local one")


def check_report(metadata: dict[str, Any] | None, spec: Spec, model: str) -> None:
    """Raise NotApplied unless an output's metadata reports that `spec` ran, by its proof too."""
    report = (metadata or {}).get(KEY)
    if not isinstance(report, dict):
        raise NotApplied(
            f"{model} answered without saying what steering ran, {spec.fingerprint} was asked for; "
            f"use --model prompt_steered/{model}"
        )
    proof = report.get("proof") or {}
    applied = (report.get("spec"), proof.get("fingerprint"), proof.get("identity"))
    if applied != (spec.as_dict(), spec.fingerprint, spec.identity):
        raise NotApplied(
            f"steering {spec.fingerprint} in run {spec.identity} was asked of {model}, "
            f"{applied[1]} in run {applied[2]} was applied; the answer is withheld"
        )


@solver
def independent_judge(judge: str | None = None) -> Solver:
    """Stop a run, before anything is generated, whose judge is the model under test; names are what is compared.

    The judge is the model bound to the role `grader`, else `judge`. Raises Refused; where there is no judge, passes.
    """

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        check_judge(judge, get_model())
        return state

    return solve


def check_judge(judge: str | None, model: Model | None) -> tuple[str, ...]:
    """The names of the judges of this run, empty for none. Raises Refused where one of them is the model under test."""
    bound = model_roles().get("grader")
    graders = bound if isinstance(bound, list) else [bound] if bound is not None else []
    names = tuple(str(one) for one in graders) or ((judge,) if judge else ())
    if model is not None and str(model) in names:
        raise Refused(
            f"the judge {model} is the model under test; name another with --model-role grader=PROVIDER/MODEL"
        )
    return names


__all__ = ["NO_BEHAVIOR", "check_judge", "check_report", "independent_judge", "steered_api", "steered_generate"]
