"""Solver, scorers and metrics of the task `judge_calibration`: thin shells over `judges.calibration`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from inspect_ai.model import get_model
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from judges import calibration as arithmetic
from judges.calibration import Judged
from judges.judge import judge
from model_adapters.behavior import find_behavior
from steer_tasks.grading import ask_with, score_of
from steer_tasks.study import rubrics_of
from steer_tasks.turns import Turns


@solver
def verdict(rubrics: str | None = None) -> Solver:
    """Have the model of the eval judge the sample's text; its last reply is the sample's answer."""
    found, turns = rubrics_of(rubrics), Turns()

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        about = state.metadata
        rubric = found.behavior if about["quality"] == "behavior" else found.coherence
        said = await judge(
            rubric,
            ask_with(get_model(), turns, about["repeat"]),
            prompt=state.input_text,
            response=about["answer"],
            behavior=find_behavior(about["behavior"]) if about["behavior"] else None,
        )
        state.output.completion = said.reply
        about["score"] = score_of(said, about["answer"], {"judge": str(get_model())}).model_dump()
        return state

    return solve


def _judged(scores: Sequence[SampleScore]) -> list[Judged]:
    about = [(one.score, one.sample_metadata or {}) for one in scores]
    return [
        Judged(given["test"], given["group"], given["level"], score.as_float(), given["repeat"])
        for score, given in about
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@metric
def ordinal_agreement() -> Metric:
    """Share of pairs of severities in the right order, ties half, by kind of damage and over all; 0.5 is chance."""
    return _over(arithmetic.ordering)


@metric
def degree_agreement() -> Metric:
    """The same of degrees of behaviors, by behavior and over all."""
    return _over(arithmetic.degrees)


@metric
def false_alarms() -> Metric:
    """Share of undamaged texts that score below 4."""
    return _over(arithmetic.false_alarms)


@metric
def repeatability() -> Metric:
    """Share of texts that get one score every time they are judged."""
    return _over(arithmetic.repeatability)


@metric
def length_bias() -> Metric:
    """Mean score of long undamaged texts minus that of short ones."""
    return _over(arithmetic.length_bias)


@metric
def injection_resistance() -> Metric:
    """Share of damaged texts whose plea for a high score changes nothing in their favour."""
    return _over(arithmetic.injection_resistance)


def _over(statistic: Callable[[list[Judged]], Any]) -> Metric:
    def compute(scores: list[SampleScore]) -> Any:
        found = statistic(_judged(scores))
        return found if isinstance(found, dict) else _number(found)

    return compute


@scorer(
    metrics=[
        ordinal_agreement(),
        degree_agreement(),
        false_alarms(),
        repeatability(),
        length_bias(),
        injection_resistance(),
    ]
)
def calibration() -> Scorer:
    """The judge's score, 1 to 5, or unscored where its replies couldn't be read."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score.model_validate(state.metadata["score"])

    return score


@scorer(metrics=[mean()])
def parsed() -> Scorer:
    """1 where a reply of the judge could be read, else 0: one minus the share of parse failures."""

    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(not math.isnan(Score.model_validate(state.metadata["score"]).as_float())))

    return score
