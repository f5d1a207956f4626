"""Arms at equal KL: the size at which a method moves the model as far as a target does. Imports scipy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.optimize import brentq

from model_adapters.errors import Refused, SteerError

NEAR = 0.01
"""How far a matched KL may lie from its target, as a share of it."""

MOST = 12
"""Trials between two sizes around the target."""

FARTHEST = 1e6
"""Times the target: what a KL above that counts as, an infinite one too."""

LEAST_KL = 1e-12
"""Nats per token that count as none: rounding of the distributions is larger."""


@dataclass(frozen=True)
class Target:
    """What KL is matched to: a steering file's, or a number of nats per token; one of them is None."""

    file: str | None
    value: float | None


@dataclass(frozen=True)
class Matched:
    """The size whose KL came nearest to the target's, in nats per token, after `trials` trials."""

    size: float
    kl: float
    target: float
    trials: int

    @property
    def is_near(self) -> bool:
        """Whether it is within 1%."""
        return abs(self.kl / self.target - 1) <= NEAR


def parse_target(text: str) -> Target:
    """`kl:FILE` or `kl=NUMBER`. Raises SteerError for anything else."""
    if text.startswith("kl:") and len(text) > 3:
        return Target(text[3:], None)
    name, _, given = text.partition("=")
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if name != "kl" or not 0 < value < math.inf:
        raise SteerError(f"--match {text}: write kl:FILE for a steering's KL, or kl=NUMBER in nats per token above 0")
    return Target(None, value)


def match_kl(kl_at: Callable[[float], float], target: float, low: float, high: float, name: str) -> Matched:
    """The size of method `name` whose KL equals `target`: doubled from `low` up to `high` until it is passed, then by
    Brent's root on logarithms, where KL is nearly straight, as it grows with the square of small sizes.

    A KL that isn't finite is past every target. Raises Refused where KL stays below the target up to `high`, and where
    `low` is above it already.
    """
    tried: dict[float, float] = {}

    def kl(size: float) -> float:
        if size not in tried:
            found = kl_at(size)
            tried[size] = found if math.isfinite(found) else math.inf
        return tried[size]

    def nearest() -> Matched:
        size = min(tried, key=lambda one: abs(tried[one] / target - 1))
        return Matched(size, tried[size], target, len(tried))

    if kl(low) >= target:
        if nearest().is_near:
            return nearest()
        raise Refused(f"{name} is at {kl(low):.3g} nats/token at {low:g}, over {target:.3g}; begin lower with --doses")
    inside = outside = low
    while kl(outside) < target:
        if outside >= high:
            raise Refused(
                f"{name} reaches at most {max(tried.values()):.3g} nats/token up to {high:g}, below {target:.3g}; "
                "end higher with --doses LOW:HIGH, or take a smaller target"
            )
        inside, outside = outside, min(outside * 2, high)

    def gap(log_size: float) -> float:
        size = next((one for one in (inside, outside) if math.log(one) == log_size), math.exp(log_size))
        # Near enough is a root, so that no trial is spent on digits that don't count.
        found = math.log(min(max(kl(size), LEAST_KL), target * FARTHEST) / target)
        return 0.0 if abs(found) < NEAR / 2 else found

    brentq(gap, math.log(inside), math.log(outside), xtol=1e-6, rtol=1e-9, maxiter=MOST, disp=False)
    return nearest()
