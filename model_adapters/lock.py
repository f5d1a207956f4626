"""One at a time across processes, threads and coroutines. Standard library and filelock only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from filelock import FileLock, Timeout

POLL_S = 0.05


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock file at `path` meanwhile; waiting for it leaves the event loop free.

    A blocking wait would stop the very coroutine that holds the lock when both run in one loop.
    """
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            await asyncio.sleep(POLL_S)
    try:
        yield
    finally:
        lock.release()
