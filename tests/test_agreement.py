"""Agreement between raters, and the command that prints it."""

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.agreement import CATEGORIES, agreement, krippendorff_alpha, spearman, weighted_kappa
from model_adapters.errors import SteerError
from steer_tasks.agreement import agreement_text, read_ratings
from steer_tasks.cli import main

N = math.nan
# Krippendorff's own example of four observers and twelve units ("Computing Krippendorff's Alpha-Reliability", 2011).
PUBLISHED = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, N, N, N],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, N, 3],
    [N, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, N],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, N],
]
PAIRS = st.lists(st.tuples(st.sampled_from(CATEGORIES), st.sampled_from(CATEGORIES)), min_size=2, max_size=30)


def sides(pairs):
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def slow_alpha(ratings):
    """Ordinal alpha by its definition: observed over expected disagreement, every pair of values one by one."""
    units = [[v for v in column if not math.isnan(v)] for column in np.array(ratings, dtype=float).T]
    units = [values for values in units if len(values) > 1]
    values = [value for unit in units for value in unit]
    counts = {c: values.count(c) for c in CATEGORIES}

    def distance(c, k):
        low, high = min(c, k), max(c, k)
        return (sum(counts[g] for g in CATEGORIES if low <= g <= high) - (counts[c] + counts[k]) / 2) ** 2

    observed = sum(
        distance(a, b) / (len(unit) - 1)
        for unit in units
        for i, a in enumerate(unit)
        for j, b in enumerate(unit)
        if i != j
    )
    n = len(values)
    expected = sum(distance(a, b) for i, a in enumerate(values) for j, b in enumerate(values) if i != j) / (n - 1)
    return 1 - observed / expected if expected else None


def test_alpha_of_the_published_example():
    """The ordinal alpha of Krippendorff's example is 0.815, as published."""
    assert krippendorff_alpha(np.array(PUBLISHED)) == pytest.approx(0.815, abs=5e-4)


@given(PAIRS)
def test_alpha_is_its_definition(pairs):
    """The fast alpha equals the sum over all pairs of values, and is undefined with it."""
    ratings = np.stack(sides(pairs)).astype(float)
    found, expected = krippendorff_alpha(ratings), slow_alpha(ratings)
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected)


def test_kappa_by_hand():
    """Ratings (1,1), (1,3), (3,3), (3,1) disagree as chance does: kappa 0; in reverse order it is -1."""
    a, b = sides([(1, 1), (1, 3), (3, 3), (3, 1)])
    assert weighted_kappa(a, b) == pytest.approx(0.0)
    assert weighted_kappa(*sides([(1, 5), (5, 1)])) == pytest.approx(-1.0)
    assert weighted_kappa(*sides([(1, 1), (5, 5), (3, 3)])) == pytest.approx(1.0)


def test_kappa_weighs_by_the_square():
    """Observed 4/16 over expected: ratings (1,1), (5,3), kappa 1 - (0.25/2)/((0+.25+1+.25)/4)."""
    assert weighted_kappa(*sides([(1, 1), (5, 3)])) == pytest.approx(1 - (0.25 / 2) / (1.5 / 4))


@given(PAIRS)
def test_agreement_is_symmetric(pairs):
    """Kappa, rank correlation and alpha don't care who is first; the bias changes its sign."""
    a, b = sides(pairs)
    one = agreement(a.tolist(), b.tolist(), resamples=2)
    two = agreement(b.tolist(), a.tolist(), resamples=2)
    for name in ("kappa", "spearman", "alpha"):
        assert getattr(one, name).value == pytest.approx(getattr(two, name).value)
    assert one.bias == -two.bias
    assert np.array_equal(np.array(one.confusion), np.array(two.confusion).T)
    assert np.sum(one.confusion) == len(pairs)


def test_what_is_undefined_is_none():
    """One rating only has no correlation, and no kappa where both raters give the same."""
    same = np.array([3, 3, 3])
    assert weighted_kappa(same, same) is None
    assert spearman(same, np.array([1, 2, 3])) is None
    assert krippendorff_alpha(np.stack([same, same])) is None
    found = agreement([3, 3, 3], [3, 3, 3])
    assert (found.kappa.value, found.kappa.low, found.exact) == (None, None, 1.0)


def test_missing_ratings_are_counted():
    """An item that one rater left out enters no statistic, and is counted for that rater."""
    found = agreement([1, None, 3, 4, None], [1, 2, None, 5, None], resamples=10)
    assert (found.items, found.missing) == (2, (2, 2))
    assert (found.exact, found.within_one, found.bias) == (0.5, 1.0, 0.5)


def test_intervals_repeat_and_clusters_widen_them():
    """The same seed gives the same interval, which holds the estimate; items that go together make it wider."""
    generator = np.random.default_rng(1)
    first = generator.integers(1, 6, size=40)
    second = np.clip(first + generator.integers(-1, 2, size=40), 1, 5)
    a, b = np.repeat(first, 5).tolist(), np.repeat(second, 5).tolist()
    plain, again = agreement(a, b, resamples=400), agreement(a, b, resamples=400)
    assert plain == again
    assert plain.kappa.low < plain.kappa.value < plain.kappa.high
    grouped = agreement(a, b, clusters=np.repeat(np.arange(40), 5).tolist(), resamples=400)
    assert grouped.units == 40
    assert grouped.kappa.high - grouped.kappa.low > plain.kappa.high - plain.kappa.low


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([1, 6], [1, 2], "first rater's rating in row 2 is 6"),
        ([1], [1, 2], "1 and 2 items"),
        ([None, 1], [1, None], "no item was rated by both"),
        ([], [], "no item"),
    ],
)
def test_bad_ratings_are_refused(first, second, said):
    """Ratings outside the scale, unequal lists and lists without a common item are one-line errors."""
    with pytest.raises(SteerError, match=said):
        agreement(first, second)


def written(path, rows):
    with path.open("w", newline="") as file:
        csv.DictWriter(file, rows[0].keys()).writeheader()
        csv.DictWriter(file, rows[0].keys()).writerows(rows)
    return path


def test_the_two_columns_of_ratings_are_found(tmp_path):
    """In a CSV the two columns that hold ratings are the raters; an empty cell is a missing rating."""
    rows = [
        {"id": "a", "human": 1, "judge": 2},
        {"id": "b", "human": "", "judge": 4},
        {"id": "c", "human": 5, "judge": 5},
    ]
    found = read_ratings(written(tmp_path / "r.csv", rows))
    assert (found.first_name, found.first, found.second) == ("human", (1, None, 5), (2, 4, 5))
    assert read_ratings(tmp_path / "r.csv", cluster="id").clusters == ("a", "b", "c")


def test_jsonl_gives_the_same(tmp_path):
    """One JSON object a line is read as a row of a table, null as missing."""
    path = tmp_path / "r.jsonl"
    path.write_text('{"human": 1, "judge": 2}\n\n{"human": null, "judge": 4}\n')
    assert read_ratings(path).first == (1, None)


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ([{"a": 1, "b": 2, "c": 3}], [], "doesn't hold exactly two raters"),
        ([{"a": 1, "b": 2}], ["--first", "a"], "give both"),
        ([{"a": 1, "b": 9}], ["--first", "a", "--second", "b"], "'9' is no rating"),
        ([{"a": 1, "b": 2}], ["--cluster", "q"], "no 'q'"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, capsys, rows, words, said):
    """What can't be read ends with exit code 2 and one line that says why."""
    assert main(["agreement", str(written(tmp_path / "r.csv", rows)), *words]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_the_command_prints_a_table_and_json(tmp_path, capsys):
    """The table says what was compared and how rough it is; `--json` holds the same numbers."""
    path = written(tmp_path / "r.csv", [{"human": i, "judge": min(i + 1, 5)} for i in (1, 2, 3, 4, 5)])
    assert main(["agreement", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "human and judge: 5 items rated by both; missing 0 and 0" in printed
    assert "judge minus human: +0.800" in printed
    assert "too few" in printed
    assert main(["agreement", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bias"] == 0.8


def test_undefined_statistics_are_said(tmp_path):
    """Nothing is divided by zero: constant ratings print `undefined`."""
    path = written(tmp_path / "r.csv", [{"human": 3, "judge": 3}] * 4)
    ratings = read_ratings(path)
    assert "undefined" in agreement_text(ratings, agreement(ratings.first, ratings.second))
