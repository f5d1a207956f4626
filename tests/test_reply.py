"""Reading a judge's reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.reply import HIGHEST, LOWEST, Reading, read_score, reminder

TAG = "coherence"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("<analysis>Fine.</analysis>\n<coherence>4</coherence>", 4),
        ("<Coherence> 5\n</COHERENCE>", 5),
        ("< coherence >1< / coherence >", 1),
        ("<coherence>2.0</coherence>", 2),
        ("<coherence>3</coherence> and again <coherence>3</coherence>", 3),
        ("<think><coherence>1</coherence> or 2?</think><coherence>2</coherence>", 2),
        ("<evaluation><scores><coherence>3</coherence></scores></evaluation>", 3),
    ],
)
def test_a_score_is_read(reply, score):
    """One whole number in the tag is the score, whatever the case, the spaces and what stands around it."""
    assert read_score(reply, TAG) == Reading(score)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "no_score"),
        ("4", "no_score"),
        ("<behavior>4</behavior>", "no_score"),
        ("<coherence>4", "no_score"),
        ("<think><coherence>4</coherence></think>", "no_score"),
        ("<coherence></coherence>", "not_a_whole_number"),
        ("<coherence>four</coherence>", "not_a_whole_number"),
        ("<coherence>4/5</coherence>", "not_a_whole_number"),
        ("<coherence>3.5</coherence>", "not_a_whole_number"),
        ("<coherence>٣</coherence>", "not_a_whole_number"),
        ("<coherence>0</coherence>", "out_of_range"),
        ("<coherence>45</coherence>", "out_of_range"),
        ("<coherence>-3</coherence>", "out_of_range"),
        ("<coherence>2</coherence><coherence>3</coherence>", "contradictory"),
    ],
)
def test_a_reply_without_a_score_says_why(reply, problem):
    """What can't be read is no score, and the problem has a name."""
    assert read_score(reply, TAG) == Reading(None, problem)


def test_a_truncated_reply_has_no_score():
    """A reply that was cut is asked for again even where a score stands in it already."""
    assert read_score("<coherence>4</coherence> but", TAG, truncated=True) == Reading(None, "truncated")


@given(st.text(), st.booleans())
def test_anything_is_read(reply, truncated):
    """No text makes the parser fail, and it gives either a score in range or a problem."""
    found = read_score(reply, TAG, truncated=truncated)
    assert (found.score is None) != (found.problem is None)
    assert found.score is None or LOWEST <= found.score <= HIGHEST


@given(st.integers(), st.text(alphabet=st.characters(exclude_characters="<>")))
def test_whole_numbers_in_range_are_scores(number, around):
    """A number is a score if it lies in 1 to 5."""
    found = read_score(f"{around}<coherence>{number}</coherence>{around}", TAG)
    assert found == (Reading(number) if 1 <= number <= 5 else Reading(None, "out_of_range"))


def test_the_reminder_is_not_a_score():
    """The reminder shows the form and can't be read as a score if a judge repeats it."""
    assert read_score(reminder(TAG, "no_score"), TAG).score is None
