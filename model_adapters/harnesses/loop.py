"""An event loop in a thread of its own, for hosts that call without one or from inside one. Standard library only."""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

Result = TypeVar("Result")
LOOK_S = 1.0
"""How long a caller waits for a call to finish before it may do something else."""

Call = Callable[[], Coroutine[Any, Any, Result]]


class LoopThread:
    """Runs coroutines for synchronous code. It never touches the caller's own loop, so it works in a notebook too."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="steer-loop", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run one coroutine to its end and give its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def as_finished(
        self, calls: Sequence[Call[Result]], meanwhile: Callable[[], object] | None = None
    ) -> Iterator[tuple[int, Result | BaseException]]:
        """Start all calls at once; yield (index, result or exception) in the caller's thread, in order of finishing.

        What still runs when the caller stops asking is cancelled. `meanwhile` is called in the caller's thread every
        second in which nothing finishes.
        """
        finished: queue.SimpleQueue[tuple[int, Result | BaseException]] = queue.SimpleQueue()

        async def one(index: int, call: Call[Result]) -> None:
            try:
                finished.put((index, await call()))
            except BaseException as problem:  # handed over, so that one failure doesn't hide the others' results
                finished.put((index, problem))

        async def start() -> list[asyncio.Task[None]]:
            return [asyncio.create_task(one(index, call)) for index, call in enumerate(calls)]

        tasks = self.run(start())
        try:
            for _ in calls:
                yield _next(finished, meanwhile)
        finally:
            for task in tasks:
                self._loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Stop the loop and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _next(finished: "queue.SimpleQueue[Result]", meanwhile: Callable[[], object] | None) -> Result:
    while True:
        try:
            return finished.get(timeout=LOOK_S)
        except queue.Empty:
            if meanwhile is not None:
                meanwhile()
