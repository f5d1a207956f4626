"""Gold answers joined by question, against numbers worked out by hand on tables with lost rows."""

import csv

import pytest

from model_adapters.errors import SteerError
from steer_tasks.analysis.rejoin import by_arm, question_in, rejoin
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import load_questions
from tests.test_analysis_study import row, written

INSTRUCTION = "Some instruction.\n\nIn two parts."


@pytest.fixture
def questions(mmlu):
    return load_questions("mmlu_171").questions


def prompt(question):
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", question.choices, strict=True))
    return f"{question.question.strip()}\n{options}\n\n{INSTRUCTION}"


def cell(questions, answers, arm="Control", query="be funny", lost=()):
    """Rows as the study's code makes them: the key is laid along the rows that survived."""
    kept = [
        (one, said) for number, (one, said) in enumerate(zip(questions, answers, strict=True)) if number not in lost
    ]
    rows = []
    for place, (question, said) in enumerate(kept):
        gold = questions[place].letter
        told = {"predicted_answer": said, "gold_answer": gold, "result": str(said[:1].upper() == gold)}
        rows.append(row(steering_method=arm, query=query, user_prompt=prompt(question), **told))
    return rows


def test_every_question_is_known_from_its_prompt(questions):
    """All 171 prompts give id and letter by digest, in the study's layout and in our protocol's."""
    protocol = load_protocol("isolated")
    for question in questions:
        assert question_in(prompt(question)) == (question.id, question.letter)
        said = protocol.messages(question, "chain_of_thought")[-1].content
        assert question_in(said) == (question.id, question.letter)


def test_a_changed_prompt_is_of_no_question(questions):
    """A prompt with another option, or without options, is no known question."""
    changed = prompt(questions[0]).replace("A. ", "A. not ", 1)
    assert question_in(changed) is None
    assert question_in("Why is the sky blue?") is None


def test_a_whole_cell_has_one_accuracy(questions, tmp_path):
    """Without lost rows both accuracies are equal and no key is wrong."""
    answers = [one.letter if number % 3 else "x" for number, one in enumerate(questions)]
    (found,) = rejoin([written(tmp_path / "x.csv", *cell(questions, answers))])
    assert (found.rows, found.hits_by_place, found.hits_by_question) == (171, 114, 114)
    assert (found.wrong_keys, found.first_wrong, found.lost, found.unknown) == (0, None, (), 0)


def test_a_lost_row_shifts_the_key_after_it(questions, tmp_path):
    """Five right answers with the second row lost: by place only those whose neighbour has the same letter are right.

    The questions' letters are B, B, C, D, D; by place the rows left (B, C, D, D) meet the key B, B, C, D.
    """
    five = questions[:5]
    assert [one.letter for one in five] == ["B", "B", "C", "D", "D"]
    path = written(tmp_path / "x.csv", *cell(five, [one.letter for one in five], lost=(1,)))
    (found,) = rejoin([path])
    assert (found.rows, found.hits_by_place, found.hits_by_question) == (4, 2, 4)
    assert (found.by_place, found.by_question) == (0.5, 1.0)
    assert (found.wrong_keys, found.first_wrong) == (2, 2)
    assert found.lost[0] == five[1].id
    assert len(found.lost) == 167


def test_each_arm_and_behavior_stands_alone(questions, tmp_path):
    """A row lost in one cell leaves the others as they are; sums by arm add what the cells have."""
    right = [one.letter for one in questions]
    rows = [
        *cell(questions, right),
        *cell(questions, right, query="be concise and direct", lost=(0,)),
        *cell(questions, ["no tag"] * 171, arm="Auto Steer"),
    ]
    found = rejoin([written(tmp_path / "eval_j_var_M_dt_1.csv", *rows)])
    assert [(one.model, one.arm, one.behavior, one.rows) for one in found] == [
        ("M", "Control", "funny", 171),
        ("M", "Control", "concise", 170),
        ("M", "Auto Steer", "funny", 171),
    ]
    same = sum(one.letter == other.letter for one, other in zip(questions[1:], questions[:-1], strict=True))
    assert [one.hits_by_place for one in found] == [171, same, 0]
    assert [one.hits_by_question for one in found] == [171, 170, 0]
    assert found[1].lost == (questions[0].id,)
    control, auto = by_arm(found)
    assert (control.rows, control.hits_by_place, control.hits_by_question) == (341, 171 + same, 341)
    assert (control.behavior, auto.rows) == (None, 171)


def test_unknown_prompts_are_counted_apart(questions, tmp_path):
    """A row whose prompt is of no known question is counted, and is in no accuracy by question."""
    rows = cell(questions[:2], ["B", "B"])
    rows[1]["user_prompt"] = "Why?"
    (found,) = rejoin([written(tmp_path / "x.csv", *rows)])
    assert (found.rows, found.unknown, found.hits_by_place, found.hits_by_question) == (2, 1, 2, 1)
    assert found.by_question == 1.0


def test_tables_without_answers_are_refused_by_column(tmp_path):
    """The open-ended table has no answers to join; the error names the columns that are missing."""
    path = written(tmp_path / "x.csv", row())
    with pytest.raises(SteerError, match="has the columns predicted_answer, gold_answer, result"):
        rejoin([path, tmp_path])
    with path.open(newline="") as file:
        assert "result" not in next(csv.reader(file))
