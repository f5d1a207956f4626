"""The study's table as records."""

import csv
from collections import Counter

import pytest

from model_adapters.errors import SteerError
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.study_table import COLUMNS, behavior_of, method_of, question_of


def row(**given):
    plain = {
        **{"query": "be funny", "steering_method": "Control", "system_prompt": "Help.", "user_prompt": "Why?"},
        **{"response": "So.", "analysis": "-", "steering_time": "0.1", "behavior": "2", "coherence": "5"},
    }
    return {**plain, **given}


def written(path, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def test_the_public_table_is_read_whole(study_70b):
    """All 1,499 answers of five arms are there, one of the control's missing, and the means are the file's own."""
    (log,) = read_logs([study_70b])
    arms = {"Combined Approach": 300, "AutoSteer": 300, "Agentic": 300, "Simple Prompting": 300, "Control": 299}
    assert Counter(one.arm for one in log.records) == arms
    with study_70b.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for arm in arms:
        mine = [one for one in log.records if one.arm == arm]
        theirs = [one for one in rows if one["steering_method"] == arm]
        assert sum(one.behavior_score for one in mine) == sum(int(one["behavior"]) for one in theirs)
        assert sum(one.coherence_score for one in mine) == sum(int(one["coherence"]) for one in theirs)
    assert {one.missing["accuracy"] for one in log.records} == {"the file has no column result"}
    assert log.source.kind == "study"


def test_a_row_is_a_record(tmp_path):
    """A row's cells become the record's fields; the arm is called as the file spells it."""
    answers = {"predicted_answer": "b", "gold_answer": "B", "result": "True"}
    auto = row(steering_method="Auto Steer", system_prompt="Say it, be funny", **answers)
    path = written(tmp_path / "eval_gpt-4o-mini_var_Llama-8B_dt_2025.csv", auto)
    (log,) = read_logs([path])
    (one,) = log.records
    assert (one.arm, one.method, one.behavior, one.model) == ("Auto Steer", "auto_steer", "funny", "Llama-8B")
    assert [(said.role, said.content) for said in one.messages] == [("system", "Say it, be funny"), ("user", "Why?")]
    assert (one.completion, one.accuracy, one.answered) == ("So.", 1.0, 1.0)
    assert (one.behavior_score, one.coherence_score, one.missing) == (2.0, 5.0, {})
    assert (one.question, one.prompts, one.prompted_by) == (question_of("Why?"), (), None)
    assert log.source.judge == "gpt-4o-mini"


def test_arms_that_are_meant_to_ask_say_so(tmp_path):
    """Simple Prompting and Combined hold their system message as their own; the others don't."""
    names = ("Control", "Simple Prompting", "Auto Steer", "Combined Approach", "Something Else")
    (log,) = read_logs([written(tmp_path / "x.csv", *(row(steering_method=name) for name in names))])
    assert [one.prompted_by for one in log.records] == [None, "arm", None, "arm", None]
    assert [one.prompts for one in log.records] == [(), ("Help.",), (), ("Help.",), None]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [("", "the file has no score here"), ("nan", "the file has no score here"), ("7", "no score from 1 to 5")],
)
def test_a_missing_score_has_its_reason(tmp_path, cell, reason):
    """An empty cell, or a number off the scale, is no score, and the record says why."""
    (log,) = read_logs([written(tmp_path / "x.csv", row(coherence=cell))])
    assert log.records[0].coherence_score is None
    assert reason in log.records[0].missing["coherence_score"]


def test_other_columns_are_refused_by_name(tmp_path):
    """A CSV that is no table of the study's is refused with the columns that it lacks."""
    path = tmp_path / "other.csv"
    path.write_text("query,steering_method,user_prompt\na,b,c\n")
    with pytest.raises(SteerError, match="lacks the columns system_prompt, response, analysis"):
        read_logs([path])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SteerError, match=f"it lacks the columns {', '.join(COLUMNS)}"):
        read_logs([path])


def test_odd_rows_are_counted(tmp_path):
    """A row with a cell too few, and one that breaks off, are left out and counted."""
    path = written(tmp_path / "x.csv", row(), row(user_prompt="Who?"))
    path.write_text(path.read_text() + "be funny,Control\r\n" + 'be funny,Control,"He')
    (log,) = read_logs([path])
    assert len(log.records) == 2
    assert log.source.remarks[:2] == (
        "1 rows have another number of cells than the header; they are left out",
        "the file breaks off inside a row, which is left out",
    )


def test_an_answer_may_be_longer_than_csv_readers_take_by_default(tmp_path):
    """An answer of 300,000 characters is read whole, and the reader's limit for the process is as before."""
    before = csv.field_size_limit()
    (log,) = read_logs([written(tmp_path / "x.csv", row(response="x" * 300_000), row(user_prompt="Who?"))])
    assert [len(one.completion) for one in log.records] == [300_000, 3]
    assert csv.field_size_limit() == before


def test_a_row_that_is_no_csv_is_named_with_what_follows(tmp_path):
    """After a cell whose quotes don't close, rows can't be told apart: the remark names the line and the loss."""
    path = written(tmp_path / "x.csv", row(), row(user_prompt="Who?"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], '"a"b,c', lines[2]]))
    (log,) = read_logs([path])
    assert len(log.records) == 1
    assert log.source.remarks[0].startswith("the row of line 3 is no CSV (")
    assert log.source.remarks[0].endswith("it and all that follow are left out")


def test_a_header_alone_is_refused(tmp_path):
    """A table without rows is an error, not an empty log."""
    path = tmp_path / "x.csv"
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(SteerError, match="has a header and no rows"):
        read_logs([path])


def test_names_of_the_study_are_ours():
    """Arms' names and behaviors' texts are known by any spelling; unknown ones stay as they are."""
    assert [method_of(arm) for arm in ("AutoSteer", "Auto Steer", "simple prompting", "Combined", "Mine")] == [
        *("auto_steer", "auto_steer", "prompt", "combined"),
        None,
    ]
    assert behavior_of("be  Funny") == "funny"
    assert behavior_of("be more creative and imaginative") == "be more creative and imaginative"


def test_a_questions_name_is_its_prompts():
    """A question's name is stable, the same whatever the white space, and differs between questions."""
    assert question_of("Why is\n the sky blue? ") == question_of("Why is the sky blue?") == "09ea26793343ba6c"
    assert question_of("Why?") != question_of("Who?")
