"""Reading a judge's reply: one whole number from 1 to 5 in a tag, or the reason why there is none. Standard library."""

import re
from dataclasses import dataclass
from typing import Literal

Problem = Literal["truncated", "no_score", "not_a_whole_number", "out_of_range", "contradictory"]
"""Why a reply holds no score. `truncated`: cut at the judge's token limit, whatever it holds so far."""

LOWEST, HIGHEST = 1, 5

_THOUGHT = re.compile(r"<think>.*?</think>", re.IGNORECASE | re.DOTALL)
_WHOLE = re.compile(r"[+-]?\d+(?:\.0+)?")


@dataclass(frozen=True)
class Reading:
    """What a reply says: a score, or the problem with it."""

    score: int | None
    problem: Problem | None = None


def read_score(reply: str, tag: str, *, truncated: bool = False) -> Reading:
    """The score between `<tag>` and `</tag>`, case and white space aside.

    The same number twice is one score; two different ones are `contradictory`. What a reasoning model wrote between
    `<think>` and `</think>` is not its reply.
    """
    if truncated:
        return Reading(None, "truncated")
    pattern = re.compile(rf"<\s*{re.escape(tag)}\s*>(.*?)<\s*/\s*{re.escape(tag)}\s*>", re.IGNORECASE | re.DOTALL)
    held = {found.strip() for found in pattern.findall(_THOUGHT.sub("", reply))}
    if not held:
        return Reading(None, "no_score")
    if not all(_WHOLE.fullmatch(one) and one.isascii() for one in held):
        return Reading(None, "not_a_whole_number")
    scores = {int(float(one)) for one in held}
    if len(scores) > 1:
        return Reading(None, "contradictory")
    (score,) = scores
    return Reading(score) if LOWEST <= score <= HIGHEST else Reading(None, "out_of_range")


def reminder(tag: str, problem: Problem) -> str:
    """What the judge is told when its first reply can't be read."""
    return (
        f"That reply can't be used ({_SAID[problem]}). Reply again, briefly, in exactly this form and with nothing "
        f"after it:\n<analysis>one sentence</analysis>\n<{tag}>one whole number from {LOWEST} to {HIGHEST}</{tag}>"
    )


_SAID: dict[Problem, str] = {
    "truncated": "it was cut off before its end",
    "no_score": "it holds no score in the tags that were asked for",
    "not_a_whole_number": "what its tags hold is not a whole number",
    "out_of_range": f"its score is outside {LOWEST} to {HIGHEST}",
    "contradictory": "it gives more than one score",
}
