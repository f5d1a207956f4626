"""One at a time for each key: equal requests wait for the first, whose answer a cache then gives them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Turns:
    """Locks by key, for the coroutines of one event loop at a time."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, key: str | None) -> AsyncIterator[None]:
        """Waits until nobody else holds `key`; None waits for nobody."""
        if key is None:
            yield
            return
        lock, waiting = self._locks.get(key, (anyio.Lock(), 0))
        self._locks[key] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            lock, waiting = self._locks[key]
            if waiting == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, waiting - 1)
