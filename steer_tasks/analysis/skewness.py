"""The mean of few and skewed values: where the t interval ends too soon on the long side.

Hall, Journal of the Royal Statistical Society B 54 (1992): of the studentised mean T of n values with skewness g, and
W = T / √n, the cubic √n · (W + g·W²/3 + g²·W³/27 + g/(6n)) has the skewness taken off and keeps its order.
"""

import numpy as np


def skewness(values: np.ndarray) -> float:
    """Sample skewness with its factor n² / ((n - 1)(n - 2)); 0 for fewer than three values, and where none differs."""
    n = len(values)
    centred = values - values.mean()
    spread = float(np.sqrt((centred @ centred) / (n - 1))) if n > 2 else 0.0
    if spread <= 1e-12 * max(1.0, float(np.abs(values).max(initial=0))):
        return 0.0
    return float(np.mean((centred / spread) ** 3)) * n * n / ((n - 1) * (n - 2))


def transformed(studentised: float, g: float, n: int) -> float:
    """Hall's cubic of a studentised mean of n values with skewness g."""
    w = studentised / n**0.5
    return float(n**0.5 * (w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * n)))


def untransformed(value: float, g: float, n: int) -> float:
    """The studentised mean whose cubic is `value`."""
    if abs(g) < 1e-6:
        return value
    inner = 1 + g * (value / n**0.5 - g / (6 * n))
    return float(n**0.5 * 3 / g * (np.cbrt(inner) - 1))
