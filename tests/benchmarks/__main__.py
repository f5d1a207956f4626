"""All measurements in one go: `python -m tests.benchmarks [PART …]`, which `make bench` runs.

Prints a table line as each is measured, with the machine's facts and how long it all took. Nothing is asserted.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping

from tests.benchmarks.answers import answer_lines
from tests.benchmarks.bars import HEAD, Line
from tests.benchmarks.ember_controllers import controller_lines
from tests.benchmarks.grid import grid_lines
from tests.benchmarks.growth import growth_lines
from tests.benchmarks.pairs import machine
from tests.benchmarks.steps import step_lines
from tests.benchmarks.typed import typed_lines
from tests.benchmarks.vllm_answers import vllm_lines

PARTS: Mapping[str, Callable[[], Iterable[Line]]] = {
    "answers": answer_lines,
    "vllm": vllm_lines,
    "steps": step_lines,
    "grid": grid_lines,
    "growth": growth_lines,
    "typed": typed_lines,
    "ember": controller_lines,
}


def main(names: list[str]) -> None:
    """Measure the parts of these names, or all."""
    if unknown := [name for name in names if name not in PARTS]:
        sys.exit(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    print(f"embedded model, bfloat16; {machine()}\n\n{HEAD}", flush=True)
    minutes: dict[str, float] = {}
    for name in names or PARTS:
        began = time.monotonic()
        for line in PARTS[name]():
            print(line, flush=True)
        minutes[name] = (time.monotonic() - began) / 60
    parts = ", ".join(f"{name} {taken:.1f}" for name, taken in minutes.items())
    print(f"\n{sum(minutes.values()):.0f} minutes in all: {parts}")


if __name__ == "__main__":
    main(sys.argv[1:])
