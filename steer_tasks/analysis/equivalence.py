"""Whether a loss is shown to lie within a budget, shown to exceed it, or neither."""

from typing import Literal

import numpy as np

from steer_tasks.analysis.cells import Pairs
from steer_tasks.analysis.detectable import smallest_detectable
from steer_tasks.analysis.effects import difference
from steer_tasks.analysis.findings import Equivalence, Target
from steer_tasks.analysis.outcomes import SCALES

Verdict = Literal["within", "beyond", "undecided", "not decidable"]


def equivalence(
    arm: str, outcome: str, budget: float, scored: Pairs, target: Target, level: float
) -> Equivalence | None:
    """The arm's loss, control minus arm, held against `budget`; None for no pairs.

    One of Schuirmann's two one-sided tests (Journal of Pharmacokinetics and Biopharmaceutics 15, 1987): that of a loss
    at least as large as the budget, at 1 - level. `within` when the upper limit at `level` is below the budget,
    `beyond` when the lower limit is above it. Where neither is shown it is `undecided`, or `not decidable` when a
    design like this one, at its noise, would show an arm without any loss to be within the budget in less than 80% of
    studies. With fewer than two behaviors the target is `fixed`.
    """
    if not len(scored.difference):
        return None
    target = target if len(np.unique(scored.arm.behavior)) > 1 else "fixed"
    # The limits of a two-sided interval at 2 · level - 1 are the one-sided ones at `level`.
    estimate = difference(scored, target, SCALES[outcome], 2 * level - 1)
    detectable = smallest_detectable(estimate, level, one_sided=True)
    upper = None if estimate.low is None else -estimate.low
    lower = None if estimate.high is None else -estimate.high
    verdict = _verdict(budget, lower, upper, detectable)
    return Equivalence(arm, outcome, budget, -estimate.value, upper, verdict, detectable)


def _verdict(budget: float, lower: float | None, upper: float | None, detectable: float | None) -> Verdict:
    if upper is not None and upper < budget:
        return "within"
    if lower is not None and lower > budget:
        return "beyond"
    return "undecided" if detectable is not None and detectable <= budget else "not decidable"
