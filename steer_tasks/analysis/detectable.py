"""How large an effect must be for a design to find it."""

from functools import lru_cache

from scipy.optimize import brentq
from scipy.stats import nct, t

from steer_tasks.analysis.findings import Estimate

POWER = 0.8
"""Chance that an effect of the smallest detectable size is found."""


def smallest_detectable(estimate: Estimate, level: float, one_sided: bool = False) -> float | None:
    """Smallest true effect that a t test at `level` finds with 80% power, in the estimate's unit.

    The standard error times the noncentrality at which the noncentral t passes the limit with that chance (Cohen,
    Statistical Power Analysis, 2nd ed., 1988, chapter 2; Bloom, Evaluation Review 19, 1995). It is the design's, not
    that of the effect found. One-sided for a loss held against a budget, whose true value is none. None where the
    estimate has no standard error.
    """
    if estimate.stderr is None or estimate.df is None:
        return None
    return estimate.stderr * _noncentrality(estimate.df, level if one_sided else (1 + level) / 2)


@lru_cache(maxsize=256)
def _noncentrality(df: float, quantile: float) -> float:
    limit = float(t.ppf(quantile, df))
    return float(brentq(lambda shift: nct.sf(limit, df, shift) - POWER, 0, 10 * limit + 10))
