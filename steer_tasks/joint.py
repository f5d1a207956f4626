"""The joint tasks: what a steering bought and what it cost, read off one generation for each question."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset
from inspect_ai.scorer import Scorer

from model_adapters.errors import SteerError
from steer_tasks.arm_parameters import ArmRequest
from steer_tasks.arms import NO_BEHAVIOR
from steer_tasks.experiment import (
    asked_of,
    check_on,
    config_of,
    default_model,
    judges_of,
    provenance,
    samples,
    solver_of,
    under_test,
    version_of,
)
from steer_tasks.protocols import load_protocol
from steer_tasks.scorers import accuracy, answered, behavior, coherence, signals
from steer_tasks.solvers import independent_judge
from steer_tasks.study import rubrics_of

DEFAULT_DOSE = 0.3
"""A third of the mean residual norm: strong enough to show in a small model's answers, too weak to break them all."""


@dataclass(frozen=True)
class JointOptions:
    """What a joint task takes beside its arm; the tasks' docstrings say what each means."""

    questions: str
    questions_per_behavior: int
    protocol: str
    judge: str | None
    rubrics: str | None
    reference_model: str | None


def joint_task(name: str, request: ArmRequest, options: JointOptions, judged: Sequence[str]) -> Task:
    """The task `name`, whose judge scores the qualities `judged`. Everything that needs no weights is checked here."""
    request = with_defaults(request)
    protocol, rubrics = load_protocol(options.protocol), rubrics_of(options.rubrics)
    arm, model = request.arm(protocol), under_test()
    if arm.labels == (NO_BEHAVIOR,):
        raise SteerError("a steering whose file names no behavior can't be judged for one; prepare it with --behavior")
    check_on(arm, model)
    asked = asked_of(options.questions, arm.labels, options.questions_per_behavior)
    is_choice = asked.form == "chain_of_thought"
    scorers: list[Scorer] = [accuracy(), answered()] if is_choice else []
    if judges_of(options.judge, rubrics, arm, model, judged):
        makers = {"behavior": behavior, "coherence": coherence}
        scorers += [makers[quality](options.judge, options.rubrics) for quality in judged]
    scorers.append(signals(options.reference_model, is_choice))
    return Task(
        dataset=MemoryDataset(samples(asked, protocol, arm, request.wording), name=asked.name),
        setup=independent_judge(options.judge),
        solver=solver_of(request, protocol),
        scorer=scorers,
        config=config_of(protocol.sampling),
        model=default_model(model),
        name=name,
        version=version_of(1, asked, protocol),
        metadata=provenance(asked.described, protocol, arm, rubrics),
    )


def with_defaults(request: ArmRequest) -> ArmRequest:
    """A dose for contrast vectors that were given no size; no method and no behaviors beside a frozen steering."""
    if request.steering is not None:
        method = "control" if request.method == "caa" else request.method
        return replace(request, method=method, behavior=None if request.behavior == "all" else request.behavior)
    sized = request.dose is not None or request.coefficient is not None or "dose" in str(request.parameters)
    if request.method == "caa" and not sized and "coefficient" not in str(request.parameters):
        return replace(request, dose=DEFAULT_DOSE)
    return request
