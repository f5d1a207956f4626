"""How much a steering loses, with one-sided limits over the items that were asked. Imports scipy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy.special import stdtrit

from judges.reply import HIGHEST, LOWEST
from steer_tasks.analysis.clustered import clustered_mean
from steer_tasks.analysis.detectable import smallest_detectable
from steer_tasks.analysis.findings import Estimate
from steer_tasks.calibrate.outcomes import Outcome

LEVEL = 0.95
"""Of every one-sided limit."""

Scores = Mapping[str, float | None]
"""A score for each item by its id; None where it is missing."""


@dataclass(frozen=True)
class Differences:
    """What each item lost, by its id, and how many scores were missing on either side.

    A missing verdict of a judge is set to the end of the scale that makes the steering look worst. Any other missing
    score of a steered answer, and one that is no finite number, makes `is_usable` False; a missing one of the control
    leaves the item out.
    """

    values: Mapping[str, float]
    missing: int = 0
    is_usable: bool = True

    def reversed(self) -> "Differences":
        """What each item gained."""
        return Differences({item: -value for item, value in self.values.items()}, self.missing, self.is_usable)


@dataclass(frozen=True)
class Bounded:
    """A mean with its one-sided limits; None where fewer than two items are there, or a score is missing for good.

    `detectable` is the least budget that a steering without any loss is certified for in 80% of such trials.
    """

    mean: float | None
    lower: float | None
    upper: float | None
    detectable: float | None
    items: int
    missing: int


def losses(outcome: Outcome, control: Scores, steered: Scores) -> Differences:
    """Control minus steered where more is better, item by item; positive is a loss. Items are those of `steered`."""
    values: dict[str, float] = {}
    missing, is_usable = 0, True
    for item, after in steered.items():
        before = control[item]
        missing += (before is None) + (after is None)
        if outcome.is_judged:
            values[item] = (HIGHEST if before is None else before) - (LOWEST if after is None else after)
        elif after is None or not math.isfinite(after):
            is_usable = False
        elif before is not None:
            values[item] = outcome.gain * (before - after)
    return Differences(values, missing, is_usable)


def bounded(found: Differences, step: float | None, level: float = LEVEL) -> Bounded:
    """The mean of differences and its limits, by Student's t, clustered by item.

    Where scores come in steps, equal pairs don't prove a loss of exactly nothing. So one imagined item that loses a
    whole step is added for upper limits, and one that gains it for lower ones: 57 equal pairs then have the upper limit
    0.046 of a step, where the exact binomial one is 0.051 and the score interval's (Tango, Statistics in Medicine 17
    (1998), 891) is 0.045.
    """
    values = found.values
    mean = math.fsum(values.values()) / len(values) if values else None
    if mean is None or len(values) < 2 or not found.is_usable:
        return Bounded(mean, None, None, None, len(values), found.missing)
    up, down = _mean(values, step), _mean(values, None if step is None else -step)
    reach = float(stdtrit(len(values) - 1, level))
    return Bounded(
        mean=mean,
        lower=down.value - reach * (down.stderr or 0.0),
        upper=up.value + reach * (up.stderr or 0.0),
        detectable=up.value - mean + (smallest_detectable(up, LEVEL, one_sided=True) or 0.0),
        items=len(values),
        missing=found.missing,
    )


def least_budget(step: float, items: int) -> float:
    """`detectable` of a stepped loss when not one of `items` items changes: no design of that many certifies less."""
    found = bounded(Differences({str(item): 0.0 for item in range(items)}), step).detectable
    assert found is not None
    return found


def _mean(values: Mapping[str, float], imagined: float | None) -> Estimate:
    """The mean, an imagined item included where there is one. Where nothing varies it has no standard error."""
    held = {**values} if imagined is None else {**values, "imagined": imagined}
    return clustered_mean(list(held.values()), {"item": list(held)})
