"""How far a local model is with what it was asked: counted as it works, read whenever somebody looks. No torch."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

WINDOW_S = 10.0
"""How far back tokens per second look."""


@dataclass(frozen=True)
class Progress:
    """Requests by where they are, and how fast they go.

    `finished` counts since the model was opened, failed ones too; cancelled ones count nowhere. Requests that share a
    row count each, a long text that is scored counts once for each of its windows. `tokens_per_second` is of tokens
    written, and of texts that are scored or read. `seconds_left` is None until something finished.
    """

    finished: int
    running: int
    waiting: int
    tokens_per_second: float
    seconds_left: float | None

    def __str__(self) -> str:
        shown = f"running {self.running}, waiting {self.waiting}, {self.tokens_per_second:.0f} tok/s"
        return shown if self.seconds_left is None else f"{shown}, ~{_duration(self.seconds_left)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


@runtime_checkable
class ShowsProgress(Protocol):
    """Says how far it is."""

    def progress(self) -> Progress:
        """Of all that it was asked."""
        ...


@dataclass
class Tally:
    """Counts for `Progress`. `tokens` is added to by the engine's thread alone; the rest happens once a request.

    Estimates assume that what is left takes as long as what finished, counted from when there last was nothing to do:
    requests left, times the mean time for one that finished.
    """

    clock: Callable[[], float] = time.monotonic
    tokens: int = 0
    _open: "set[Future[Any]]" = field(default_factory=set)
    _running: "set[Future[Any]]" = field(default_factory=set)
    _finished: int = 0
    _finished_before: int = 0
    _began: float = 0.0
    _seen: "deque[tuple[float, int]]" = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, future: "Future[Any]") -> None:
        """A request that was just asked; it leaves when its future is settled."""
        with self._lock:
            if not self._open:
                self._began, self._finished_before = self.clock(), self._finished
                self._seen = deque([(self._began, self.tokens)])
            self._open.add(future)
        future.add_done_callback(self._leave)

    def begin(self, future: "Future[Any]") -> None:
        """It is at hand now."""
        with self._lock:
            if future in self._open:
                self._running.add(future)

    def wait(self, future: "Future[Any]") -> None:
        """It was at hand, and must wait again."""
        with self._lock:
            self._running.discard(future)

    def _leave(self, future: "Future[Any]") -> None:
        # A row that nobody waits for is settled with the exception, as its future can't be cancelled any more.
        counts = not future.cancelled() and not isinstance(future.exception(), asyncio.CancelledError)
        with self._lock:
            self._open.discard(future)
            self._running.discard(future)
            self._finished += counts

    def progress(self) -> Progress:
        """As it is now."""
        with self._lock:
            left, running, now = len(self._open), len(self._running), self.clock()
            finished, since = self._finished, self._finished - self._finished_before
            speed, began = self._speed(now), self._began
        seconds = left * (now - began) / since if since else None
        return Progress(finished, running, left - running, speed, seconds)

    def _speed(self, now: float) -> float:
        """Tokens per second since the latest look that is at least `WINDOW_S` ago, or since the work began."""
        seen, tokens = self._seen, self.tokens
        while len(seen) > 1 and seen[1][0] <= now - WINDOW_S:
            seen.popleft()
        if not seen:
            return 0.0
        (before, counted), last = seen[0], seen[-1][0]
        if now > last:
            seen.append((now, tokens))
        return (tokens - counted) / (now - before) if now > before else 0.0
