"""`lm_eval --model goodfire_steered --tasks mmlu_171` as typed, a whole process."""

import json
import sys

from tests.benchmarks.bars import Bar, Line
from tests.benchmarks.grid import run
from tests.benchmarks.questions import DRAWN, drawn_numbers

WHOLE = 171


def typed_lines() -> list[Line]:
    """Minutes, from a run of one question (start, model, search) and one of 48."""
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "goodfire_steered", "--tasks", "mmlu_171"]
    numbers = drawn_numbers(DRAWN)
    one, many = (run([*command, "--samples", json.dumps({"mmlu_171": part})]) for part in (numbers[:1], numbers))
    minutes = (one + (many - one) * (WHOLE - 1) / (DRAWN - 1)) / 60
    sampled = f"1 question {one:.0f} s, {DRAWN} questions {many:.0f} s, scaled to {WHOLE}; the model is in the cache"
    return [Line("`lm_eval --model goodfire_steered --tasks mmlu_171`", minutes, Bar(15, 8, unit=" min"), sampled)]
