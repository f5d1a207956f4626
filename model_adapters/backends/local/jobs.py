"""What waits for the engine: one job for each answer, score or reading. Imports torch."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from model_adapters.backend import Messages, Request
from model_adapters.backends.local.gates import leaves_prompt, looks_back
from model_adapters.backends.passage import Passage, Scored
from model_adapters.steering import Steering

SCORED_TOKENS = 8192
"""Most tokens in one scoring pass, padding included: keeps a pass's attention small beside the weights."""

ALIKE = 64
"""Fewer shared tokens don't make up for rows of unlike length in one pass."""

SCORED_LOGITS = 2**24
"""Most logits in one scoring pass (64 MB in float32), where one row does not need more by itself."""


def started(future: "Future[Any]") -> bool:
    """Take a future into work, unless it is already; False where it was cancelled or settled before."""
    return future.running() or (not future.done() and future.set_running_or_notify_cancel())


def settle(future: "Future[Any]", outcome: Any) -> None:
    """Give a future its result, or the exception that stands for it; one that has either, or was cancelled, stays."""
    if not started(future):
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


@dataclass
class Generation:
    """An answer to write. `heard` is told each token, in the engine's thread."""

    request: Request
    prompt: list[int]
    sent: Messages | None
    heard: Callable[[int], object] | None = None
    future: "Future[Any]" = field(default_factory=Future)
    is_abandoned: bool = False
    kind: str = "generation"

    @cached_property
    def key(self) -> object:
        """What greedy requests have in common that are answered once; None for samples, and where tokens are heard."""
        sampling = self.request.sampling
        if not sampling.is_greedy or self.heard is not None:
            return None
        # Events are named anew in every request, so answers to them are not shared.
        if self.request.steering.events:
            return None
        return tuple(self.prompt), self.request.steering.fingerprint, sampling.max_tokens, sampling.stop

    @property
    def most_tokens(self) -> int:
        """Tokens of prompt and answer together at most, but for the model's own limit."""
        return len(self.prompt) + self.request.sampling.max_tokens

    def start(self) -> bool:
        """Take it into work; False where it was cancelled or settled before."""
        return started(self.future)

    def settle(self, outcome: Any) -> None:
        """Give the completion, or the exception that stands for it."""
        settle(self.future, outcome)

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

    @cached_property
    def length(self) -> int:
        """Tokens the model reads."""
        return len(self.scored.passage.tokens)

    @cached_property
    def runs_alone(self) -> bool:
        """Whether its tokens must be read one at a time, so that no row may be padded."""
        return looks_back(self.steering)

    @cached_property
    def is_bare(self) -> bool:
        """Whether its prompt is read unsteered, so that it may be shared with other steerings."""
        return self.scored.prompt_tokens > 1 and leaves_prompt(self.steering)

    @cached_property
    def stem(self) -> tuple[int, str, int, int, tuple[int, ...]]:
        """What two jobs have in common whose prompt is read once: the options of a question, for instance.

        It sorts longest first.
        """
        scored = self.scored
        tokens = tuple(scored.stem.tokens)
        return -len(tokens), self.steering.fingerprint, scored.prompt_tokens, len(scored.context), tokens

    @cached_property
    def row(self) -> tuple[object, tuple[int, ...]]:
        """What two jobs have in common that one row serves: the letters of a question, for instance."""
        return self.stem, tuple(self.scored.tail)


@dataclass
class Reading:
    """A text whose activations are wanted, from position `start` on."""

    passage: Passage
    steering: Steering
    start: int
    future: "Future[np.ndarray]" = field(default_factory=Future)
    kind: str = "reading"

    @property
    def length(self) -> int:
        """Tokens the model reads."""
        return len(self.passage.tokens)


@dataclass(frozen=True)
class Batching:
    """Which scorings and readings run together: the longest, as like lengths pad less and what is too large shows at
    once."""

    rows: int
    vocabulary: int

    def choose(self, waiting: Sequence[Any]) -> list[Any]:
        """The next batch out of waiting jobs of one kind."""
        match waiting[0].kind:
            case "reading":
                return [max(waiting, key=lambda job: job.length)]
            case _:
                return alone(waiting) or self._scorings(sorted(waiting, key=lambda job: job.row))

    def _scorings(self, ordered: Sequence[Scoring]) -> list[Scoring]:
        chosen: list[Scoring] = []
        rows: set[object] = set()
        longest = widest = 0
        for job in _alike(ordered):
            rows_then = len(rows | {job.row})
            longest, widest = max(longest, job.length), max(widest, len(job.scored.continuation))
            fits = rows_then <= self.rows and rows_then * longest <= SCORED_TOKENS
            columns = min(longest, widest + longest - job.length)
            if chosen and not (fits and rows_then * columns * self.vocabulary <= SCORED_LOGITS):
                break  # what one row serves is side by side, so nothing that follows fits
            chosen.append(job)
            rows.add(job.row)
        return chosen


def _alike(ordered: Sequence[Scoring]) -> Sequence[Scoring]:
    """Those that share at least half of the first one's prompt with it (the examples of a subject), where there are
    any of another prompt and the prompt may be shared; else all."""
    first = ordered[0]
    half = first.scored.stem_tokens // 2
    if half < ALIKE or not first.is_bare:
        return ordered
    beginning = first.stem[-1][:half]
    found = [job for job in ordered if job.is_bare and job.stem[-1][:half] == beginning]
    return found if any(job.stem != first.stem for job in found) else ordered


def alone(waiting: Sequence[Any]) -> list[Any]:
    """The first job that can't share a pass with others, by itself; empty where there is none."""
    return [job for job in waiting if job.runs_alone][:1]


def by_row(jobs: Sequence[Scoring]) -> list[list[Scoring]]:
    """Jobs that one row serves, together; in order of arrival."""
    groups: dict[object, list[Scoring]] = {}
    for job in jobs:
        groups.setdefault(job.row, []).append(job)
    return list(groups.values())
