"""How far two judges agree, or a judge and people's labels: kappa, rank correlation, alpha, each with an interval.

Ratings are whole numbers on one scale, None where there is none. Plain numbers in and out; no harness here.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from model_adapters.errors import SteerError

SCALE = (1, 2, 3, 4, 5)
"""The scale of the package's rubrics."""

INTERVAL = (2.5, 97.5)
"""Percentiles of the resamples that bound a 95 % interval."""

_MISSING = -1

Rated = Sequence[int | None]


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval. `value` is None where it is undefined.

    `undefined` counts the resamples in which it was, which are left out. `low` and `high` are None where that is more
    than half of them, and where there is one item or cluster only, so that there is nothing to resample.
    """

    value: float | None
    low: float | None
    high: float | None
    undefined: int


@dataclass(frozen=True)
class Agreement:
    """Two raters compared over the `items` that both rated, of `rows` given.

    - `missing`: rows without a rating by the first, and by the second; a row may count in both.
    - `kappa` with quadratic weights, `spearman` and ordinal `alpha`, each at most 1.
    - `exact`, `within_one`: shares of items with equal ratings, and with ratings at most one point apart, in [0, 1].
    - `bias`: mean of second minus first, in points.
    - `confusion`: counts, a row per category of the first, a column per category of the second.
    - `clusters`: how many there are among the items, None where each item stands for itself.
    """

    rows: int
    items: int
    missing: tuple[int, int]
    clusters: int | None
    kappa: Estimate
    spearman: Estimate
    alpha: Estimate
    exact: float
    within_one: float
    bias: float
    confusion: tuple[tuple[int, ...], ...]
    categories: tuple[int, ...]
    resamples: int


def agreement(
    a: Rated,
    b: Rated,
    *,
    clusters: Sequence[Hashable] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    categories: Sequence[int] = SCALE,
) -> Agreement:
    """The first rater `a` against the second, `b`: rating by rating, in the same order.

    Intervals are percentile bootstraps (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13): items
    are drawn with replacement, or whole clusters where `clusters` names one for each row, such as the question. They
    depend on `seed`, not on the order of the rows. Raises SteerError for a rating outside `categories`, with its row
    (from 1), for unequal lengths, and where no row was rated by both.
    """
    first, second, both = _pairs(a, b, categories)
    if not both.any():
        raise SteerError("no row is rated by both raters; check that the two columns belong to the same rows")
    if clusters is None:
        units = np.arange(len(first))
    elif len(clusters) != len(a):
        raise SteerError(f"{len(clusters)} clusters for {len(a)} rows; give each row one")
    else:
        number: dict[Hashable, int] = {}
        kept = (name for name, is_kept in zip(clusters, both, strict=True) if is_kept)
        units = np.array([number.setdefault(name, len(number)) for name in kept])
    size = len(categories)
    tables = np.zeros((units.max() + 1, size, size), dtype=np.int64)
    np.add.at(tables, (units, first, second), 1)
    drawn = resampled_tables(tables, resamples, seed)
    points = np.asarray(categories)
    difference = points[second] - points[first]
    return Agreement(
        rows=len(a),
        items=len(first),
        missing=(sum(one is None for one in a), sum(one is None for one in b)),
        clusters=None if clusters is None else len(tables),
        kappa=_estimate(weighted_kappa(a, b, categories), kappas(drawn), resamples),
        spearman=_estimate(spearman(a, b), spearmans(drawn), resamples),
        alpha=_estimate(krippendorff_alpha((a, b), categories), alphas(drawn + drawn.swapaxes(1, 2)), resamples),
        exact=float(np.mean(difference == 0)),
        within_one=float(np.mean(abs(difference) <= 1)),
        bias=float(np.mean(difference)),
        confusion=tuple(tuple(row) for row in tables.sum(0).tolist()),
        categories=tuple(categories),
        resamples=resamples,
    )


def weighted_kappa(a: Rated, b: Rated, categories: Sequence[int] = SCALE) -> float | None:
    """Cohen's kappa with quadratic weights (Cohen, Psychological Bulletin 70, 1968, p. 213), at most 1; 0 is chance.

    A disagreement weighs by the square of the categories' distance, counted in places of `categories`. Over the items
    that both rated; None for fewer than two, and where both gave all of them one and the same rating.
    """
    first, second, _ = _pairs(a, b, categories)
    if len(first) < 2 or len({*first.tolist(), *second.tolist()}) == 1:
        return None
    return float(cohen_kappa_score(first, second, labels=list(range(len(categories))), weights="quadratic"))


def spearman(a: Rated, b: Rated) -> float | None:
    """Spearman's rank correlation with mean ranks for ties, in [-1, 1], over the items that both rated.

    None for fewer than three, and where one side is constant.
    """
    _same_length(a, b)
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    first, second = [x for x, _ in pairs], [y for _, y in pairs]
    if len(pairs) < 3 or len(set(first)) == 1 or len(set(second)) == 1:
        return None
    return float(spearmanr(first, second).statistic)


def krippendorff_alpha(ratings: Sequence[Rated], categories: Sequence[int] = SCALE) -> float | None:
    """Krippendorff's ordinal alpha of any number of raters (Content Analysis, 4th ed., 2019, ch. 12), at most 1.

    `ratings` has a row per rater and a column per item, None where a rater gave none. Items with fewer than two ratings
    can't be paired and are left out. None where what is left shows no variation, or nothing is left.
    """
    for row in ratings:
        _same_length(ratings[0], row)
    size = len(categories)
    counts = np.zeros((len(ratings[0]) if ratings else 0, size))
    for number, row in enumerate(ratings, 1):
        place = _positions(row, categories, f"rater {number}")
        items = np.flatnonzero(place != _MISSING)
        counts[items, place[items]] += 1
    counts = counts[counts.sum(1) >= 2]
    share = counts / (counts.sum(1, keepdims=True) - 1)
    coincidences = share.T @ counts - np.diag(share.sum(0))
    value = float(alphas(coincidences[None])[0])
    return None if np.isnan(value) else value


def confusion(a: Rated, b: Rated, categories: Sequence[int] = SCALE) -> np.ndarray:
    """Counts (categories, categories) of the items that both rated: rows the first rater, columns the second."""
    first, second, _ = _pairs(a, b, categories)
    table = np.zeros((len(categories), len(categories)), dtype=np.int64)
    np.add.at(table, (first, second), 1)
    return table


# Resampling. All three statistics of two raters are functions of their table of counts, so that thousands of resamples
# are a few array operations, where 2000 calls each of sklearn and scipy take eight seconds.


def resampled_tables(tables: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Counts (resamples, categories, categories) of units drawn with replacement, as many as there are.

    `tables` holds each unit's own counts, (units, categories, categories). With a single unit every draw would be the
    same, which says nothing: then there are no resamples.
    """
    units, size, _ = tables.shape
    if units < 2:
        return np.zeros((0, size, size), dtype=np.int64)
    # Units with equal counts are exchangeable. Drawing how often each kind comes is the same as drawing units, smaller,
    # and blind to the order of the rows.
    kinds, held = np.unique(tables.reshape(units, -1), axis=0, return_counts=True)
    times = np.random.default_rng(seed).multinomial(units, held / units, size=resamples)
    return (times @ kinds).reshape(resamples, size, size)


def kappas(tables: np.ndarray) -> np.ndarray:
    """`weighted_kappa` of each table of counts in (tables, categories, categories); NaN where it is undefined."""
    place = np.arange(tables.shape[1])
    weights = (place[:, None] - place) ** 2
    total = tables.sum((1, 2))
    observed = (tables * weights).sum((1, 2)) * total
    expected = np.einsum("ti,ij,tj->t", tables.sum(2), weights, tables.sum(1))
    return 1 - _ratio(observed, np.where(total < 2, 0, expected))


def spearmans(tables: np.ndarray) -> np.ndarray:
    """`spearman` of each table of counts in (tables, categories, categories); NaN where it is undefined."""
    first, second = tables.sum(2), tables.sum(1)
    total = first.sum(1)
    # A category's mean rank, less the mean of all ranks.
    ranks_first = np.cumsum(first, 1) - first / 2 - total[:, None] / 2
    ranks_second = np.cumsum(second, 1) - second / 2 - total[:, None] / 2
    both = np.einsum("tij,ti,tj->t", tables, ranks_first, ranks_second)
    spread = np.sqrt((first * ranks_first**2).sum(1) * (second * ranks_second**2).sum(1))
    return _ratio(both, np.where(total < 3, 0, spread))


def alphas(coincidences: np.ndarray) -> np.ndarray:
    """Ordinal alpha of each symmetric coincidence matrix in (matrices, categories, categories); NaN if undefined.

    Krippendorff's ordinal distance, the ratings from one category to another with half of either, is the difference of
    their mean ranks.
    """
    held = coincidences.sum(2)
    ranks = np.cumsum(held, 1) - held / 2
    distance = (ranks[:, :, None] - ranks[:, None, :]) ** 2
    observed = (coincidences * distance).sum((1, 2)) * (held.sum(1) - 1)
    expected = np.einsum("ti,tij,tj->t", held, distance, held)
    return 1 - _ratio(observed, expected)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)


def _estimate(value: float | None, drawn: np.ndarray, resamples: int) -> Estimate:
    known = drawn[~np.isnan(drawn)]
    undefined = resamples - len(known)
    if value is None or not len(known) or 2 * undefined > resamples:
        return Estimate(value, None, None, undefined)
    low, high = np.percentile(known, INTERVAL)
    return Estimate(value, float(low), float(high), undefined)


def _pairs(a: Rated, b: Rated, categories: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places in `categories` of the ratings of items that both rated, and which rows (all,) these are."""
    _same_length(a, b)
    first, second = _positions(a, categories, "the first rater"), _positions(b, categories, "the second rater")
    both = (first != _MISSING) & (second != _MISSING)
    return first[both], second[both], both


def _positions(ratings: Rated, categories: Sequence[int], rater: str) -> np.ndarray:
    if len(categories) < 2 or list(categories) != sorted(set(categories)):
        raise SteerError(f"categories are {list(categories)!r}; give at least two different ones, lowest first")
    places = {category: place for place, category in enumerate(categories)}
    for row, rating in enumerate(ratings, 1):
        if rating is not None and rating not in places:
            known = ", ".join(map(str, categories))
            raise SteerError(f"row {row}: {rater} gave {rating!r}; ratings are {known}, or missing")
    return np.array([_MISSING if one is None else places[one] for one in ratings], dtype=np.intp)


def _same_length(a: Rated, b: Rated) -> None:
    if len(a) != len(b):
        raise SteerError(
            f"{len(a)} ratings against {len(b)}; give both raters the same rows, None where one is missing"
        )
