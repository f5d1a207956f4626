"""When an effect is called a change: the rule that verdicts, and what is said of the other target, go by."""

from typing import Literal

from steer_tasks.analysis.findings import Effect
from steer_tasks.analysis.wording import alpha

Called = Literal["more", "less", "small", "unclear"]
"""A change, a change smaller than the design finds reliably, or none that can be told from chance."""


def call(effect: Effect) -> Called:
    """Whether an effect is a change.

    It is where its interval excludes zero, its adjusted p-value lies below the level, and it isn't smaller than what
    the design finds reliably.
    """
    low, high = effect.estimate.low, effect.estimate.high
    p = effect.p if effect.p_adjusted is None else effect.p_adjusted
    excluded = low is not None and high is not None and (low > 0 or high < 0)
    if not excluded or (p is not None and p >= alpha(effect.estimate.level)):
        return "unclear"
    if effect.detectable is not None and abs(effect.estimate.value) < effect.detectable:
        return "small"
    return "more" if effect.estimate.value > 0 else "less"
