"""The judge of a calibration: an Inspect model, asked outside of any eval. Imports inspect_ai when it is opened."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from judges.judge import Ask, judge
from judges.rubric import Rubric, Rubrics
from model_adapters.behavior import Behavior
from model_adapters.errors import Refused
from steer_tasks.study import rubrics_of

UNDER_WAY = 16
"""Answers judged at once; Inspect's own connection limits hold beside it."""


class Judging:
    """Scores of answers by a judge. `missing` counts why scores are missing; a judge never fails a calibration."""

    def __init__(self, name: str, ask: Ask, behavior: Behavior, rubrics: Rubrics | None = None) -> None:
        self.name, self.behavior = name, behavior
        self.rubrics = rubrics or rubrics_of(None)
        self.missing: Counter[str] = Counter()
        self._ask, self._limit = ask, asyncio.Semaphore(UNDER_WAY)

    async def score(self, quality: str, prompt: str, answer: str) -> float | None:
        """The judge's 1 to 5 of one answer; None where there is none."""
        rubric: Rubric = self.rubrics.behavior if quality == "behavior" else self.rubrics.coherence
        behavior = self.behavior if quality == "behavior" else None
        async with self._limit:
            try:
                said = await judge(rubric, self._ask, prompt=prompt, response=answer, behavior=behavior)
            except Exception as problem:  # whatever a provider raises: the model's answers were paid for
                self.missing[f"grader_failed: {type(problem).__name__}"] += 1
                return None
        if said.score is None:
            self.missing[str(said.problem)] += 1
            return None
        return float(said.score)


def check_judge_name(judge_name: str, models: Sequence[str]) -> None:
    """Raise Refused where the judge is the model under test, whichever provider runs it."""
    if judge_name in models or judge_name.partition("/")[2] in models:
        raise Refused(f"--judge {judge_name} is the model under test; name another")


async def open_judge(name: str, behavior: Behavior) -> Judging:
    """The judge, asked once about a fixed answer. Raises SteerError where it can't be reached or read."""
    from inspect_ai.model import get_model

    from steer_tasks.grading import ask_with, check_judge
    from steer_tasks.turns import Turns

    await check_judge(name)
    return Judging(name, ask_with(get_model(name), Turns()), behavior)
