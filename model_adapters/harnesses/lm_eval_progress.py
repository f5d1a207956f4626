"""A local model's progress at the end of lm-eval's bar. No torch."""

import time
from collections.abc import Callable
from typing import Any

from model_adapters.backends.local.progress import ShowsProgress

EVERY_S = 1.0
"""How often it changes at most."""


class ShownProgress:
    """Writes how far `backend` is behind a bar of tqdm; nothing where the bar is off or the backend doesn't know."""

    def __init__(self, bar: Any, backend: object, clock: Callable[[], float] = time.monotonic) -> None:
        self._bar, self._clock, self._next = bar, clock, clock() + EVERY_S
        self._backend = None if bar.disable or not isinstance(backend, ShowsProgress) else backend

    def look(self) -> None:
        """Bring it up to date, where that was a second ago."""
        if self._backend is not None and self._clock() >= self._next:
            self._next = self._clock() + EVERY_S
            self._bar.set_postfix_str(str(self._backend.progress()))
