"""Whether a request of a large grid costs more than one of a small grid: 12 questions under 2, 8 and 32 steerings."""

import asyncio

import numpy as np

from model_adapters.backend import Request, Sampling
from model_adapters.backends.local import open_local
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.steering import AddVector, Steering
from tests.benchmarks.bars import Bar, Line
from tests.benchmarks.pairs import timed
from tests.benchmarks.questions import conversations, drawn_questions

QUESTIONS, STEERINGS, TOKENS, LAYER = 12, (2, 8, 32), 48, 14


def per_request(backend: LocalBackend, steerings: int, part: int) -> float:
    """Seconds for each request of a grid that was never asked before."""
    drawn = np.random.default_rng([steerings, part]).standard_normal((steerings, backend.d_model)).astype(np.float32)
    asked = [
        Request(messages, Steering((AddVector(LAYER, vector, 1.0),)), Sampling(max_tokens=TOKENS))
        for messages in conversations(drawn_questions(QUESTIONS, part))
        for vector in drawn
    ]

    async def together() -> None:
        await asyncio.gather(*map(backend.complete, asked))

    return timed(lambda: asyncio.run(together())) / len(asked)


def growth_lines() -> list[Line]:
    """The cost of a request in the largest grid over that in the smallest, and the middle one over it."""
    backend = open_local("embedded", dtype="bfloat16")
    per_request(backend, 2, 0)
    small, middle, large = (per_request(backend, steerings, part) for part, steerings in enumerate(STEERINGS, start=1))
    backend.close()
    sampled = (
        f"{QUESTIONS} questions × {', '.join(map(str, STEERINGS))} steerings, {TOKENS} tokens; the middle grid's "
        f"request costs {middle / small:.2f} of the small one's"
    )
    return [Line("cost of a request: grid of 384 / grid of 24", large / small, Bar(1.1, 1.0), sampled)]
