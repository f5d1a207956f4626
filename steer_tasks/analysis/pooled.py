"""Looking things up in findings: pooled effects, effects of one behavior, means, budgets."""

from steer_tasks.analysis.findings import Effect, Equivalence, Findings, Mean
from steer_tasks.analysis.wording import GAIN, ordered


def pooled(findings: Findings, arm: str, field: str) -> Effect | None:
    """An arm's effect over all behaviors, for the target that was asked for."""
    found = (one for one in findings.effects if one.behavior is None)
    return next((one for one in found if (one.arm, one.outcome) == (arm, field)), None)


def of_behavior(findings: Findings, arm: str, field: str, behavior: str) -> Effect | None:
    """An arm's effect on one behavior."""
    found = (one for one in findings.effects if one.behavior == behavior)
    return next((one for one in found if (one.arm, one.outcome) == (arm, field)), None)


def mean(findings: Findings, arm: str, field: str) -> Mean | None:
    """An arm's own level."""
    return next((one for one in findings.means if (one.arm, one.outcome) == (arm, field)), None)


def equivalence(findings: Findings, arm: str, field: str) -> Equivalence | None:
    """Whether an arm's loss lies within the budget."""
    return next((one for one in findings.equivalence if (one.arm, one.outcome) == (arm, field)), None)


def budget(findings: Findings, field: str) -> float | None:
    """The budget of an outcome's loss."""
    return next((one.budget for one in findings.equivalence if one.outcome == field), None)


def measured(findings: Findings) -> tuple[str, ...]:
    """Outcomes that some arm has a score of, the four scores first."""
    return ordered([one.outcome for one in findings.means if one.estimate is not None])


def steered(findings: Findings) -> tuple[str, ...]:
    """All arms but the control."""
    return tuple(arm for arm in findings.arms if arm != findings.control)


def front(points: dict[str, tuple[float, float]]) -> tuple[str, ...]:
    """Of (loss, gain) by arm those that no other beats: none gains as much for less, nor more for as little.

    In order of loss.
    """

    def beaten(arm: str) -> bool:
        loss, gain = points[arm]
        return any(x <= loss and y >= gain and (x, y) != (loss, gain) for x, y in points.values())

    return tuple(sorted((arm for arm in points if not beaten(arm)), key=lambda arm: points[arm]))


def trade(findings: Findings, cost: str) -> dict[str, tuple[Effect, Effect]]:
    """Effects on an outcome that may be lost and on the behavior, of every arm that has both."""
    found = {arm: (pooled(findings, arm, cost), pooled(findings, arm, GAIN)) for arm in steered(findings)}
    return {arm: (lost, gained) for arm, (lost, gained) in found.items() if lost is not None and gained is not None}
