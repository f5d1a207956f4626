"""Responses kept on disk between runs, as JSON in a SQLite database. diskcache and the standard library only."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from diskcache import UNKNOWN, Cache, JSONDisk, Timeout

from model_adapters.cache import cache_folder
from model_adapters.errors import SteerError

log = logging.getLogger(__name__)

LOCKED_S = 10.0
"""How long another process may hold the database before nothing more is stored."""

RAW = 1
"""diskcache's mark of a value that stands in its row as it is, neither in a file nor pickled."""

SETTINGS = {"disk_min_file_size": 2**30, "eviction_policy": "none", "cull_limit": 0, "size_limit": 2**62}
"""Everything in one database, and nothing thrown away."""


class JsonDisk(JSONDisk):
    """Text keys, and values as compressed JSON.

    Whatever else a database holds is refused: diskcache would unpickle a row that is marked so, and read a file that
    a row names.
    """

    def put(self, key: str) -> tuple[str, bool]:
        """The key as the database holds it."""
        return key, True

    def get(self, key: object, raw: bool) -> object:
        """The same, backwards."""
        if not raw:
            raise ValueError("a key is not text")
        return key

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> Any:
        """The value of a row. Raises ValueError for a form that `store` doesn't write."""
        if mode != RAW or filename is not None or not isinstance(value, bytes) or read:
            raise ValueError("a row is not compressed JSON")
        return super().fetch(mode, filename, value, read)

    def store(self, value: object, read: bool, key: object = UNKNOWN) -> tuple[int, int, str | None, object]:
        """The columns of a row."""
        size, mode, filename, held = super().store(value, read, key)
        if mode != RAW:
            raise ValueError("an answer is larger than a row takes")
        return size, mode, filename, held


class ResponseStore:
    """Plain data by key, in `folder`, which several processes may use at once.

    It never fails a run: what can't be read is missing, what can't be written is left out, and each kind of trouble
    is logged once. One thread of its own does the work, so no event loop waits for a disk. `found` and `missing` count
    what was looked for. Raises SteerError where the folder can't be made.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder("responses") if folder is None else folder.expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise SteerError(f"store={self.folder}: no folder can be made there ({problem.strerror})") from problem
        self.found = self.missing = 0
        self._asked: Counter[str] = Counter()
        self._told: set[str] = set()
        self._cache: Cache | None = None
        self._is_broken = self._is_locked = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="steer-responses")

    def occurrence(self, key: str) -> int:
        """How often this was called with `key` before: tells apart the samples of one run that ask the same."""
        self._asked[key] += 1
        return self._asked[key] - 1

    async def get(self, key: str, read: Callable[[Any], Any]) -> Any:
        """What `read` makes of the value of `key`; None where there is none, or none that `read` takes."""
        found = await asyncio.get_running_loop().run_in_executor(self._thread, self._get, key, read)
        self.found += found is not None
        self.missing += found is None
        return found

    async def put(self, key: str, value: object) -> None:
        """Keep a value under `key`, in place of what is there."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._put, key, value)

    def close(self) -> None:
        """Write what is under way, close the database and end the thread."""
        with suppress(RuntimeError):  # it was closed before
            self._thread.submit(self._shut)
        self._thread.shutdown()

    def _shut(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def _get(self, key: str, read: Callable[[Any], Any]) -> Any:
        cache = self._opened()
        if cache is None:
            return None
        try:
            value = cache.get(key)
            return None if value is None else read(value)
        except Exception as problem:  # whatever a damaged row makes of itself
            self._tell("an entry can't be read and is asked for anew", problem)
            return None

    def _put(self, key: str, value: object) -> None:
        cache = self._opened()
        if cache is None or self._is_locked:
            return
        try:
            cache.set(key, value)
        except Timeout as problem:  # waiting anew for every answer would take hours
            self._is_locked = True
            self._tell("another process keeps it locked, so nothing more is stored", problem)
        except Exception as problem:  # a full disk
            self._tell("an answer can't be stored", problem)

    def _opened(self) -> "Cache | None":
        if self._cache is None and not self._is_broken:
            try:
                self._cache = Cache(str(self.folder), timeout=LOCKED_S, disk=JsonDisk, **SETTINGS)
            except Exception as problem:  # no database, a damaged one, no right to write, a full disk
                self._is_broken = True
                self._tell("it can't be opened, so nothing is stored; remove the folder to begin anew", problem)
        return self._cache

    def _tell(self, what: str, problem: Exception) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("response store %s: %s (%s: %s)", self.folder, what, type(problem).__name__, problem)
