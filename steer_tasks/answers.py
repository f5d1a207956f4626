"""Reading an answer: one rule for every harness. Standard library only."""

import re

LETTERS = "ABCD"

_TAG = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)


def parse_answer(text: str) -> str | None:
    """The first character, upper-cased, of what the first closed `<answer>…</answer>` holds; None where there is none.

    The rule of arXiv:2602.04903's code: case and line breaks don't matter, outer white space is stripped. So
    "Answer: B" inside the tags reads as A. Where that code would crash, on an empty tag, the answer is None: a miss.
    """
    found = _TAG.search(text)
    held = found.group(1).strip() if found else ""
    return held[0].upper() if held else None


def is_answered(character: str | None) -> bool:
    """Whether a parsed character is one of the options' letters."""
    # By list: a capital of two characters, such as that of "ẚ", is none of them.
    return character in list(LETTERS)


def is_right(character: str | None, letter: str) -> bool:
    """Whether a parsed character is the right option's letter; None is a miss."""
    return character == letter
