"""Formats of question files, and the digest of a row; all rows are made up."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_adapters.errors import SteerError
from steer_tasks.question_digests import committed, joint_digest, normalised, row_digest
from steer_tasks.question_rows import Row, csv_rows, json_rows, jsonl_rows, parquet_rows
from steer_tasks.question_sources import sample_rows
from tests.question_files import as_dict, refusal, write_json, write_parquet

MADE_UP = Row("sums", "How much is\n1 + 1?", ("0", "1", "2", "3"), 2, "row 1")
FOUR = st.lists(st.text(), min_size=4, max_size=4).map(tuple)
ROWS = st.lists(st.builds(Row, st.text(), st.text(), FOUR, st.integers(0, 3), st.just("")), max_size=4)
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)


def placeless(rows: list[Row]) -> list[Row]:
    return [replace(row, place="") for row in rows]


# Formats


@given(ROWS)
def test_json_gives_rows_as_written(rows: list[Row]) -> None:
    """Rows written as a JSON array or as JSON lines, escaped or not, are read back unchanged and in order."""
    for escaped in (True, False):
        items = [json.dumps(as_dict(row), ensure_ascii=escaped) for row in rows]
        assert placeless(json_rows(f"[{','.join(items)}]", "f")) == rows
        assert placeless(jsonl_rows("\n".join(items), "f")) == rows


@IN_ONE_FOLDER
@given(rows=ROWS.filter(bool))
def test_parquet_gives_rows_as_written(tmp_path: Path, rows: list[Row]) -> None:
    """Rows written as parquet are read back unchanged and in order."""
    assert placeless(parquet_rows(write_parquet(tmp_path / "dev.parquet", [as_dict(row) for row in rows]))) == rows


@IN_ONE_FOLDER
@given(rows=ROWS)
def test_csv_gives_rows_as_written(tmp_path: Path, rows: list[Row]) -> None:
    """Rows written as CSV are read back unchanged, quotes and line breaks included; the file names the subject."""
    rows = [replace(row, subject="sums") for row in rows]
    text = io.StringIO(newline="")
    csv.writer(text).writerows([row.question, *row.choices, "ABCD"[row.answer]] for row in rows)
    path = tmp_path / "sums_dev.csv"
    path.write_bytes(text.getvalue().encode())
    assert placeless(csv_rows(path)) == rows


@given(st.text() | st.binary().map(lambda raw: raw.decode("utf-8", "replace")))
def test_any_text_is_rows_or_refused(text: str) -> None:
    """Whatever stands in a JSON file, the answer is rows or a SteerError, never another exception."""
    for parse in (json_rows, jsonl_rows, sample_rows):
        try:
            assert all(isinstance(row, Row) for row in parse(text, "f"))
        except SteerError:
            continue


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answer": 4}, "answer 4 is neither"),
        ({"answer": True}, "answer True is neither"),
        ({"answer": "E"}, "answer 'E' is neither"),
        ({"answer": ""}, "answer '' is neither"),
        ({"answer": 1.0}, "answer 1.0 is neither"),
        ({"choices": ["1", "2", "3"]}, "choices must be a list of 4 texts"),
        ({"choices": [1, 2, 3, 4]}, "choices must be a list of 4 texts"),
        ({"choices": "ABCD"}, "choices must be a list of 4 texts"),
        ({"question": None}, "subject and question must be text"),
    ],
)
def test_a_malformed_row_is_refused_by_place(change: dict, problem: str) -> None:
    """A row with a wrong field is refused with the file's name, the row's number and what is wrong."""
    rows = [as_dict(MADE_UP), as_dict(MADE_UP) | change]
    with pytest.raises(SteerError, match=f"f.json, row 2: {re.escape(problem)}"):
        json_rows(json.dumps(rows), "f.json")


def test_an_answer_may_be_a_letter() -> None:
    """The answer may be an index from 0 or a letter of either case."""
    rows = [as_dict(MADE_UP) | {"answer": answer} for answer in (2, "C", " c ")]
    assert [row.answer for row in json_rows(json.dumps(rows), "f")] == [2, 2, 2]


def test_absent_fields_are_named() -> None:
    """A row without some of its fields is refused with their names."""
    with pytest.raises(SteerError, match="f, line 2: no choices and no answer"):
        jsonl_rows('\n{"subject": "s", "question": "q"}', "f")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("absent.json", None, "can't read the questions"),
        ("absent", None, "there is no file or folder"),
        ("notes.txt", b"hello", "in no known format"),
        ("dev.json", b"{}", "holds dict where a list of rows is expected"),
        ("dev.json", b"[", "isn't JSON"),
        ("dev.json", b"\xff\xfe", "can't read the questions"),
        ("dev.parquet", b"PAR1", "as parquet"),
        ("sums_dev.csv", b"", "give the folder"),
        ("folder/sums_dev.csv", b"q,1,2,3,4\n", "row 1 of .* has 5 cells"),
        ("folder/sums_dev.csv", b'q,1,2,3,4,"A', "isn't well-formed CSV"),
        ("folder/readme", b"", "holds no questions"),
    ],
)
def test_what_is_no_question_file_is_refused(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    """A given file or folder that can't be read is an error that names it, and no other source is tried."""
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    line = refusal("mmlu_171", path.parent if path.parent != tmp_path else path)
    assert re.search(problem, line)
    assert str(tmp_path) in line


def test_a_folder_with_two_json_files_is_refused(tmp_path: Path) -> None:
    """Of two JSON files in one folder none is taken by guess."""
    write_json(tmp_path / "a.json", [])
    write_json(tmp_path / "b.json", [])
    assert "holds 2 JSON files" in refusal("mmlu_171", tmp_path)


def test_a_sample_of_lm_eval_becomes_a_row() -> None:
    """A sample's choices are split off its text; one without a single answer from A to D is left out."""
    text = """
dataset_name: sums
fewshot_config:
  samples:
  - {question: "How (B)ig is 1 + 1?\\n\\n(A) 0 (B) 1\\n(C) 2 (D) 3", target: "Easy. The answer is (C)."}
  - {question: "Choose\\n(A) 0 (B) 1 (C) 2 (D) 3", target: "The answer is (A). No, the answer is (B)."}
  - {question: "Choose\\n(A) 0 (B) 1 (C) 2 (D) 3 (E) 4", target: "The answer is (E)."}
  - {question: "Choose", target: "The answer is (A)."}
"""
    expected = Row("sums", "How (B)ig is 1 + 1?", ("0", "1", "2", "3"), 2, "f, sample 1")
    assert sample_rows(text, "f") == [expected]


# Digests


def test_the_digest_is_of_canonical_json() -> None:
    """A row's digest is SHA-256 of its normalised texts as a compact JSON array, as documented."""
    row = Row("sums", "  Is π\u00a0\n\t> 3? ", ("a", " b", "c\n", ""), 1, "")
    expected = hashlib.sha256(rb'["sums","Is \u03c0 > 3?",["a","b","c",""],"B"]').hexdigest()
    assert row_digest(row) == expected


@given(st.lists(st.text("ab1\u00e9", min_size=1), min_size=1), st.lists(st.text(" \t\n\r\u00a0\u2003", min_size=1)))
def test_runs_of_white_space_do_not_matter(words: list[str], gaps: list[str]) -> None:
    """Two rows that differ in which white space stands between words, and around them, have one digest."""
    spaced = "".join(gap + word for gap, word in zip((gaps * len(words) or [" "] * len(words)), words, strict=False))
    assert normalised(spaced) == " ".join(words)
    assert row_digest(replace(MADE_UP, question=spaced)) == row_digest(replace(MADE_UP, question=" ".join(words)))


@pytest.mark.parametrize(
    "change",
    [
        {"subject": "sum"},
        {"question": "How much is 1 + 11?"},
        {"question": "How much is 1+ 1?"},
        {"choices": ("1", "0", "2", "3")},
        {"choices": ("0", "1", "2", "3.")},
        {"answer": 1},
    ],
)
def test_other_changes_change_the_digest(change: dict) -> None:
    """A change of subject, wording, order of choices or answer, or a space that joins or parts words, shows."""
    assert row_digest(replace(MADE_UP, **change)) != row_digest(MADE_UP)


def test_the_joint_digest_is_over_sorted_lines() -> None:
    """The joint digest is the first 16 digits of SHA-256 over `id digest` lines in ascending order."""
    expected = hashlib.sha256(b"a/0 11\na/1 22").hexdigest()[:16]
    assert joint_digest([("a/1", "22"), ("a/0", "11")]) == expected


def test_the_table_holds_digests_and_no_text(root: Path) -> None:
    """The committed table is 285 originals, five for each of 57 subjects, and 12 variants; ids and digests only."""
    header, *lines = (root / "steer_tasks/mmlu_dev_digests.csv").read_text("utf-8").splitlines()
    assert header == "id,kind,sha256"
    assert all(re.fullmatch(r"[a-z_]+/[0-4],(original|spacing|wording),[0-9a-f]{64}", line) for line in lines)
    assert Counter(line.split(",")[1] for line in lines) == {"original": 285, "spacing": 1, "wording": 11}
    ids = list(committed().originals)
    subjects = sorted({id_.partition("/")[0] for id_ in ids})
    assert len(subjects) == 57
    assert ids == [f"{subject}/{index}" for subject in subjects for index in range(5)]
    assert committed().ids("mmlu_171") == tuple(id_ for id_ in ids if id_[-1] in "012")
    assert committed().ids("mmlu_114") == tuple(id_ for id_ in ids if id_[-1] in "34")
