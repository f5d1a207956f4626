"""Each arm's own level of each outcome."""

from collections import Counter
from collections.abc import Sequence

from steer_tasks.analysis.clustered import clustered_mean
from steer_tasks.analysis.effects import within
from steer_tasks.analysis.findings import Mean, Target
from steer_tasks.analysis.outcomes import SCALES
from steer_tasks.analysis.pairing import value_of
from steer_tasks.analysis.record import Record

UNSAID = "no reason given"


def mean(arm: str, records: Sequence[Record], outcome: str, target: Target, level: float) -> Mean:
    """The mean over all scored answers of an arm, repeats and draws among them, and why others have no score."""
    held = [(one, value) for one in records if (value := value_of(one, outcome)) is not None]
    reasons = Counter(one.missing.get(outcome, UNSAID) for one in records if value_of(one, outcome) is None)
    estimate = None
    if held:
        scale = SCALES[outcome]
        clusters = {"question": [one.question for one, _ in held]}
        if target == "random" and len({one.behavior for one, _ in held}) > 1:
            clusters["behavior"] = [one.behavior or "" for one, _ in held]
        values = [value for _, value in held]
        estimate = within(clustered_mean(values, clusters, level, scale.span, scale.step), scale.worst, scale.best)
    return Mean(arm, outcome, estimate, len(held), len(records) - len(held), dict(reasons))
