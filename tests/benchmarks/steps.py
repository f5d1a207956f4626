"""What steering costs a step: 16 rows of fixed length, unsteered, under one steering, and under eight."""

import asyncio
import time
from collections.abc import Sequence
from unittest.mock import patch

import numpy as np

from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.local import echo, open_local
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.behavior import neutral_prompts
from model_adapters.steering import CONTROL, AddVector, Steering
from tests.benchmarks.bars import Bar, Line
from tests.benchmarks.pairs import paired

ROWS, TOKENS, PAIRS, LAYER = 16, 64, 15, 14


class Stopwatch:
    """Times the steps of a backend in which all rows are written, and what its prompts cost is left out."""

    def __init__(self, backend: LocalBackend) -> None:
        self.backend, self.seconds, self.steps, self._runs = backend, 0.0, 0, 0
        writer = backend._engine.writer
        self._decoder = writer._decoder  # type: ignore[attr-defined]
        self._step = self._decoder.step
        self._decoder.step = self._timed
        # Answers of fixed length: no token ends one.
        self._decoder.ending = writer.ending = type(writer.ending)(backend.encoding, frozenset(), backend.max_length)  # type: ignore[attr-defined]

    def _timed(self) -> None:
        is_full, began = len(self._decoder.alive) == ROWS, time.perf_counter()
        self._step()
        if is_full:
            self.seconds, self.steps = self.seconds + time.perf_counter() - began, self.steps + 1

    def per_step(self, steerings: Sequence[Steering]) -> float:
        """Mean seconds of a step of rows with these steerings in turn; prompts that were never asked before."""
        self._runs, self.seconds, self.steps = self._runs + 1, 0.0, 0
        prompts = neutral_prompts()
        asked = [
            Request(
                (Message("user", f"Note {self._runs:04d}-{row:02d}. {prompts[row % len(prompts)]}"),),
                steerings[row % len(steerings)],
                Sampling(max_tokens=TOKENS),
            )
            for row in range(ROWS)
        ]

        async def together() -> None:
            await asyncio.gather(*map(self.backend.complete, asked))

        asyncio.run(together())
        return self.seconds / self.steps


def step_lines() -> list[Line]:
    """Steered over unsteered, eight steerings over one."""
    backend = open_local("embedded", dtype="bfloat16", rows=ROWS)
    drawn = np.random.default_rng(0).standard_normal((8, backend.d_model)).astype(np.float32)
    several = [Steering((AddVector(LAYER, vector, 1.0),)) for vector in drawn]
    watch = Stopwatch(backend)
    with patch.multiple(echo, STREAK=10**9, HINT=10**9):  # a loop that is read ahead takes no steps
        one = paired(lambda: watch.per_step(several[:1]), lambda: watch.per_step([CONTROL]), PAIRS)
        eight = paired(lambda: watch.per_step(several), lambda: watch.per_step(several[:1]), PAIRS)
    backend.close()
    sampled = f"mean step of {ROWS} rows over {TOKENS} tokens, greedy, random vectors at layer {LAYER}"
    return [
        Line("decode step: one steering / unsteered", one, Bar(1.02, 1.0), sampled),
        Line("decode step: 8 steerings in the batch / 1", eight, Bar(1.05, 1.0), sampled),
    ]
