"""Agreement between raters: the statistics against published and hand-worked numbers, and the files."""

import argparse
import csv
import io
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judges.agreement import (
    SCALE,
    agreement,
    alphas,
    confusion,
    kappas,
    krippendorff_alpha,
    resampled_tables,
    spearman,
    spearmans,
    weighted_kappa,
)
from model_adapters.errors import SteerError
from steer_tasks.agreement import (
    Ratings,
    add_agreement_options,
    agreement_text,
    rating,
    read_ratings,
    run_agreement,
)

# Four coders, twelve units: the example of Krippendorff's chapter on alpha.
KRIPPENDORFF = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
MAYBE = st.none() | st.sampled_from(SCALE)
PAIRS = st.lists(st.tuples(MAYBE, MAYBE), max_size=25)
RATED = st.lists(st.tuples(st.sampled_from(SCALE), st.sampled_from(SCALE)), min_size=1, max_size=25)
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


def sides(pairs):
    return [one for one, _ in pairs], [other for _, other in pairs]


def refusal(call, *arguments, **named) -> str:
    with pytest.raises(SteerError) as caught:
        call(*arguments, **named)
    return str(caught.value)


# Statistics


def test_kappa_worked_by_hand():
    """Quadratic kappa is 1 less the mean squared distance over the one that independent raters would have."""
    # Squared distances 0, 1, 0, 4 sum to 5. Each of a's 1 2 3 3 against each of b's 1 1 3 5: 20 + 12 + 12 + 12 = 56.
    assert weighted_kappa([1, 2, 3, 3], [1, 1, 3, 5]) == pytest.approx(1 - 4 * 5 / 56, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([], [], None),
        ([3], [4], None),
        ([3, None], [4, 4], None),
        ([3, 3, 3], [3, 3, 3], None),
        ([3, 3, 3], [4, 4, 4], 0.0),
        ([3, 3, 3], [2, 3, 4], 0.0),
        ([1, 2, 5], [1, 2, 5], 1.0),
        ([1, 5], [5, 1], -1.0),
    ],
)
def test_kappa_at_its_edges(a, b, expected):
    """Kappa is undefined for fewer than two items and where all ratings are one, 0 where one side is constant."""
    assert weighted_kappa(a, b) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2], [1, 2], None),
        ([1, 2, None], [1, 2, 3], None),
        ([2, 2, 2], [1, 2, 3], None),
        ([1, 2, 3], [2, 2, 2], None),
        ([1, 2, 4], [2, 3, 5], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        # Ranks 1 2.5 2.5 4 and 1 2 3 4, from their mean -1.5 0 0 1.5 and -1.5 -0.5 0.5 1.5.
        ([1, 3, 3, 5], [1, 2, 3, 4], 4.5 / math.sqrt(4.5 * 5)),
    ],
)
def test_spearman_worked_by_hand(a, b, expected):
    """Spearman takes mean ranks for ties, and is undefined for fewer than three items or a constant side."""
    assert spearman(a, b) == (None if expected is None else pytest.approx(expected, abs=1e-12))


def test_alpha_is_the_published_one():
    """The ordinal alpha of Krippendorff's example is 0.815."""
    assert round(krippendorff_alpha(KRIPPENDORFF), 3) == 0.815


def slow_alpha(ratings, categories):
    """Alpha as its definition reads, pair by pair of values; None where nothing varies."""
    units = [[one for one in unit if one is not None] for unit in zip(*ratings, strict=True)]
    units = [unit for unit in units if len(unit) >= 2]
    values = [value for unit in units for value in unit]

    def distance(one, other):
        low, high = sorted((one, other))
        between = sum(low <= value <= high for value in values)
        return (between - (values.count(low) + values.count(high)) / 2) ** 2 if low != high else 0

    expected = sum(distance(x, y) for i, x in enumerate(values) for j, y in enumerate(values) if i != j)
    if not expected:
        return None
    observed = 0
    for unit in units:
        within = sum(distance(x, y) for i, x in enumerate(unit) for j, y in enumerate(unit) if i != j)
        observed += within / (len(unit) - 1)
    return 1 - observed * (len(values) - 1) / expected


@given(st.lists(st.tuples(MAYBE, MAYBE, MAYBE), min_size=1, max_size=8))
def test_alpha_is_its_definition(units):
    """Alpha of three raters with gaps equals the sum over all pairs of values that defines it."""
    ratings = list(zip(*units, strict=True))
    expected = slow_alpha(ratings, SCALE)
    assert krippendorff_alpha(ratings) == (None if expected is None else pytest.approx(expected, abs=1e-9))


def test_alpha_without_variation():
    """Alpha is undefined where all ratings that can be paired are one, and where none can be."""
    assert krippendorff_alpha([[2, 2, 5], [2, 2, None]]) is None
    assert krippendorff_alpha([[1, None], [None, 2]]) is None
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([[1, 2], [1, 2]]) == 1


def test_confusion_counts_first_by_rows():
    """The first rater's category is the row, the second's the column, and gaps are in neither."""
    table = confusion([1, 1, 3, None, 2], [2, 2, 3, 1, None], (1, 2, 3))
    assert table.tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 1]]


@given(PAIRS, st.randoms(use_true_random=False))
def test_order_and_sides_make_no_difference(pairs, random):
    """Kappa, Spearman and alpha are the same with raters swapped, rows shuffled, and the scale turned around."""
    shuffled = random.sample(pairs, len(pairs))
    swapped = [(b, a) for a, b in pairs]
    turned = [tuple(None if one is None else 6 - one for one in pair) for pair in pairs]
    for statistic in (weighted_kappa, spearman, lambda a, b: krippendorff_alpha((a, b))):
        values = [statistic(*sides(one)) for one in (pairs, shuffled, swapped, turned)]
        if values[0] is None:
            assert values == [None] * 4
        else:
            assert values == pytest.approx([values[0]] * 4, abs=1e-9)
    assert confusion(*sides(swapped)).tolist() == confusion(*sides(pairs)).T.tolist()


# Intervals


@given(RATED)
def test_tables_give_what_the_lists_give(pairs):
    """The statistics of a table of counts, which resampling uses, are those of the ratings themselves."""
    a, b = sides(pairs)
    table = confusion(a, b)[None]
    direct = [weighted_kappa(a, b), spearman(a, b), krippendorff_alpha((a, b))]
    found = [float(one[0]) for one in (kappas(table), spearmans(table), alphas(table + table.swapaxes(1, 2)))]
    assert found == pytest.approx([math.nan if one is None else one for one in direct], abs=1e-9, nan_ok=True)


def noisy(size, seed=3):
    rng = np.random.default_rng(seed)
    a = rng.integers(1, 6, size)
    return a.tolist(), np.clip(a + rng.integers(-1, 2, size), 1, 5).tolist()


def test_intervals_hold_their_estimates_and_repeat():
    """On sixty items every interval surrounds its estimate; a seed gives it again, another seed another."""
    a, b = noisy(60)
    found = agreement(a, b)
    for one in (found.kappa, found.spearman, found.alpha):
        assert one.low < one.value < one.high <= 1
        assert one.undefined == 0
    assert agreement(a, b) == found
    assert agreement(a, b, seed=1).kappa.low != found.kappa.low
    turned = agreement(a[::-1], b[::-1])
    assert (turned.kappa.low, turned.kappa.high) == (found.kappa.low, found.kappa.high)


def test_intervals_are_those_of_drawn_rows():
    """The bounds agree with a bootstrap that draws rows one by one, up to the noise of drawing."""
    a, b = (np.array(one) for one in noisy(60))
    rng = np.random.default_rng(5)
    drawn = [rng.integers(0, 60, 60) for _ in range(600)]
    slow = np.percentile([weighted_kappa(a[rows].tolist(), b[rows].tolist()) for rows in drawn], [2.5, 97.5])
    found = agreement(a.tolist(), b.tolist()).kappa
    assert [found.low, found.high] == pytest.approx(slow, abs=0.02)


def test_clusters_are_drawn_whole():
    """Items that are copies of each other widen the interval as if each were there once, when they are one cluster."""
    a, b = noisy(40)
    once = agreement(a, b)
    copies = agreement(a * 5, b * 5, clusters=list(range(40)) * 5)
    assert (copies.items, copies.clusters) == (200, 40)
    assert copies.kappa.value == pytest.approx(once.kappa.value)
    assert (copies.kappa.low, copies.kappa.high) == pytest.approx((once.kappa.low, once.kappa.high))
    apart = agreement(a * 5, b * 5).kappa
    assert apart.high - apart.low < 0.6 * (once.kappa.high - once.kappa.low)


def test_resamples_keep_the_number_of_clusters():
    """A resample draws as many clusters as there are, each with all its counts."""
    tables = np.array([[[2, 0], [0, 0]], [[0, 0], [0, 2]], [[0, 2], [0, 0]]])
    drawn = resampled_tables(tables, 500, 0)
    assert drawn.shape == (500, 2, 2)
    assert set(drawn.sum((1, 2)).tolist()) == {6}
    assert set((drawn % 2).ravel().tolist()) == {0}
    assert abs(drawn.mean(0) - tables.sum(0)).max() < 0.2


def test_undefined_resamples_are_counted():
    """Two items that differ are one and the same in half of the resamples; that is counted, and gives no interval."""
    found = agreement([1, 5], [1, 5], resamples=1000)
    assert found.kappa.value == found.alpha.value == 1
    assert 430 < found.kappa.undefined < 570
    assert found.spearman == replace(found.spearman, value=None, low=None, high=None, undefined=1000)
    # Of nine equal items and one other, a resample lacks the other with probability 0.9^10 = 0.35.
    found = agreement([1] * 9 + [5], [1] * 9 + [5], resamples=1000)
    assert 300 < found.kappa.undefined < 400
    assert (found.kappa.low, found.kappa.high) == (1, 1)


def test_one_cluster_gives_no_interval():
    """Where everything is one cluster there is nothing to resample, and no interval."""
    found = agreement(*noisy(20), clusters=["q"] * 20, resamples=100)
    assert found.clusters == 1
    assert found.kappa.value is not None
    assert (found.kappa.low, found.kappa.high, found.kappa.undefined) == (None, None, 100)


def test_agreement_counts_what_is_missing():
    """Counts, shares and the mean difference are over the rows that both rated; gaps are counted for each rater."""
    found = agreement([1, 2, None, 4, None, 5], [2, 2, 3, None, None, 2], resamples=10)
    assert (found.rows, found.items, found.missing, found.clusters) == (6, 3, (2, 2), None)
    assert found.exact == pytest.approx(1 / 3)
    assert found.within_one == pytest.approx(2 / 3)
    assert found.bias == pytest.approx(-2 / 3)
    assert found.confusion == ((0, 1, 0, 0, 0), (0, 1, 0, 0, 0), (0,) * 5, (0,) * 5, (0, 1, 0, 0, 0))
    assert agreement([2, 1], [0, 1], categories=(0, 1, 2)).confusion == ((0, 0, 0), (0, 1, 0), (1, 0, 0))


@pytest.mark.parametrize(
    ("a", "b", "named", "said"),
    [
        ([1, 7], [1, 2], {}, "row 2: the first rater gave 7"),
        ([1, 2], [0, 2], {}, "row 1: the second rater gave 0"),
        ([1, 2], [1, 2, 3], {}, "2 ratings against 3"),
        ([1, None], [None, 2], {}, "no row is rated by both"),
        ([], [], {}, "no row is rated by both"),
        ([1, 2], [1, 2], {"clusters": ["a"]}, "1 clusters for 2 rows"),
        ([1, 2], [1, 2], {"categories": (2, 1)}, "lowest first"),
    ],
)
def test_agreement_refuses(a, b, named, said):
    """Ratings off the scale, rows that don't match and nothing in common are errors that say what and where."""
    assert said in refusal(agreement, a, b, **named)


def test_alpha_refuses():
    """Alpha names the rater and the row of a rating off the scale, and wants equally long rows."""
    assert "row 2: rater 3 gave 9" in refusal(krippendorff_alpha, [[1, 1], [1, 1], [1, 9]])
    assert "2 ratings against 1" in refusal(krippendorff_alpha, [[1, 1], [1]])


# Tables


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


TABLE = "item,human,judge,note\na,1,1,7\nb,2,,fine\nc,,3,\nd,4.0, 5 ,\n"


def test_a_csv_gives_its_two_rated_columns(tmp_path):
    """Of a CSV the only two columns of whole numbers 1 to 5 are taken, with empty cells as gaps."""
    found = read_ratings(written(tmp_path / "a.csv", "\ufeff" + TABLE))
    assert found == Ratings("human", "judge", (1, 2, None, 4), (1, None, 3, 5), None)


def test_columns_and_clusters_by_name(tmp_path):
    """Named columns are taken in the order named, one of them is enough where it leaves one, and clusters are told."""
    path = written(tmp_path / "a.csv", TABLE)
    turned = read_ratings(path, first="judge")
    assert (turned.first_name, turned.second_name) == ("judge", "human")
    assert read_ratings(path, second="human") == read_ratings(path, "judge", "human") == turned
    assert read_ratings(path, cluster="item").clusters == ("a", "b", "c", "d")
    path = written(tmp_path / "b.csv", "q,a,b\n1,2,3\n1,4,5\n")
    assert read_ratings(path, cluster="q") == Ratings("a", "b", (2, 4), (3, 5), ("1", "1"))


def test_jsonl_gives_the_same(tmp_path):
    """Of JSON lines the two keys are taken; null, NaN and an absent key are gaps, and empty lines are passed over."""
    rows = [{"q": 7, "a": 1, "b": 2.0}, {"q": 7, "a": None, "b": 5}, {"q": 8, "b": math.nan}, {"q": 8, "a": 3, "b": 3}]
    path = written(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n")
    assert read_ratings(path) == Ratings("a", "b", (1, None, None, 3), (2, 5, None, 3), None)
    assert read_ratings(path, cluster="q").clusters == (7, 7, 8, 8)


@IN_ONE_FOLDER
@given(pairs=PAIRS.filter(lambda pairs: all(any(one is not None for one in side) for side in sides(pairs))))
def test_tables_give_ratings_as_written(tmp_path, pairs):
    """Ratings written as CSV or as JSON lines are read back, gaps included, and in order."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("id", "a", "b"), *((f"x{i}", *pair) for i, pair in enumerate(pairs))])
    (tmp_path / "t.csv").write_bytes(text.getvalue().encode())
    written(tmp_path / "t.jsonl", "\n".join(json.dumps({"a": a, "b": b}) for a, b in pairs))
    expected = Ratings("a", "b", *map(tuple, sides(pairs)), None)
    assert read_ratings(tmp_path / "t.csv") == read_ratings(tmp_path / "t.jsonl") == expected


@given(st.text() | st.floats() | st.integers() | st.booleans() | st.lists(st.integers()))
def test_a_cell_is_a_whole_number_or_refused(cell):
    """Whatever a cell holds, it reads as a whole number equal to it, as missing, or not at all."""
    try:
        found = rating(cell)
    except ValueError:
        return
    if found is None:
        assert cell != cell or not cell.strip()
    else:
        assert not isinstance(cell, bool)
        assert float(found) == float(cell)


@pytest.mark.parametrize(
    ("name", "content", "named", "said"),
    [
        ("a.csv", "a,b,c\n1,2,3\n", {}, "as ratings could be meant a, b, c"),
        ("a.csv", "a,b\n1,x\n", {}, "it has a, b, and as ratings could be meant none"),
        ("a.csv", "a,b\n1,\n", {}, "could be meant none"),
        ("a.csv", "a,b\n1,2\n", {"first": "c"}, "has no column c; it has a, b"),
        ("a.csv", "a,b\n1,2\n", {"cluster": "c"}, "has no column c; it has a, b"),
        ("a.csv", "a,b\n1,2\n", {"first": "a", "second": "a"}, "both a; name two different ones"),
        ("a.csv", "a,b\n1,2\n2,2.5\n", {"first": "a", "second": "b"}, "row 2: b is '2.5'; ratings are whole"),
        ("a.csv", "a,b\n1,2\n3\n", {}, "row 2 of"),
        ("a.csv", "a,a\n1,2\n", {}, "two columns of one name"),
        ("a.csv", 'a,b\n"1,2\n', {}, "isn't well-formed CSV"),
        ("a.csv", "a,b\n", {}, "holds no rows"),
        ("a.csv", "", {}, "holds no rows"),
        ("a.csv", "q,a,b\n,1,2\n", {"cluster": "q"}, "row 1: q is ''"),
        ("a.jsonl", '{"a": 1, "b": 2}\n{"a"', {}, "line 2 of"),
        ("a.jsonl", "[1, 2]", {}, "holds list where an object"),
        ("a.jsonl", '{"a": true, "b": 2}', {"first": "a", "second": "b"}, "row 1: a is True"),
        ("a.jsonl", '{"a": 1, "b": 2, "q": null}', {"cluster": "q"}, "row 1: q is None"),
        ("a.json", "[]", {}, "can't be read as an Inspect log"),
        ("a.eval", "x", {}, "can't be read as an Inspect log"),
        ("a.txt", "x", {}, "in no known format of ratings"),
    ],
)
def test_a_table_is_refused(tmp_path, name, content, named, said):
    """What can't be read as two raters' ratings is an error that says what there is and where it went wrong."""
    assert said in refusal(read_ratings, written(tmp_path / name, content), **named)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.eval"])
def test_a_file_that_is_not_there(tmp_path, name):
    """A file that isn't there is an error with its name."""
    assert str(tmp_path / name) in refusal(read_ratings, tmp_path / name)


def test_text_in_another_encoding_is_refused(tmp_path):
    """A table that isn't UTF-8 is an error, no wrong text."""
    (tmp_path / "a.csv").write_bytes("a,b,größe\n1,2,3\n".encode("latin-1"))
    assert "isn't text in UTF-8" in refusal(read_ratings, tmp_path / "a.csv")


# Logs


def log_file(
    path: Path, scored, metadata=({"question_id": "q1"}, {"question_id": "q1"}, {"question_id": "q2"})
) -> Path:
    """An Inspect log whose samples have these scores, one mapping a sample (None: the sample broke)."""
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.scorer import Score

    samples = [
        EvalSample(
            id=number,
            epoch=1,
            input="Q?",
            target="A",
            scores=None if given is None else {name: Score(value=value) for name, value in given.items()},
            metadata=about,
        )
        for number, (given, about) in enumerate(zip(scored, metadata, strict=True), 1)
    ]
    spec = EvalSpec(
        created="2025-01-01T00:00:00+00:00",
        task="coherence",
        model="mockllm/model",
        dataset=EvalDataset(),
        config=EvalConfig(),
    )
    write_eval_log(EvalLog(eval=spec, samples=samples), str(path))
    return path


SCORED = (
    {"accuracy": 1.0, "coherence": 4.0, "coherence1": 5, "signals": {"words": 3.0}},
    {"accuracy": 0.0, "coherence": math.nan, "coherence1": 2.0},
    {"accuracy": 0.0, "coherence": 3.0},
)


@pytest.mark.parametrize("name", ["a.eval", "a.json"])
def test_a_log_gives_the_two_scores_that_begin_alike(tmp_path, name):
    """Of a log the judge's two scores are taken, NaN and absent ones as gaps, clustered by question."""
    found = read_ratings(log_file(tmp_path / name, SCORED))
    assert found == Ratings("coherence", "coherence1", (4, None, 3), (5, 2, None), ("q1", "q1", "q2"))


def test_a_log_by_names(tmp_path):
    """Named scores and another metadata key are taken; a sample that broke is missing for both raters."""
    about = tuple({"question_id": "q", "behavior": slug} for slug in ("funny", "sad", "sad"))
    path = log_file(tmp_path / "a.eval", (*SCORED[:2], None), about)
    found = read_ratings(path, first="coherence1", cluster="behavior")
    assert found == Ratings("coherence1", "coherence", (5, 2, None), (4, None, None), ("funny", "sad", "sad"))
    assert read_ratings(path, "coherence", "accuracy").second == (1, 0, None)


def test_a_log_without_questions_has_no_clusters(tmp_path):
    """Where a sample has no question id its log has no clusters by itself, and one that is asked for is an error."""
    path = log_file(tmp_path / "a.eval", SCORED, ({"question_id": "q"}, {}, {"question_id": "q"}))
    assert read_ratings(path).clusters is None
    assert "row 2: question_id is None" in refusal(read_ratings, path, cluster="question_id")


def test_a_log_is_refused(tmp_path):
    """A log without samples, with more than one pair of like names, or with scores that are no numbers says so."""
    assert "holds no samples" in refusal(read_ratings, log_file(tmp_path / "a.eval", (), ()))
    three = log_file(tmp_path / "b.eval", [{"coherence": 1, "coherence1": 2, "coherence2": 3}], [{}])
    assert "it has coherence, coherence1, coherence2" in refusal(read_ratings, three)
    path = log_file(tmp_path / "c.eval", SCORED)
    assert "has no score behavior; it has accuracy, coherence, coherence1, signals" in refusal(
        read_ratings, path, first="behavior"
    )
    assert "row 1: signals is {'words': 3.0}" in refusal(read_ratings, path, "coherence", "signals")


# What is printed


def test_text_says_all_of_it():
    """The table shows counts, statistics with intervals, the confusion matrix, and that few items are rough."""
    a, b = [1, 2, 3, 4, 5, 5, None], [1, 2, 3, 4, 5, 4, 2]
    found = agreement(a, b)
    lines = agreement_text(Ratings("human", "judge", tuple(a), tuple(b), None), found).splitlines()
    assert lines[:3] == ["first   human, 1 of 7 missing", "second  judge, 0 of 7 missing", "both    6 items"]
    assert lines[4].startswith(f"kappa, quadratic   {found.kappa.value:.3f}  95 %  {found.kappa.low:.3f} to ")
    assert [line.split()[0] for line in lines[4:7]] == ["kappa,", "Spearman", "alpha,"]
    assert [line.split()[-1] for line in lines[7:9]] == ["0.833", "1.000"]
    assert lines[9] == "mean difference   -0.167  second − first"
    assert [line.split() for line in lines[11:]] == [
        ["rows:", "first,", "columns:", "second"],
        list("12345"),
        list("110000"),
        list("201000"),
        list("300100"),
        list("400010"),
        list("500011"),
        [],
        ["The", "intervals", "rest", "on", "fewer", "than", "30", "items", "(6):", "they", "are", "rough."],
    ]


def test_text_of_many_items_and_of_undefined_ones():
    """Thirty items are not called rough, ten clusters are; what is undefined is said to be."""
    a, b = noisy(30)
    plain = Ratings("a", "b", tuple(a), tuple(b), None)
    assert "rough" not in agreement_text(plain, agreement(a, b))
    clusters = tuple(i % 10 for i in range(30))
    text = agreement_text(replace(plain, clusters=clusters), agreement(a, b, clusters=clusters))
    assert "both    30 items in 10 clusters" in text
    assert "fewer than 30 clusters (10)" in text
    text = agreement_text(plain, agreement([2, 2, 2], [2, 2, 2]))
    assert text.count("undefined: too few items, or no variation") == 3
    assert "no interval, 2000 of 2000 resamples undefined" in agreement_text(
        plain, agreement([1, 2], [1, 2], clusters="qq")
    )


def run(*words):
    parser = argparse.ArgumentParser()
    add_agreement_options(parser)
    run_agreement(parser.parse_args(list(map(str, words))))


def test_the_command_prints(tmp_path, capsys):
    """`steer agreement FILE` prints the table, and with --json the same numbers as JSON."""
    path = written(tmp_path / "a.csv", "q,a,b\nx,1,1\nx,2,\ny,3,4\nz,5,5\n")
    run(path, "--first", "b", "--second", "a", "--cluster", "q")
    found = agreement([1, None, 4, 5], [1, 2, 3, 5], clusters="xxyz")
    ratings = read_ratings(path, "b", "a", "q")
    assert capsys.readouterr().out == agreement_text(ratings, found) + "\n"
    run(path, "--first", "b", "--second", "a", "--cluster", "q", "--json")
    expected = {"first": "b", "second": "a", **asdict(found)}
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(expected))
