"""Scorers and metrics for Inspect: thin shells over plain code, one number each."""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer
from inspect_ai.solver import TaskState

from steer_tasks.answers import is_answered, is_right, parse_answer
from steer_tasks.grading import graded, grader
from steer_tasks.measuring import measured
from steer_tasks.study import rubrics_of
from steer_tasks.turns import Turns


@metric
def two_way_stderr(a: str = "question_id", b: str = "behavior") -> Metric:
    """Standard error of the mean, clustered by sample metadata `a` and by `b` at once.

    Cameron, Gelbach and Miller, Journal of Business & Economic Statistics 29 (2011), section 2.2: V_a + V_b - V_ab,
    each with the factor G / (G - 1), but never less than either one-way variance (MacKinnon, Nielsen and Webb,
    arXiv:2406.08880). 0 for fewer than two scores.
    """

    def compute(scores: list[SampleScore]) -> float:
        values = [one.score.as_float() for one in scores]
        if len(values) < 2:
            return 0.0
        first, second = _clusters(scores, a), _clusters(scores, b)
        # scipy comes with it, and Inspect loads this module at every start.
        from steer_tasks.analysis.clustered import numbered, two_way_variance

        return math.sqrt(two_way_variance(np.array(values), numbered(first), numbered(second)))

    return compute


def _clusters(scores: Sequence[SampleScore], name: str) -> list[Hashable]:
    found: list[Hashable] = []
    for one in scores:
        if name not in (one.sample_metadata or {}):
            raise ValueError(f"two_way_stderr: sample {one.sample_id} has no metadata {name!r}; name another cluster")
        found.append((one.sample_metadata or {})[name])
    return found


@scorer(metrics=[mean(), two_way_stderr()])
def accuracy() -> Scorer:
    """1 where the parsed answer is the right letter, else 0; an unreadable answer is a miss."""

    async def score(state: TaskState, target: Target) -> Score:
        character = parse_answer(state.output.completion)
        return Score(value=float(is_right(character, target.text)), answer=character)

    return score


@scorer(metrics=[mean(), two_way_stderr()])
def answered() -> Scorer:
    """1 where the parsed answer is one of the letters A to D, else 0."""

    async def score(state: TaskState, target: Target) -> Score:
        character = parse_answer(state.output.completion)
        return Score(value=float(is_answered(character)), answer=character)

    return score


@scorer(metrics=[mean(), two_way_stderr()])
def behavior(judge: str | None = None, rubrics: str | None = None) -> Scorer:
    """How far the sample's behavior is there, 1 to 5, by a judge: the model bound to `grader`, else `judge`.

    `rubrics` is a folder. A reply that can't be read is asked for once more, then the score is missing.
    """
    rubric, turns = rubrics_of(rubrics).behavior, Turns()

    async def score(state: TaskState, target: Target) -> Score:
        return await graded(state, rubric, grader(judge), turns)

    return score


@scorer(metrics=[mean(), two_way_stderr()])
def coherence(judge: str | None = None, rubrics: str | None = None) -> Scorer:
    """How coherent the answer is, 1 to 5, by a judge; otherwise as `behavior`."""
    rubric, turns = rubrics_of(rubrics).coherence, Turns()

    async def score(state: TaskState, target: Target) -> Score:
        return await graded(state, rubric, grader(judge), turns)

    return score


@scorer(metrics={"*": [mean(), two_way_stderr()]})
def signals(reference_model: str | None = None, tagged: bool = True) -> Scorer:
    """The judge-free signals of the answer, one number each; NaN, with its reason in the metadata, where there is none.

    `reference_model` names the local model of the likelihood signal; by default the model under test, unsteered,
    where that is a local one. `tagged` says whether the task asks for tags.
    """

    async def score(state: TaskState, target: Target) -> Score:
        found = await measured(state, reference_model, tagged)
        values = {name: math.nan if value is None else value for name, value in found.as_dict().items()}
        return Score(value=values, metadata={"reasons": dict(found.reasons)})

    return score
