"""How an answer is read from a completion."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_tasks.answers import is_answered, is_right, parse_answer


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("<answer>B</answer>", "B"),
        ("<thinking>x</thinking>\n<ANSWER>\n  c. because\n</Answer> <answer>D</answer>", "C"),
        ("<answer>Answer: B</answer>", "A"),
        ("<answer>The second</answer>", "T"),
        ("<answer>A <answer>B</answer>", "A"),
        ("<answer>(A)</answer>", "("),
        ("<answer> \n </answer><answer>B</answer>", None),
        ("<answer>B", None),
        ("B</answer>", None),
        ("B", None),
        ("", None),
    ],
)
def test_first_closed_tag_decides(text, character):
    """The first closed answer tag counts, its first character upper-cased; an empty or open one is a miss."""
    assert parse_answer(text) == character


def test_misses_are_neither_right_nor_answered():
    """A missing tag, a wrong letter and a text that starts with none of the letters are told apart."""
    assert (is_right(None, "A"), is_answered(None)) == (False, False)
    assert (is_right("B", "A"), is_answered("B")) == (False, True)
    assert (is_right("T", "A"), is_answered("T")) == (False, False)
    assert (is_right("A", "A"), is_answered("A")) == (True, True)


@given(st.text())
def test_any_text_is_read_without_an_error(text):
    """Whatever a model writes is read, and what is read is None or the capital of one character."""
    said = parse_answer(text)
    assert said is None or (said != "" and any(character.upper() == said for character in text))


@given(st.text(), st.text(), st.text())
def test_rule_agrees_with_its_description(before, held, after):
    """The rule as described, written a second way with string searches, gives the same character."""
    text = f"{before}<answer>{held}</answer>{after}"
    start = re.search("<answer>", text, re.IGNORECASE)
    inside = text[start.end() :]
    end = re.search("</answer>", inside, re.IGNORECASE)
    expected = inside[: end.start()].strip()[:1].upper() or None
    assert parse_answer(text) == expected


@given(st.sampled_from(["ẚ", "ß", "ŉ", "ﬀ", "ǰ"]))
def test_letters_with_long_capitals_are_none_of_the_options(letter):
    """A letter whose capital has two characters, the first perhaps an A, is not read as an option."""
    said = parse_answer(f"<answer>{letter}</answer>")
    assert not is_answered(said)
    assert not is_right(said, "A")
