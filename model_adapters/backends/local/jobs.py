"""What waits for the engine: one job for each answer, score or reading. Imports torch."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from model_adapters.backend import Messages, Request
from model_adapters.backends.local.forward import Passage
from model_adapters.backends.local.scoring import Scored
from model_adapters.steering import Steering

SCORED_TOKENS = 8192
"""Most tokens in one scoring pass, padding included: keeps a pass's attention small beside the weights."""

SCORED_LOGITS = 2**27
"""Most logits in one scoring pass (0.5 GB in float32), where one row does not need more by itself."""


@dataclass
class Generation:
    """An answer to write."""

    request: Request
    prompt: list[int]
    sent: Messages | None
    future: "Future[Any]" = field(default_factory=Future)
    is_abandoned: bool = False
    kind: str = "generation"

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt)

    async def answer(self) -> Any:
        """The completion; whoever stops waiting for it abandons the row."""
        try:
            return await asyncio.wrap_future(self.future)
        except asyncio.CancelledError:
            self.is_abandoned = True
            raise


@dataclass
class Scoring:
    """A continuation to score, or whose distributions are wanted."""

    scored: Scored
    steering: Steering
    wants_distribution: bool = False
    future: "Future[Any]" = field(default_factory=Future)
    kind: str = "scoring"

    @property
    def length(self) -> int:
        """Tokens the model reads."""
        return len(self.scored.passage.tokens)

    @cached_property
    def row(self) -> tuple[str, int, tuple[int, ...]]:
        """What two jobs have in common that one row serves: the letters of a question, for instance."""
        passage = self.scored.passage
        return self.steering.fingerprint, passage.prompt_tokens, tuple(passage.tokens)


@dataclass
class Reading:
    """A text whose activations are wanted."""

    passage: Passage
    steering: Steering
    future: "Future[np.ndarray]" = field(default_factory=Future)
    kind: str = "reading"

    @property
    def length(self) -> int:
        """Tokens the model reads."""
        return len(self.passage.tokens)


@dataclass(frozen=True)
class Batching:
    """Which waiting jobs run together: the longest, as like lengths pad less and what is too large shows at once."""

    rows: int
    vocabulary: int

    def choose(self, waiting: Sequence[Any]) -> list[Any]:
        """The next batch out of waiting jobs of one kind."""
        ordered = sorted(waiting, key=lambda job: -job.length)
        match ordered[0].kind:
            case "reading":
                return ordered[:1]
            case "scoring":
                return self._scorings(ordered)
            case _:
                return ordered[: self.rows]

    def _scorings(self, ordered: Sequence[Scoring]) -> list[Scoring]:
        most = max(1, min(self.rows, SCORED_TOKENS // max(1, ordered[0].length)))
        chosen: list[Scoring] = []
        rows: set[object] = set()
        widest = 0
        for job in ordered:
            widest_then = max(widest, len(job.scored.continuation))
            rows_then = len(rows | {job.row})
            fits = rows_then <= most and rows_then * widest_then * self.vocabulary <= SCORED_LOGITS
            if chosen and not fits:
                if job.length < chosen[-1].length:
                    break  # no chosen row is that short: nothing that follows is served by one
                continue
            chosen.append(job)
            rows.add(job.row)
            widest = widest_then
        return chosen


def by_row(jobs: Sequence[Scoring]) -> list[list[Scoring]]:
    """Jobs that one row serves, together; in order of arrival."""
    groups: dict[object, list[Scoring]] = {}
    for job in jobs:
        groups.setdefault(job.row, []).append(job)
    return list(groups.values())


