"""The one thread that owns the model: it takes waiting jobs, batches what fits, and runs them. Imports torch."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from model_adapters.errors import SteerError

LINGER_S = 0.02
"""How long the thread waits for company before it starts a batch; harnesses submit many requests in one go."""

PATIENCE_S = 10.0
"""After this long a batch starts even while requests keep coming."""


class Job(Protocol):
    """Something waiting for the thread. Jobs of one `kind` run together."""

    kind: str
    future: "Future[Any]"

    @property
    def length(self) -> int:
        """Tokens the job brings; rows of like length pad less."""
        ...


@dataclass
class Engine:
    """Runs jobs in a thread of its own. `run` maps a kind to what runs a batch and must settle every job's future."""

    run: dict[str, Callable[[Sequence[Any]], None]]
    choose: Callable[[list[Any]], list[Any]]
    _arrivals: "queue.SimpleQueue[Job | None]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None
    _starting: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def submit(self, job: Job) -> None:
        """Queue a job; its future is settled by the thread. Raises SteerError after `close`."""
        with self._starting:  # held while queueing, so that no job arrives behind the closing mark
            if self._closed:
                raise SteerError("the backend is closed; open it again")
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="steer-engine", daemon=True)
                self._thread.start()
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
        pause, patience_ends = LINGER_S, 0.0
        while True:
            try:
                arrived = self._arrivals.get(timeout=pause) if waiting else self._arrivals.get()
            except queue.Empty:
                ran = self._run_one_batch(waiting)
                # Where a whole batch more is waiting already, nobody's company is missing.
                pause = 0.0 if len(waiting) >= ran else LINGER_S
                patience_ends = time.monotonic() + PATIENCE_S
                continue
            if arrived is None:
                _fail(waiting, SteerError("the backend was closed while this request waited; open it again"))
                return
            if not waiting:
                pause, patience_ends = LINGER_S, time.monotonic() + PATIENCE_S
            waiting.append(arrived)
            if time.monotonic() > patience_ends:
                self._run_one_batch(waiting)
                patience_ends = time.monotonic() + PATIENCE_S

    def _run_one_batch(self, waiting: list[Job]) -> int:
        """Take one batch out of `waiting` and run it; returns how many jobs it held."""
        kind = waiting[0].kind
        chosen = self.choose([job for job in waiting if job.kind == kind])
        taken = {id(job) for job in chosen}
        waiting[:] = [job for job in waiting if id(job) not in taken]
        started = [job for job in chosen if job.future.set_running_or_notify_cancel()]
        if started:
            self._run(kind, started)
        return len(chosen)

    def _run(self, kind: str, started: Sequence[Job]) -> None:
        try:
            with torch.inference_mode():
                self.run[kind](started)
        except BaseException as problem:  # the thread outlives any one batch
            for job in started:
                if not job.future.done():
                    job.future.set_exception(problem)
        for job in started:
            if not job.future.done():
                job.future.set_exception(RuntimeError("the engine ended the batch without an answer"))


def _fail(jobs: Sequence[Job], problem: Exception) -> None:
    for job in jobs:
        if job.future.set_running_or_notify_cancel():
            job.future.set_exception(problem)
