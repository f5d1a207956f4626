"""The scores that conclusions are drawn about: their scales."""

from collections.abc import Mapping
from dataclasses import dataclass

from steer_tasks.analysis.record import SCORES


@dataclass(frozen=True)
class Scale:
    """From the worst score to the best, and the smallest difference between two."""

    worst: float
    best: float
    step: float = 1.0

    @property
    def span(self) -> float:
        """Distance from the worst score to the best."""
        return self.best - self.worst


SCALES: Mapping[str, Scale] = dict(zip(SCORES, (Scale(0, 1), Scale(0, 1), Scale(1, 5), Scale(1, 5)), strict=True))
"""Of each outcome. More is better in each; a behavior that isn't wanted is scored for being there all the same."""

BUDGETS: Mapping[str, float] = {"accuracy": 0.05, "coherence_score": 0.25}
"""The loss that is put up with by default: five points of a hundred, a quarter of a judge's point."""
