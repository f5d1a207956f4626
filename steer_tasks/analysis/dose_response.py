"""Sweet spot and cliff of a sweep, both by confidence limits and not by points.

A dose is *safe* where every outcome that has a budget was shown to lose no more than it: the upper confidence limit of
the loss lies within. The *sweet spot* is the safe dose with the largest gain of behavior, if that gain's interval lies
above zero. The *cliff* is where some loss was shown to be beyond its budget (the lower confidence limit of the loss
lies above it) at that dose and at every larger one tried: it lies between the last dose before and that one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from steer_tasks.analysis.families import Family
from steer_tasks.analysis.findings import Equivalence, Findings
from steer_tasks.analysis.pooled import equivalence, pooled
from steer_tasks.analysis.wording import COSTS, GAIN, change, listed, outcome


@dataclass(frozen=True)
class Reading:
    """What a sweep shows. A dose is None where there is none, and the sentence says why."""

    sweet_spot: float | None
    cliff: float | None
    """The smallest dose at and beyond which a loss was shown to exceed its budget."""
    before_cliff: float | None
    """The largest dose below it that was tried; 0 is the control."""
    sentences: tuple[str, str]
    """On the sweet spot, and on the cliff."""


def read_sweep(findings: Findings, family: Family) -> Reading:
    """Sweet spot and cliff of one family of arms."""
    budgeted = [field for field in COSTS if any(one.outcome == field for one in findings.equivalence)]
    spot, about_spot = _sweet_spot(findings, family, budgeted)
    cliff, before, about_cliff = _cliff(findings, family, budgeted)
    return Reading(spot, cliff, before, (about_spot, about_cliff))


def _tests(findings: Findings, arm: str, budgeted: Sequence[str]) -> list[Equivalence]:
    found = (equivalence(findings, arm, field) for field in budgeted)
    return [one for one in found if one is not None]


def _sweet_spot(findings: Findings, family: Family, budgeted: Sequence[str]) -> tuple[float | None, str]:
    gains = {dose: pooled(findings, arm, GAIN) for dose, arm in family.arms}
    if not any(gains.values()):
        return None, "No sweet spot: behavior has no scores."
    if not budgeted:
        return None, "No sweet spot: no loss has a budget."
    words = listed([outcome(field).label for field in budgeted])
    safe = []
    for dose, arm in family.arms:
        tests = _tests(findings, arm, budgeted)
        if len(tests) == len(budgeted) and all(one.verdict == "within" for one in tests):
            safe.append(dose)
    if not safe:
        return None, f"No sweet spot: at no {family.unit} was the loss of {words} shown to lie within its budget."
    candidates = [(gain.estimate.value, dose, gain) for dose in safe if (gain := gains[dose]) is not None]
    if not candidates:
        return None, f"No sweet spot: behavior has no scores where the loss of {words} is within its budget."
    _, dose, gain = max(candidates, key=lambda one: (one[0], -one[1]))
    if gain.estimate.low is None or gain.estimate.low <= 0:
        return None, (
            f"No sweet spot: the best {family.unit} whose loss of {words} is within its budget is {dose:g}, "
            f"and its gain of behavior can't be told from none ({change(gain)})."
        )
    return dose, (
        f"Sweet spot: {family.unit} {dose:g}, the largest gain of behavior ({change(gain)}) "
        f"among those whose loss of {words} was shown to lie within its budget."
    )


def _cliff(findings: Findings, family: Family, budgeted: Sequence[str]) -> tuple[float | None, float | None, str]:
    beyond = {
        dose: [one.outcome for one in _tests(findings, arm, budgeted) if one.verdict == "beyond"]
        for dose, arm in family.arms
    }
    doses = [dose for dose, _ in family.arms]
    cliff = None
    for dose in reversed(doses):
        if not beyond[dose]:
            break
        cliff = dose
    if not budgeted:
        return None, None, "No cliff can be told: no loss has a budget."
    if cliff is None:
        said = f"No cliff: at the largest {family.unit} ({doses[-1]:g}) no loss was shown beyond its budget."
        return None, None, said
    before = max((dose for dose in doses if dose < cliff), default=0.0)
    lost = listed([outcome(field).label for field in beyond[cliff]])
    said = f"Cliff: between {family.unit} {before:g} and {cliff:g}, where the loss of {lost} is beyond its budget"
    return cliff, before, said + (" and stays so." if cliff < doses[-1] else ".")
