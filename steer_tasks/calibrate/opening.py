"""Opening what a calibration asks: a model in this process or on a vLLM server, and its store."""

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from model_adapters.errors import Refused
from steer_tasks import runner as runners
from steer_tasks.calibrate.cost import Counted
from steer_tasks.calibrate.divergence import NO_DISTRIBUTIONS


def check_runner(given: argparse.Namespace, needs_kl: bool) -> None:
    """Raise SteerError for options that the runner doesn't take, and Refused for KL on one without distributions."""
    if given.runner != "local" and needs_kl:
        raise Refused(f"kl: a vLLM server {NO_DISTRIBUTIONS} (--runner local)")
    runners.check_runner(given)


@contextmanager
def opened(given: argparse.Namespace, runner: "asyncio.Runner") -> Iterator[Counted]:
    """The model behind its store, counted; closed in the end."""
    from model_adapters.backends.response_store import ResponseStore
    from model_adapters.backends.stored import stored

    backend = runners.open_model(given)
    store = None if given.no_store else ResponseStore()
    try:
        yield Counted(stored(backend, store), backend, store)
    finally:
        if store is not None:
            store.close()
        runner.run(backend.aclose())
