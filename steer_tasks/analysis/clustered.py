"""The mean of values that come in clusters, such as a question's differences under all behaviors, with its interval.

One way of clustering: Liang and Zeger, Biometrika 73 (1986), for a mean. Two ways at once: Cameron, Gelbach and Miller,
Journal of Business & Economic Statistics 29 (2011), section 2.2. Each term has the factor G / (G - 1), and t has the
smaller number of clusters minus one degrees of freedom (the same, section 2.3). The two-way variance is never taken to
be less than either one-way variance, a remedy that MacKinnon, Nielsen and Webb, arXiv:2406.08880, study.
Where there are two ways, the second is of few clusters, such as behaviors, and their means may be skewed: then the
interval reaches farther on the long side (skewness.py). What all that is worth was simulated: docs/statistics.md.
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from model_adapters.errors import SteerError
from steer_tasks.analysis.findings import Estimate
from steer_tasks.analysis.skewness import p_of, reaches

LEVEL = 0.95
"""Nominal coverage where none is asked for."""

_ROUNDING = 1e-12
"""A variance below this share of the values' mean square is rounding."""

Clusters = Mapping[str, Sequence[Hashable]]
"""Of each way of clustering its name and each value's cluster: `{"question": […], "behavior": […]}`; one or two."""


def clustered_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Clusters,
    level: float = LEVEL,
    span: float | None = None,
    step: float | None = None,
) -> Estimate:
    """The mean of `values` with a two-sided t interval that respects the clusters, the kind with few of them last.

    - `step` is the smallest difference between two scores, 1 for letters right or wrong as for points of a judge. Few
      clusters of a coarse scale often show less than they vary, so the variance is taken as if two of average size more
      were there, half a step above and half a step below the mean: plus step² / (2 · G · (G - 1)), G clusters of the
      kind named first. Agresti and Min, Statistics in Medicine 24 (2005), add half an answer to each cell of a table of
      matched pairs to the same end.
    - `span` is the farthest that a value can lie from another. It serves only where no value differs from another: then
      the interval is what may have gone unseen in that many clusters; without a span there is none.

    There is no interval either with fewer than two clusters of one kind. Raises SteerError for no values, for a value
    that isn't finite, and for a number of clusters' names that isn't that of the values.
    """
    held = np.asarray(values, dtype=float)
    codes = _codes(held, clusters)
    counts = {name: int(code.max()) + 1 for name, code in codes.items()}
    fewest = min(counts.values())
    value, ways = float(held.mean()), "clustered by " + " and ".join(counts)
    if fewest < 2:
        return Estimate(value, None, None, level, None, None, f"{ways}: one cluster, no interval", counts)
    if np.ptp(held) <= _ROUNDING * max(abs(value), 1):
        return _unvaried(value, level, span, ways, counts)
    variance = _variance_of_mean(held, *codes.values(), step=step)
    if variance <= _ROUNDING * float(np.mean(held * held)):
        said = f"{ways}: no variation between clusters, no interval"
        return Estimate(value, None, None, level, None, None, said, counts)
    stderr, df = math.sqrt(variance), float(fewest - 1)
    quantile = float(stdtrit(df, (1 + level) / 2))
    if len(codes) == 1:
        below, above, method = quantile, quantile, f"{ways}, t"
    else:
        below, above = reaches(quantile, _cluster_means(held, list(codes.values())[1]))
        method = f"{ways}, t, longer where skewed"
    return Estimate(value, value - below * stderr, value + above * stderr, level, stderr, df, method, counts)


def p_value(estimate: Estimate) -> float | None:
    """Two-sided p of the t test that the estimate's mean is 0; None where it has no standard error."""
    if estimate.stderr is None or estimate.df is None:
        return None
    return float(2 * stdtr(estimate.df, -abs(estimate.value) / estimate.stderr))


def skewed_p_value(estimate: Estimate, values: np.ndarray, few: np.ndarray) -> float | None:
    """The same where the interval is longer on the side to which means of clusters are skewed: both (n,)."""
    if estimate.stderr is None or estimate.df is None:
        return None
    return p_of(estimate.value / estimate.stderr, estimate.df, _cluster_means(values, numbered(few.tolist())))


def clustered_variance(values: Sequence[float] | np.ndarray, keys: Sequence[Hashable]) -> float:
    """Variance of the mean of n values in G clusters: G / (G - 1) · Σ (cluster sum of residuals)² / n².

    0 where there is one cluster only.
    """
    return _variance(np.asarray(values, dtype=float), numbered(keys))


def two_way_variance(values: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Variance of the mean of values (n,) clustered by two codes (n,) at once: the largest of three.

    These are V_first + V_second - V_both and either one-way variance.
    """
    return _largest(_variance(values, first), _variance(values, second), _variance(values, _joined(first, second)))


def numbered(keys: Sequence[Hashable]) -> np.ndarray:
    """A number from 0 for each key (n,), equal for equal keys, in order of appearance."""
    number: dict[Hashable, int] = {}
    return np.fromiter((number.setdefault(key, len(number)) for key in keys), dtype=np.intp, count=len(keys))


def _variance(values: np.ndarray, codes: np.ndarray) -> float:
    sums = np.bincount(codes, values - values.mean())
    groups = len(sums)
    return float(sums @ sums) / len(values) ** 2 * groups / (groups - 1) if groups > 1 else 0.0


def _cluster_means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    means: np.ndarray = np.bincount(codes, values) / np.bincount(codes)
    return means


def _variance_of_mean(
    values: np.ndarray, first: np.ndarray, second: np.ndarray | None = None, *, step: float | None
) -> float:
    groups = int(first.max()) + 1
    by_first = _variance(values, first) + (step or 0.0) ** 2 / (2 * groups * (groups - 1))
    if second is None:
        return by_first
    return _largest(by_first, _variance(values, second), _variance(values, _joined(first, second)))


def _largest(first: float, second: float, both: float) -> float:
    return max(first + second - both, first, second)


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.unique(first * (second.max() + 1) + second, return_inverse=True)[1]


def _unvaried(value: float, level: float, span: float | None, ways: str, counts: Mapping[str, int]) -> Estimate:
    """What may have gone unseen: Hanley and Lippman-Hand, Journal of the American Medical Association 249 (1983).

    If a share s of clusters differed, the chance to see none in G is (1 - s)^G. It is at least (1 - level) / 2 up to
    s = 1 - ((1 - level) / 2)^(1 / G), and each that differs moves the mean by at most `span`.
    """
    said = f"{ways}: no variation"
    if span is None:
        return Estimate(value, None, None, level, None, None, f"{said}, no interval", counts)
    reach = span * (1 - ((1 - level) / 2) ** (1 / min(counts.values())))
    return Estimate(value, value - reach, value + reach, level, None, None, f"{said}, rule of three", counts)


def _codes(values: np.ndarray, clusters: Clusters) -> dict[str, np.ndarray]:
    if len(clusters) not in (1, 2):
        raise SteerError(f"{len(clusters)} ways of clustering ({', '.join(clusters) or 'none'}); give one or two")
    if not len(values):
        raise SteerError("there are no values to take the mean of; check that scores are there")
    if not np.isfinite(values).all():
        raise SteerError("a value isn't a finite number; leave missing scores out")
    for name, keys in clusters.items():
        if len(keys) != len(values):
            raise SteerError(f"{len(keys)} clusters by {name} for {len(values)} values; give each value one")
    return {name: numbered(keys) for name, keys in clusters.items()}
