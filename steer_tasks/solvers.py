"""Solvers for Inspect: generation under a steering that is prepared once and checked on every answer."""

from typing import Any

from inspect_ai.model import Model, get_model
from inspect_ai.solver import Generate, Solver, TaskState, solver

from model_adapters.errors import NotApplied, Refused
from model_adapters.harnesses.inspect import SteeredModel
from model_adapters.harnesses.inspect_spec import KEY, Spec, spec_of
from model_adapters.harnesses.once import Once
from steer_tasks.arms import NO_BEHAVIOR, build_arm, pairs


@solver
def steered_generate(
    method: str = "control",
    behavior: str | list[str] | None = None,
    steering: str | None = None,
    draw: int = 0,
    redraw: bool = False,
    parameters: dict[str, Any] | list[str] | str | None = None,
    dictionary: str | None = None,
) -> Solver:
    """Generate under a method's steering, or under the one in file `steering`.

    The steering is prepared once per model and behavior, through the model's own backend and outside the event loop,
    and refused before anything is generated where the model can't run it. A sample whose metadata has `behavior` gets
    that one's. An answer whose proof is not of the steering asked for is an error. Samples are numbered from 0 for
    the first epoch.
    """
    arm = build_arm(
        method,
        pairs(parameters),
        behavior=behavior,
        steering=steering,
        draw=draw,
        redraw=redraw,
        dictionary=dictionary,
    )
    prepared: Once[Spec] = Once()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        backend = await steered_api(model).backend()
        label = state.metadata.get("behavior", arm.labels[0] if len(arm.labels) == 1 else None)
        if label not in arm.labels:
            raise Refused(f"the sample's behavior is {label!r}; this run has {', '.join(arm.labels)}")

        def make() -> Spec:
            return spec_of(*arm.prepared(backend, label))

        found = await prepared.get(f"{backend.identity.digest} {label}", make)
        run = backend.identity.run(found.fingerprint)
        spec = Spec(found.fingerprint, found.file, run, state.epoch - 1)
        body = extra_body(model)
        if KEY in body:
            raise Refused(
                f"extra_body has {KEY!r}, and this task says itself what is steered; use steering=FILE instead"
            )
        state.metadata["fingerprint"] = spec.fingerprint
        state = await generate(state, extra_body={**body, KEY: spec.as_dict()})
        check_report(state.output.metadata, spec, str(model))
        return state

    return solve


def extra_body(model: Model) -> dict[str, Any]:
    """What task, eval and model say in extra_body; a request's own replaces all of it, so ours must repeat it."""
    try:
        # Not public, but a model that a task brings along, or that is given as an object, doesn't know the eval's.
        from inspect_ai.model._generate_config import active_generate_config
    except ImportError:
        return dict(model.config.extra_body or {})
    return {**(model.config.extra_body or {}), **(active_generate_config().extra_body or {})}


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


__all__ = ["NO_BEHAVIOR", "check_report", "steered_api", "steered_generate"]
