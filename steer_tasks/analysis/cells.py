"""Paired answers as arrays: a cell is one behavior, question and draw of an arm, beside its control's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer_tasks.analysis.outcomes import Scale
from steer_tasks.analysis.pairing import OF_THE_BEHAVIOR, Answer, Pair, value_of


@dataclass(frozen=True)
class Cells:
    """One arm's cells on one outcome, repeats of a cell side by side; NaN where a score is missing or isn't there.

    `behavior`, `question` and `draw` are (cells,), `scores` is (cells, repeats), `there` says which of these have a
    record.
    """

    behavior: np.ndarray
    question: np.ndarray
    draw: np.ndarray
    scores: np.ndarray
    there: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over the scored repeats of each cell (cells,), NaN where there is none."""
        return _mean(self.scores)

    def filled(self, value: float) -> np.ndarray:
        """Mean over all repeats of each cell (cells,), every missing score taken as `value`."""
        return _mean(np.where(self.there & np.isnan(self.scores), value, self.scores))

    @property
    def missing(self) -> int:
        """Records without a score."""
        return int((self.there & np.isnan(self.scores)).sum())

    def at(self, places: np.ndarray) -> "Cells":
        """The cells at `places`, a mask or indices."""
        return Cells(
            self.behavior[places], self.question[places], self.draw[places], self.scores[places], self.there[places]
        )


@dataclass(frozen=True)
class Pairs:
    """Cells of an arm, each beside its control's: two `Cells` of the same length and order."""

    arm: Cells
    control: Cells

    @property
    def difference(self) -> np.ndarray:
        """Arm minus control of each cell (cells,), NaN where either is missing."""
        return self.arm.mean - self.control.mean

    @property
    def scored(self) -> "Pairs":
        """The pairs that have both scores."""
        return self.at(~np.isnan(self.difference))

    @property
    def half_scored(self) -> int:
        """Pairs of which one side has a score only."""
        return int((np.isnan(self.arm.mean) != np.isnan(self.control.mean)).sum())

    def at(self, places: np.ndarray) -> "Pairs":
        """The pairs at `places`, a mask or indices."""
        return Pairs(self.arm.at(places), self.control.at(places))

    def bounds(self, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
        """Each cell's least and greatest difference (cells,) that its missing scores allow."""
        worst, best = scale.worst, scale.best
        return (
            self.arm.filled(worst) - self.control.filled(best),
            self.arm.filled(best) - self.control.filled(worst),
        )


class Numbers:
    """A number for each behavior and each question, the same for all arms. No behavior is one too: the empty one."""

    def __init__(self) -> None:
        self._behaviors: dict[str, int] = {}
        self._questions: dict[str, int] = {}

    def behavior(self, name: str | None) -> int:
        """The behavior's number."""
        return self._behaviors.setdefault(name or "", len(self._behaviors))

    def question(self, text: str) -> int:
        """The question's number."""
        return self._questions.setdefault(text, len(self._questions))

    def cells(self, answers: Sequence[Answer], outcome: str) -> Cells:
        """Answers as cells, in their order."""
        widest = max((len(one.repeats) for one in answers), default=1)
        scores = np.full((len(answers), widest), np.nan)
        there = np.zeros(scores.shape, dtype=bool)
        keys = np.zeros((len(answers), 3), dtype=np.intp)
        for place, one in enumerate(answers):
            keys[place] = self.behavior(one.behavior), self.question(one.question), one.draw
            held = [value_of(record, outcome) for record in one.repeats]
            scores[place, : len(held)] = [np.nan if value is None else value for value in held]
            there[place, : len(held)] = True
        return Cells(keys[:, 0], keys[:, 1], keys[:, 2], scores, there)

    def pairs(self, pairs: Sequence[Pair], outcome: str) -> Pairs:
        """Those of the pairs that can be compared on the outcome."""
        if outcome in OF_THE_BEHAVIOR:
            pairs = [pair for pair in pairs if pair.shares_behavior]
        treated, control = [pair.treated for pair in pairs], [pair.control for pair in pairs]
        return Pairs(self.cells(treated, outcome), self.cells(control, outcome))


def over_draws(values: np.ndarray, behavior: np.ndarray, question: np.ndarray) -> tuple[np.ndarray, ...]:
    """Values (cells,) averaged over the draws of each behavior and question: means, behaviors, questions."""
    width = int(question.max(initial=0)) + 1
    keys, place = np.unique(behavior * width + question, return_inverse=True)
    means = np.bincount(place, values, len(keys)) / np.bincount(place, minlength=len(keys))
    return means, keys // width, keys % width


def _mean(scores: np.ndarray) -> np.ndarray:
    known = ~np.isnan(scores)
    count = known.sum(1)
    total = np.where(known, scores, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(scores), np.nan), where=count > 0)
