"""Answers that take long: found once for each question, and kept. Standard library only."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from model_adapters.ember_service.refusals import Busy


class Searches:
    """At most `running` at a time and `kept` results.

    A search goes on when whoever asked hangs up: the SDK gives up after 60 seconds, and when it asks again the answer
    is there. That is the one exception from what an abandoned request costs; `close` ends those under way.
    """

    def __init__(self, running: int = 4, kept: int = 256) -> None:
        self._running, self._kept = running, kept
        self._results: OrderedDict[object, Any] = OrderedDict()
        self._tasks: dict[object, asyncio.Task[Any]] = {}

    async def find(self, key: object, make: Callable[[], Awaitable[Any]]) -> Any:
        """The result of `make` for this key, made once. What it raises is raised, and not kept. Raises Busy."""
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key]
        task = self._tasks.get(key)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            if len(self._tasks) >= self._running:
                raise Busy(f"{self._running} searches are under way; ask again", seconds=10)
            task = self._tasks[key] = asyncio.ensure_future(self._make(key, make))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have no reader any more
        return await asyncio.shield(task)

    async def _make(self, key: object, make: Callable[[], Awaitable[Any]]) -> Any:
        try:
            self._results[key] = result = await make()
            while len(self._results) > self._kept:
                self._results.popitem(last=False)
            return result
        finally:
            self._tasks.pop(key, None)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
