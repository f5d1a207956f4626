"""The mean of few and skewed values: where the t interval ends too soon on the long side.

Hall, Journal of the Royal Statistical Society B 54 (1992): of the studentised mean T of n values with skewness g, and
W = T / √n, the cubic √n · (W + g·W²/3 + g²·W³/27 + g/(6n)) has the skewness taken off and keeps its order.

The skewness of ten values is itself so uncertain that Hall's long end can lie anywhere. It is let go half as far again
as t's: enough for 14 values as skewed as published effects of behaviors are, in simulation.
"""

import numpy as np
from scipy.special import stdtr

FARTHEST = 1.5
"""How far an end may lie from the mean, in t's reach."""


def reaches(quantile: float, values: np.ndarray) -> tuple[float, float]:
    """How many standard errors the mean's interval reaches below and above: `quantile` or more.

    `values` are the few values or cluster means whose skewness counts, `quantile` is t's.
    """
    g, n = skewness(values), len(values)
    below, above = _untransformed(quantile, g, n), -_untransformed(-quantile, g, n)
    return max(quantile, min(below, FARTHEST * quantile)), max(quantile, min(above, FARTHEST * quantile))


def p_of(studentised: float, df: float, values: np.ndarray) -> float:
    """Two-sided p of a studentised mean: least level at which 0 lies outside such an interval."""
    by_t, at_most = (float(2 * stdtr(df, -abs(studentised) / reach)) for reach in (1, FARTHEST))
    by_hall = float(2 * stdtr(df, -abs(_transformed(studentised, skewness(values), len(values)))))
    return max(by_t, min(by_hall, at_most))


def skewness(values: np.ndarray) -> float:
    """Sample skewness with its factor n² / ((n - 1)(n - 2)); 0 for fewer than three values, and where none differs."""
    n = len(values)
    centred = values - values.mean()
    spread = float(np.sqrt((centred @ centred) / (n - 1))) if n > 2 else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max(initial=0))):
        return 0.0
    return float(np.mean((centred / spread) ** 3)) * n * n / ((n - 1) * (n - 2))


def _transformed(studentised: float, g: float, n: int) -> float:
    """Hall's cubic of a studentised mean of n values with skewness g."""
    w = studentised / n**0.5
    return float(n**0.5 * (w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * n)))


def _untransformed(value: float, g: float, n: int) -> float:
    """The studentised mean whose cubic is `value`."""
    if abs(g) < 1e-6:
        return value
    inner = 1 + g * (value / n**0.5 - g / (6 * n))
    return float(n**0.5 * 3 / g * (np.cbrt(inner) - 1))
