"""Records as arrays, and an arm's answers beside the control's: a cell is one behavior, question and draw."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from steer_tasks.analysis.outcomes import Scale
from steer_tasks.analysis.record import Record

NEEDS_BEHAVIOR = "behavior_score"
"""The outcome that has no meaning without a behavior, so that it isn't compared with a control that has none."""


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


def cells_of(records: Sequence[Record], outcome: str, questions: dict[str, int], behaviors: dict[str, int]) -> Cells:
    """The records of one arm as cells, in order of appearance; the dictionaries number what they know or meet."""
    place: dict[tuple[int, int, int], int] = {}
    held: Counter[int] = Counter()
    rows = []
    for one in records:
        behavior, question = one.pair
        key = behaviors.setdefault(behavior, len(behaviors)), questions.setdefault(question, len(questions)), one.draw
        cell = place.setdefault(key, len(place))
        score = getattr(one, outcome)
        rows.append((cell, held[cell], np.nan if score is None else float(score)))
        held[cell] += 1
    keys = np.array(list(place), dtype=np.intp).reshape(-1, 3)
    scores = np.full((len(place), max(held.values(), default=1)), np.nan)
    there = np.zeros(scores.shape, dtype=bool)
    for cell, repeat, score in rows:
        scores[cell, repeat], there[cell, repeat] = score, True
    return Cells(keys[:, 0], keys[:, 1], keys[:, 2], scores, there)


def paired(arm: Cells, control: Cells, outcome: str, no_behavior: int | None) -> Pairs:
    """The cells of `arm` that the control has an answer for, beside it.

    A control without behavior (numbered `no_behavior`) stands for all behaviors, but not for a score of behavior. Of
    several draws of the control the first is taken.
    """
    at: dict[tuple[int, int], int] = {}
    for place, key in enumerate(zip(control.behavior.tolist(), control.question.tolist(), strict=True)):
        at.setdefault(key, place)
    found = []
    for behavior, question in zip(arm.behavior.tolist(), arm.question.tolist(), strict=True):
        place = at.get((behavior, question), -1)
        if place < 0 and no_behavior is not None and outcome != NEEDS_BEHAVIOR:
            place = at.get((no_behavior, question), -1)
        found.append(place)
    places = np.array(found, dtype=np.intp)
    kept = places >= 0
    return Pairs(arm.at(kept), control.at(places[kept]))


def over_draws(values: np.ndarray, behavior: np.ndarray, question: np.ndarray) -> tuple[np.ndarray, ...]:
    """Values (cells,) averaged over the draws of each behavior and question: means, behaviors, questions."""
    keys, place = np.unique(np.stack([behavior, question], 1), axis=0, return_inverse=True)
    place = place.reshape(-1)
    means = np.bincount(place, values, len(keys)) / np.bincount(place, minlength=len(keys))
    return means, keys[:, 0], keys[:, 1]


def _mean(scores: np.ndarray) -> np.ndarray:
    known = ~np.isnan(scores)
    count = known.sum(1)
    total = np.where(known, scores, 0.0).sum(1)
    return np.divide(total, count, out=np.full(len(scores), np.nan), where=count > 0)
