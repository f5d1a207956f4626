"""Labels: every layout they are published in, and a search that needs no network."""

import csv
import gzip
import io
import json
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_adapters.errors import SteerError
from model_adapters.features import Labels, measured_factor, read_labels

THREE = {3: "jokes and puns", 0: "tax law", 12: "seafaring"}


def written(tmp_path, name, text):
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def as_csv(rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["index", "description"])
    writer.writerows(rows)
    return out.getvalue()


VECTORS = [{"metadata": {}, "vectors": [{"index": i, "labels": [t], "split": "val"} for i, t in THREE.items()]}]
LAYOUTS = {
    "object.json": json.dumps({str(i): t for i, t in THREE.items()}),
    "vectors.json": json.dumps(VECTORS),
    "vectors.json.gz": json.dumps(VECTORS),
    "rows.json": json.dumps([{"index_in_sae": i, "label": t} for i, t in THREE.items()]),
    "rows.jsonl": "\n".join(json.dumps({"index": i, "description": t}) for i, t in THREE.items()) + "\n\n",
    "rows.jsonl.gz": "\n".join(json.dumps({"feature": str(i), "explanation": t}) for i, t in THREE.items()),
    "rows.csv": as_csv(THREE.items()),
    "bom.csv": "\ufeff" + as_csv(THREE.items()),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(tmp_path, name):
    """Objects, lists of vectors, rows as JSON, JSONL and CSV, packed or not, give the same labels."""
    found = read_labels(written(tmp_path, name, LAYOUTS[name]), 13)
    assert dict(found) == THREE
    assert list(found) == [0, 3, 12]
    assert (found.of(3), found.of(4), len(found)) == ("jokes and puns", "feature 4", 3)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00"), max_size=20)


@settings(max_examples=60)
@given(st.dictionaries(st.integers(0, 70_000), TEXTS, max_size=6), st.sampled_from(["json", "jsonl", "csv"]))
def test_labels_survive_writing_and_reading(tmp_path_factory, labels, kind):
    """Any texts by any indices come back as they were, from each format."""
    made = {
        "json": json.dumps({str(i): t for i, t in labels.items()}),
        "jsonl": "\n".join(json.dumps({"index": i, "label": t}) for i, t in labels.items()),
        "csv": as_csv(labels.items()),
    }[kind]
    path = written(tmp_path_factory.mktemp("labels"), f"x.{kind}", made)
    assert dict(read_labels(path)) == labels


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x.json", "{", "not JSON"),
        ("x.json", "5", "labels are an object or a list, not int"),
        ("x.json", '["a"]', "a row is str"),
        ("x.json", '[{"index": 1}]', "a row has index; it needs index and label"),
        ("x.json", '{"a": "b"}', "'a' is no index"),
        ("x.json", '{"-1": "b"}', "'-1' is no index"),
        ("x.json", '{"\u0661": "b"}', "is no index"),
        ("x.json", '{"1": 2}', "the label of feature 1 is 2"),
        ("x.json", '[{"index": 1, "labels": ["a", "b"]}]', "it is a text, or a list of one"),
        ("x.json", '[{"index": 1, "label": "a"}, {"index": 1, "label": "b"}]', "feature 1 has two labels"),
        ("x.json", '{"99": "b"}', "feature 99 is out of range; the dictionary has 50"),
        ("x.jsonl", "{}\n", "it needs index and label"),
        ("x.csv", "a,b\n1,2\n", "a row has a, b; it needs index and label"),
    ],
)
def test_broken_labels_are_refused_by_name(tmp_path, name, text, said):
    """Other layouts, indices that are none, and a feature with two labels are named."""
    with pytest.raises(SteerError) as caught:
        read_labels(written(tmp_path, name, text), 50)
    assert said in str(caught.value)


def test_a_missing_file_and_one_that_is_not_packed_are_refused(tmp_path):
    """A file that isn't there, and a .gz that is none, name the file."""
    (tmp_path / "x.json.gz").write_bytes(b"plain")
    for name in ("none.json", "x.json.gz"):
        with pytest.raises(SteerError, match=name):
            read_labels(tmp_path / name)


LABELS = Labels({1: "telling jokes", 2: "tax law and income", 5: "a joke about lawyers", 9: "sailing ships at sea"})


def test_search_finds_words_and_parts_of_words():
    """The best label comes first; another form of a word is found; what fits nothing isn't."""
    assert [index for index, _ in LABELS.search("jokes", 5)] == [1, 5]
    assert LABELS.search("ship", 5)[0][0] == 9
    assert LABELS.search("zzz", 5) == []
    assert LABELS.search("", 5) == []
    assert LABELS.search("jokes", 1) == LABELS.search("jokes", 5)[:1]
    assert all(0 < score <= 1 for _, score in LABELS.search("law", 5))
    assert Labels({}).search("anything", 5) == []


def test_rerank_orders_what_it_is_given():
    """All given features come back, best first, equal ones in the order given and unlabelled ones with score 0."""
    found = LABELS.rerank("law", [9, 77, 5, 2], 10)
    assert [index for index, _ in found] == [2, 5, 9, 77]
    assert [score for _, score in found][2:] == [0.0, 0.0]
    assert LABELS.rerank("law", [9, 77, 5, 2], 2) == found[:2]
    assert Labels({}).rerank("law", [3, 1], 5) == [(3, 0.0), (1, 0.0)]


@given(st.text(string.printable, max_size=20))
def test_a_search_is_the_same_every_time(query):
    """Any query gives the same answer from a fresh object."""
    assert LABELS.search(query, 4) == Labels(dict(LABELS)).search(query, 4)


def test_the_factor_is_the_median_of_strong_activations():
    """Over active features, the median of the 0.99 quantile of what they show where they are active, by hand."""
    table = np.zeros((200, 4))
    table[:101, 0] = np.arange(101)  # active at 1 … 100: the quantile is 1 + 0.99 * 99
    table[:3, 1] = [2.0, 2.0, 2.0]
    table[0, 2] = 500.0
    assert measured_factor(table) == pytest.approx(99.01)
    with pytest.raises(SteerError, match="no feature is active"):
        measured_factor(np.zeros((5, 2)))
