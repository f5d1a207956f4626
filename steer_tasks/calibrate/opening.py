"""Opening what a calibration asks: a model in this process or on a vLLM server, its store, its judge."""

import argparse
import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from model_adapters.errors import Refused, SteerError
from steer_tasks.calibrate.cost import Counted
from steer_tasks.calibrate.divergence import NO_DISTRIBUTIONS

RUNNERS = ("local", "vllm")


def check_runner(given: argparse.Namespace, needs_kl: bool) -> None:
    """Raise SteerError for options that the runner doesn't take, and Refused for KL on one without distributions."""
    if given.runner == "local" and (given.base_url or given.served_as):
        raise SteerError("--base-url and --served-as belong to --runner vllm; add it, or leave them out")
    if given.runner == "local":
        return
    if needs_kl:
        raise Refused(f"kl: a vLLM server {NO_DISTRIBUTIONS} (--runner local)")
    if not given.base_url:
        raise SteerError("--runner vllm needs --base-url http://HOST:PORT")
    if given.dtype or given.device:
        raise SteerError("--dtype and --device are the server's matter; start it with them")


@contextmanager
def opened(given: argparse.Namespace, runner: "asyncio.Runner") -> Iterator[Counted]:
    """The model behind its store, counted; closed in the end."""
    from model_adapters.backends.response_store import ResponseStore
    from model_adapters.backends.stored import stored

    backend = runner.run(_open(given))
    store = None if given.no_store else ResponseStore()
    try:
        yield Counted(stored(backend, store), backend, store)
    finally:
        if store is not None:
            store.close()
        runner.run(backend.aclose())


async def _open(given: argparse.Namespace) -> Any:
    from model_adapters.backends.local.loading import model_tokenizer, open_local

    if given.runner == "local":
        return open_local(given.model, dtype=given.dtype, device=given.device, revision=given.revision)
    from model_adapters.backends.vllm import open_vllm

    tokenizer = model_tokenizer(given.model, given.revision)
    return await open_vllm(given.model, tokenizer, given.base_url, served_as=given.served_as, revision=given.revision)
