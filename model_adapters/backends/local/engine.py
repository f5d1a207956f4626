"""The one thread that owns the model: it takes waiting jobs, batches what fits, and runs them. Imports torch."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from model_adapters.backends.local.jobs import settle
from model_adapters.backends.local.progress import Tally
from model_adapters.errors import SteerError

LINGER_S = 0.02
"""How long the thread waits for company before it starts a batch; harnesses submit many requests in one go."""

COMPANY_S = 3.0
"""How long scorings wait for each other while answers are written: answers of a grid are scored as they end, and each
pass has costs of its own."""

PATIENCE_S = 10.0
"""After this long a batch starts even while requests keep coming."""


class Job(Protocol):
    """Something waiting for the thread. Jobs of one `kind` run together."""

    kind: str
    future: "Future[Any]"


class Writes(Protocol):
    """Who writes answers: rows that join and leave between steps."""

    @property
    def is_busy(self) -> bool:
        """Whether rows are being written."""
        ...

    def admit(self, waiting: Sequence[Any]) -> list[Any]:
        """Start what there is room for; returns the jobs that must wait, first of all or again."""
        ...

    def step(self) -> list[Any]:
        """One token for every row; returns jobs that must wait again."""
        ...

    def fail(self, problem: BaseException) -> None:
        """Let all rows go, and tell those who wait for them."""
        ...


@dataclass
class Engine:
    """Runs jobs in a thread of its own. Jobs of kind `generation` go to `writer` and are written together, whenever
    they come; of the other kinds, `run` has what runs a batch, chosen by `choose`, and settles every job's future.
    While answers are written, scorings wait a moment until they are `company`. `tally` counts all jobs."""

    writer: Writes
    run: dict[str, Callable[[Sequence[Any]], None]]
    choose: Callable[[list[Any]], list[Any]]
    tally: Tally = field(default_factory=Tally)
    company: int = 8
    _arrivals: "queue.SimpleQueue[Job | None]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False
    _ran: int = 0
    _waits_since: float | None = None

    def submit(self, job: Job) -> None:
        """Queue a job; its future is settled by the thread. Raises SteerError after `close`."""
        with self._starting:  # held while queueing, so that no job arrives behind the closing mark
            if self._closed:
                raise SteerError("the backend is closed; open it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="steer-engine", daemon=True)
                self._thread.start()
            self.tally.enter(job.future)
            self._arrivals.put(job)

    def close(self) -> None:
        """Finish the batch at hand, fail what waits with SteerError, and end the thread."""
        with self._starting:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                self._arrivals.put(None)
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        waiting: list[Job] = []
        closing = False
        while not (closing and not self.writer.is_busy):
            closing = self._collect(waiting) or closing
            if closing:
                _fail(waiting, SteerError("the backend was closed while this request waited; open it again"))
                waiting.clear()
            with torch.inference_mode():
                self._turn(waiting)

    def _turn(self, waiting: list[Job]) -> None:
        """One batch of scoring or reading, new rows where there is room, and one token for every row."""
        self._ran = 0
        if self._is_due(waiting):
            self._ran = self._run_one_batch(waiting)
        if generations := [job for job in waiting if job.kind == "generation"]:
            left = self._admitted(generations)  # rows that must begin again may be among them
            waiting[:] = [*(job for job in waiting if job.kind != "generation"), *left]
        if self.writer.is_busy:
            try:
                waiting += self.writer.step()
            except BaseException as problem:  # the thread outlives any one step
                self.writer.fail(problem)

    def _is_due(self, waiting: Sequence[Job]) -> bool:
        """Whether a batch other than of generations is to run now: at once unless answers are being written; then when
        there is a reading, or company, or the first has waited for long."""
        others = [job for job in waiting if job.kind != "generation"]
        now = time.monotonic()
        self._waits_since = None if not others else (self._waits_since or now)
        if self._waits_since is None:
            return False
        is_idle, waits = not self.writer.is_busy, now - self._waits_since >= COMPANY_S
        is_due = is_idle or waits or len(others) >= self.company or any(job.kind != "scoring" for job in others)
        if is_due:
            self._waits_since = None
        return is_due

    def _admitted(self, generations: list[Job]) -> list[Job]:
        try:
            return self.writer.admit(generations)
        except BaseException as problem:  # the thread outlives any one request
            _fail(generations, problem)
            return []

    def _collect(self, waiting: list[Job]) -> bool:
        """Add what has arrived to `waiting`; whether the engine is to close.

        An idle engine waits for work, and a moment longer for its company; where a whole batch more is waiting
        already, nobody's company is missing.
        """
        patience_ends = time.monotonic() + PATIENCE_S
        is_full = bool(waiting) and len(waiting) >= self._ran
        pause: float | None = 0.0 if self.writer.is_busy or is_full else (LINGER_S if waiting else None)
        while time.monotonic() < patience_ends:
            try:
                arrived = self._arrivals.get(timeout=pause) if pause != 0.0 else self._arrivals.get_nowait()
            except queue.Empty:
                return False
            if arrived is None:
                return True
            waiting.append(arrived)
            if pause is None:
                pause, patience_ends = LINGER_S, time.monotonic() + PATIENCE_S
        return False

    def _run_one_batch(self, waiting: list[Job]) -> int:
        """Take one batch out of `waiting` and run it; returns how many jobs it held."""
        kind = next(job.kind for job in waiting if job.kind != "generation")
        chosen = self.choose([job for job in waiting if job.kind == kind])
        taken = {id(job) for job in chosen}
        waiting[:] = [job for job in waiting if id(job) not in taken]
        started = [job for job in chosen if job.future.set_running_or_notify_cancel()]
        if started:
            for job in started:
                self.tally.begin(job.future)
            self._run(kind, started)
        return len(chosen)

    def _run(self, kind: str, started: Sequence[Job]) -> None:
        """Run a batch; one that fails is run in halves: memory may be too short for the whole, or one job at fault."""
        try:
            self.run[kind](started)
        except BaseException as problem:  # the thread outlives any one batch
            rest = [job for job in started if not job.future.done()]
            if len(rest) == 1:
                _fail(rest, problem)
            for some in (rest[: len(rest) // 2], rest[len(rest) // 2 :]) if len(rest) > 1 else ():
                self._run(kind, some)
        _fail(started, RuntimeError("the engine ended the batch without an answer"))


def _fail(jobs: Sequence[Job], problem: BaseException) -> None:
    """Tell those who still wait; a job that was begun and sent back to wait again is told like any other."""
    for job in jobs:
        settle(job.future, problem)
