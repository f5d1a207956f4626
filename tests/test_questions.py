"""The two sets of questions: which they are, from files of any layout, and what is refused."""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from steer_tasks.question_digests import committed, joint_digest
from steer_tasks.questions import Question, load_questions
from tests.question_files import refusal, write_csv, write_json, write_parquet


@pytest.fixture
def dev(mmlu_dev: Path) -> list[dict]:
    return json.loads(mmlu_dev.read_text("utf-8"))


def test_an_unknown_set_is_refused() -> None:
    """A set of another name is refused with the names there are."""
    assert "'mmlu_172': take mmlu_171 or mmlu_114" in refusal("mmlu_172")


# Sets, from the whole development split


def test_the_171_are_the_first_three_of_each_subject(mmlu_dev: Path, dev: list[dict]) -> None:
    """The 171 questions are rows 0 to 2 of each subject in dataset order, texts untouched, with the study's letters."""
    found = load_questions("mmlu_171", mmlu_dev)
    rows = [(number % 5, row) for number, row in enumerate(dev) if number % 5 < 3]
    assert found.questions == tuple(
        Question(f"{r['subject']}/{n}", r["subject"], n, r["question"], tuple(r["choices"]), r["answer"])
        for n, r in rows
    )
    letters = "".join(question.letter for question in found.questions)
    assert hashlib.sha256(letters.encode()).hexdigest().startswith("7cb59fc4e660999c")
    assert Counter(letters) == {"A": 44, "B": 40, "C": 38, "D": 49}


def test_the_114_are_the_others(mmlu_dev: Path, dev: list[dict]) -> None:
    """The 114 calibration questions are rows 3 and 4 of each subject."""
    found = load_questions("mmlu_114", mmlu_dev)
    assert [question.question for question in found.questions] == [
        row["question"] for number, row in enumerate(dev) if number % 5 > 2
    ]


def test_provenance_is_json(mmlu_dev: Path) -> None:
    """A result records name, source as the user gave it, count, digest and what is missing."""
    assert json.loads(json.dumps(load_questions("mmlu_171", mmlu_dev).provenance())) == {
        "name": "mmlu_171",
        "source": f"{mmlu_dev} (JSON)",
        "count": 171,
        "digest": joint_digest((id_, committed().originals[id_]) for id_ in committed().ids("mmlu_171")),
        "missing": [],
    }


@pytest.mark.parametrize("name", ["mmlu_171", "mmlu_114"])
def test_every_layout_gives_the_same_questions(name: str, tmp_path: Path, mmlu_dev: Path, dev: list[dict]) -> None:
    """JSON, JSON lines, the hub's parquet and the original CSV folder give equal questions and one joint digest."""
    lines = tmp_path / "dev.jsonl"
    lines.write_text("\n".join(json.dumps(row | {"answer": "ABCD"[row["answer"]]}) for row in dev), "utf-8")
    write_parquet(tmp_path / "hub/all/dev-00000-of-00001.parquet", dev)
    folders = [write_csv(tmp_path / below, dev).parent for below in ("original/dev", "unpacked/data/dev")]
    expected = load_questions(name, mmlu_dev)
    places = [lines, tmp_path / "hub", tmp_path / "hub/all", folders[0], folders[0] / "dev", folders[1].parent]
    for place in places:
        found = load_questions(name, place)
        assert found.questions == expected.questions, place
        assert found.digest == expected.digest


def test_order_white_space_and_further_rows_do_not_matter(tmp_path: Path, mmlu_dev: Path, dev: list[dict]) -> None:
    """Shuffled rows, other white space and rows of other splits leave ids, order and joint digest as they are."""
    other = [row | {"question": f"Another split asks: {row['question']}"} for row in dev * 2]
    rows = [row | {"question": f" {row['question']}\n".replace(" ", "  ")} for row in dev] + other
    random.Random(0).shuffle(rows)
    found = load_questions("mmlu_171", write_json(tmp_path / "dev.json", rows))
    expected = load_questions("mmlu_171", mmlu_dev)
    assert [question.id for question in found.questions] == [question.id for question in expected.questions]
    assert [question.choices for question in found.questions] == [question.choices for question in expected.questions]
    assert found.digest == expected.digest


@pytest.mark.parametrize("part", ["question", "choices", "answer"])
def test_every_altered_row_is_refused_by_name(part: str, tmp_path: Path, dev: list[dict]) -> None:
    """A change to any one of the 171 rows is refused with its id, its place in the file and the remedy."""
    changes = {
        "question": lambda row: row["question"].strip()[:-1],
        "choices": lambda row: [row["choices"][1], row["choices"][0], *row["choices"][2:]],
        "answer": lambda row: (row["answer"] + 1) % 4,
    }
    path = tmp_path / "dev.json"
    for number, row in enumerate(dev):
        if number % 5 < 3:
            write_json(path, [*dev[:number], row | {part: changes[part](row)}, *dev[number + 1 :]])
            line = refusal("mmlu_171", path)
            assert f"mmlu_171 from {path} (JSON): {row['subject']}/{number % 5} " in line
            assert f"(row {number + 1}" in line
            assert ("not the published one" in line) == (part == "answer")
            assert "Restore the rows from cais/mmlu" in line


def test_absent_rows_are_named(tmp_path: Path, dev: list[dict]) -> None:
    """A file with only the 171 rows serves them, and is refused for the 114 with the first three ids it lacks."""
    path = write_json(tmp_path / "dev.json", [row for number, row in enumerate(dev) if number % 5 < 3])
    assert len(load_questions("mmlu_171", path).questions) == 171
    line = refusal("mmlu_114", path)
    assert "abstract_algebra/3 isn't there; abstract_algebra/4 isn't there; anatomy/3 isn't there and 110 more" in line


def test_the_variable_names_a_source_and_the_argument_wins(
    tmp_path: Path, mmlu_dev: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """STEER_TASKS_MMLU is used when no source is given, an error there is final, and an argument wins."""
    monkeypatch.setenv("STEER_TASKS_MMLU", str(mmlu_dev))
    assert load_questions("mmlu_171").source == f"{mmlu_dev} (JSON)"
    monkeypatch.setenv("STEER_TASKS_MMLU", str(tmp_path / "absent"))
    assert f"no file or folder {tmp_path / 'absent'}" in refusal("mmlu_171")
    assert load_questions("mmlu_171", mmlu_dev).source == f"{mmlu_dev} (JSON)"
