"""Slow work that many coroutines wait for and only one thread does. Standard library only."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Once(Generic[Value]):
    """Makes one value per key, in a thread of its own, while any number of coroutines await it.

    They may be in several threads and asyncio loops. Cancelling one of them doesn't stop the work for the others.
    What fails is raised to all who wait, and tried again at the next call.
    """

    def __init__(self) -> None:
        self._made: dict[str, Future[Value]] = {}
        self._lock = threading.Lock()

    async def get(self, key: str, make: Callable[[], Value]) -> Value:
        """The value of `key`; `make` is called where there is none yet."""
        with self._lock:
            future = self._made.get(key)
            if future is None:
                future = self._made[key] = Future()
                future.set_running_or_notify_cancel()  # from here on `cancel` has no effect
                threading.Thread(target=self._make, args=(key, future, make), name="steer-once", daemon=True).start()
        return await asyncio.wrap_future(future)

    def forget(self, key: str | None = None) -> list["Future[Value]"]:
        """Take out one key, or all; returns what was or is being made for them."""
        with self._lock:
            keys = list(self._made) if key is None else [key]
            return [self._made.pop(one) for one in keys if one in self._made]

    def _make(self, key: str, future: "Future[Value]", make: Callable[[], Value]) -> None:
        try:
            value = make()
        except BaseException as problem:
            with self._lock:
                if self._made.get(key) is future:
                    del self._made[key]
            future.set_exception(problem)
        else:
            future.set_result(value)
