"""Models that Inspect's providers share within a process, each opened once. No torch until one is loaded."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

from model_adapters.backends.local import open_local
from model_adapters.errors import Refused
from model_adapters.harnesses.once import Once
from model_adapters.harnesses.served import open_served


class Closes(Protocol):
    """What is opened once and closed in the end: a backend, or a service."""

    async def aclose(self) -> None:
        """Give back what is held."""
        ...


Held = TypeVar("Held", bound=Closes)


class Engines(Generic[Held]):
    """Opened backends by what they were opened with. Safe from several threads and asyncio loops."""

    def __init__(self, opener: Callable[..., Held]) -> None:
        self._opener = opener
        self._opened: Once[Held] = Once()
        self._holders: Counter[str] = Counter()
        self._lock = threading.Lock()

    async def acquire(self, name: str, arguments: Mapping[str, Any]) -> Held:
        """The backend of model `name`, loaded in a thread at the first call; give it back with `release`.

        Raises what loading raises.
        """
        key, opening = _key(name, arguments), dict(arguments)
        with self._lock:
            self._holders[key] += 1
        try:
            return await self._opened.get(key, lambda: self._opener(name, **opening))
        except BaseException:
            with self._lock:
                self._holders[key] -= 1
            raise

    async def release(self, name: str, arguments: Mapping[str, Any]) -> None:
        """Give a backend back; the last holder's release unloads it."""
        key = _key(name, arguments)
        with self._lock:
            self._holders[key] -= 1
            left = self._opened.forget(key) if self._holders[key] <= 0 else []
        for future in left:
            await (await asyncio.wrap_future(future)).aclose()

    async def unload(self) -> int:
        """Close every backend, held or not, and return how many there were."""
        with self._lock:
            self._holders.clear()
            left = self._opened.forget()
        for future in left:
            await (await asyncio.wrap_future(future)).aclose()
        return len(left)


def _key(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps([name, dict(arguments)], sort_keys=True)


ENGINES = Engines(open_local)
"""Of this process: weights are too large to load once per provider object, and Inspect makes several per eval."""


SERVED = Engines(open_served)
"""Of this process: a server is probed once, however many providers ask it."""


def check_loop() -> None:
    """Raise Refused where the running event loop is not asyncio's, which the engine's answers come back to."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise Refused("steered models run under asyncio; unset INSPECT_ASYNC_BACKEND") from None
