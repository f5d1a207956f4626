"""A local model's progress among the counters of Inspect's display. Imports inspect_ai."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from inspect_ai.util import display_counter, display_type

from model_adapters.backends.local.progress import ShowsProgress

EVERY_S, EVERY_LOGGED_S = 1.0, 30.0
"""How often it is shown; the display `log` writes a line each time."""


class ProgressCounter:
    """Shows how far a backend is, under `caption`, while it is asked; for the requests of one event loop at a time."""

    def __init__(self, caption: str) -> None:
        self._caption, self._asking = caption, 0
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def shown(self, backend: object) -> Iterator[None]:
        """Show it meanwhile, where the backend knows how far it is and an eval has a display."""
        if not isinstance(backend, ShowsProgress):
            yield
            return
        self._asking += 1
        if self._asking == 1:
            self._task = asyncio.create_task(self._show(backend))
        try:
            yield
        finally:
            self._asking -= 1
            if self._asking == 0 and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _show(self, backend: ShowsProgress) -> None:
        while _has_display():
            with suppress(Exception):  # a display that is just coming or going
                found = backend.progress()
                display_counter(self._caption, f"finished {found.finished}, {found}")
            await asyncio.sleep(EVERY_LOGGED_S if display_type() == "log" else EVERY_S)


def _has_display() -> bool:
    """Whether an eval shows something. To ask Inspect for its display outside one would settle which it is."""
    try:
        # Not public; where a version of Inspect has it elsewhere, nothing is shown.
        from inspect_ai._display.core.active import active_display
    except ImportError:
        return False
    return active_display() is not None
