"""Where a host's run keeps its answers: the argument `store`, and what `steer run` sets around its models. No host."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from model_adapters.errors import Refused

if TYPE_CHECKING:
    from model_adapters.backends.response_store import ResponseStore

_OF_RUN: "ContextVar[ResponseStore | None]" = ContextVar("steer_response_store", default=None)


def opened_store(given: object) -> "ResponseStore | None":
    """The store that an argument asks for: true is the one in the cache folder, a text a folder, false or None none.

    Raises Refused for any other value, SteerError where there can't be such a folder.
    """
    spelt = {"true": True, "false": False, "none": False}.get(str(given).lower(), given)
    if spelt is False:
        return None
    if spelt is not True and not (isinstance(given, str) and given):
        raise Refused(f"store={given!r}; it is true, false, or a folder")
    from model_adapters.backends.response_store import ResponseStore

    return ResponseStore(None if spelt is True else Path(str(given)))


def run_store() -> "ResponseStore | None":
    """What the run around this call keeps answers in. It is no model argument, as those name a cell in Inspect."""
    return _OF_RUN.get()


@contextmanager
def kept_in(store: "ResponseStore | None") -> Iterator[None]:
    """Models that are asked inside keep their answers in `store`, which is closed in the end."""
    token = _OF_RUN.set(store)
    try:
        yield
    finally:
        _OF_RUN.reset(token)
        if store is not None:
            store.close()
