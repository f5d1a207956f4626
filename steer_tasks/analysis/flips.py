"""Tests of no difference that exchange answers: exact McNemar, exact sign flips, and Holm's adjustment.

Under the null hypothesis an arm's answer and its control's could have come the other way round, so each question's
difference could as well have had the other sign (Fisher, The Design of Experiments, 1935, section 21). Where a control
answer serves several behaviors, a question's differences flip together or not at all.
"""

import hashlib
import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from scipy.stats import binomtest

RANDOM_FLIPS = 9999
"""Flips that are drawn where differences have no common step; p is then at least 1 / 10,000."""

_STEPS = (1, 2, 3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 18, 20, 24, 30, 36, 40, 42, 48, 60)
"""Parts of a point that sums are looked for in: they come from averages over that many draws or repeats."""

_WIDEST = 200_000
"""Steps from the lowest sum to the highest up to which the sum's distribution is worked out exactly."""

Key = TypeVar("Key")


def mcnemar(differences: np.ndarray) -> float:
    """Exact two-sided p of differences that are -1, 0 or 1, one a question.

    McNemar, Psychometrika 12 (1947); exact as in Agresti, Categorical Data Analysis, 3rd ed., section 11.1.2: of the
    pairs that differ, either sign is as likely. 1 where none differs.
    """
    up, down = int((differences > 0).sum()), int((differences < 0).sum())
    return float(binomtest(up, up + down).pvalue) if up + down else 1.0


def sign_flips(sums: np.ndarray) -> float:
    """Two-sided p of the sums of independent units, such as questions, each flipped or not: P(|Σ ± s| ≥ |Σ s|).

    Exact where the sums are multiples of a common part of a point; elsewhere over `RANDOM_FLIPS` draws that are seeded
    by the sums, with the one observed counted (Phipson and Smyth, Statistical Applications in Genetics and Molecular
    Biology 9, 2010, article 39).
    """
    held = np.abs(sums[np.abs(sums) > 1e-9])
    observed = abs(float(sums.sum()))
    for parts in _STEPS:
        whole = np.rint(held * parts)
        if np.allclose(whole, held * parts, rtol=0, atol=1e-6) and 2 * whole.sum() < _WIDEST:
            return _exact(whole.astype(int), round(observed * parts))
    return _drawn(np.sort(held), observed)


def holm(p_values: Mapping[Key, float | None]) -> dict[Key, float | None]:
    """p adjusted for a family: Holm, Scandinavian Journal of Statistics 6 (1979). A test that has no p is no member."""
    known = sorted((p, place) for place, p in enumerate(p_values.values()) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[place] = least
    return dict(zip(p_values, adjusted, strict=True))


def _exact(sizes: np.ndarray, observed: int) -> float:
    # The distribution of Σ ± s on whole numbers from -Σ s, one unit after the other.
    chances = np.ones(1)
    for size in sizes.tolist():
        wider = np.zeros(len(chances) + 2 * size)
        wider[: len(chances)] += chances / 2
        wider[2 * size :] += chances / 2
        chances = wider
    total = len(chances) // 2
    beyond = np.abs(np.arange(-total, total + 1)) >= observed
    return min(1.0, float(chances[beyond].sum()))


def _drawn(sizes: np.ndarray, observed: float) -> float:
    seed = int.from_bytes(hashlib.sha256(sizes.tobytes()).digest()[:8], "big")
    drawn = np.random.default_rng(seed)
    least, count = observed - 1e-9 * max(1.0, math.fsum(sizes)), 0
    for start in range(0, RANDOM_FLIPS, 1000):
        signs = drawn.integers(0, 2, (min(1000, RANDOM_FLIPS - start), len(sizes)), dtype=np.int8) * 2 - 1
        count += int((np.abs(signs @ sizes) >= least).sum())
    return (count + 1) / (RANDOM_FLIPS + 1)
