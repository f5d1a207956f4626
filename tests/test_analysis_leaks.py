"""Another arm's prompt in an arm's messages is found, and only there."""

import csv

import pytest

from steer_tasks.analysis.findings import Leak
from steer_tasks.analysis.leaks import leaks
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.record import Message
from tests.record_strategies import record

SENTENCE = "When answering to the following prompt, {behavior}"
TEXTS = {"funny": "be funny", "concise": "be concise and direct"}


def asked(arm, behavior, *systems, **given):
    said = [Message("system", text.replace("{behavior}", TEXTS[behavior])) for text in systems]
    return record(arm=arm, behavior=behavior, messages=(*said, Message("user", "Why?")), **given)


def prompted(behavior, arm="simple prompting", method="prompt"):
    text = SENTENCE.replace("{behavior}", TEXTS[behavior])
    return asked(arm, behavior, "Help.\n\n" + text, method=method, prompts=(text,), prompted_by="arm")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_public_table_has_no_leak(study_70b):
    """The study's January table predates the change that made the leak: its AutoSteer arm has the neutral prompt."""
    (log,) = read_logs([study_70b])
    assert leaks(log.records) == ()


@pytest.mark.parametrize("share", [1, 2])
def test_a_planted_leak_is_found(study_70b, tmp_path, share):
    """The same table with the study's later fault, in all rows of the arm or in half, is flagged with its count."""
    rows = rows_of(study_70b)
    auto = [row for row in rows if row["steering_method"] == "AutoSteer"]
    for row in auto[::share]:
        row["system_prompt"] = f"When answering to the following prompt, {row['query']}"
    path = tmp_path / "leaked.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    (log,) = read_logs([path])
    assert leaks(log.records) == (Leak("AutoSteer", "Simple Prompting", 300 // share, 300, SENTENCE),)


def test_arms_that_ask_on_their_own_are_no_leak():
    """Prompting and combined arms hold the sentence as their own steering, so nothing leaked."""
    records = [prompted(b, arm, method) for b in TEXTS for arm, method in (("p", "prompt"), ("c", "combined"))]
    records += [asked("auto steer", b, "Help.", method="auto_steer") for b in TEXTS]
    assert leaks(records) == ()


def test_the_behavior_is_filled_in_row_by_row():
    """A row leaks where it holds the sentence for its own behavior, even one that the prompting arm wasn't run for."""
    mine = asked("auto steer", "concise", SENTENCE, method="auto_steer")
    other = record(arm="auto steer", behavior="funny", messages=(Message("system", "Please, be concise and direct"),))
    assert leaks([prompted("funny"), mine, other]) == (Leak("auto steer", "simple prompting", 1, 2, SENTENCE),)


def test_a_leak_that_the_protocol_asks_for_is_marked():
    """`as_run` puts the sentence into an arm on purpose: it is a leak all the same, said to be asked for."""
    text = SENTENCE.replace("{behavior}", "be funny")
    given = {"method": "auto_steer", "prompts": (text,), "prompted_by": "protocol", "protocol": "as_run"}
    mine = asked("auto steer", "funny", SENTENCE, **given)
    assert leaks([prompted("funny"), mine]) == (Leak("auto steer", "simple prompting", 1, 1, SENTENCE, asked=True),)
    assert leaks([mine]) == (Leak("auto steer", "the protocol as_run", 1, 1, SENTENCE, asked=True),)


def test_a_question_that_says_the_same_is_no_leak():
    """Only system messages count: a user who asks for the behavior was not leaked to."""
    said = Message("user", SENTENCE.replace("{behavior}", "be funny"))
    assert leaks([prompted("funny"), record(arm="caa", messages=(said,))]) == ()


def test_the_control_can_leak_too_and_unknown_messages_cannot():
    """A control that carries the sentence is flagged; answers without known messages count for nothing."""
    records = [prompted("funny"), asked("control", "funny", SENTENCE), record(question="q/1", messages=None)]
    assert leaks(records) == (Leak("control", "simple prompting", 1, 1, SENTENCE),)
