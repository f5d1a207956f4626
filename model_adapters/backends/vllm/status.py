"""What a vLLM server says of itself, and whether it steers, for people who look before they run. No tokenizer here."""

import asyncio
import os
from dataclasses import dataclass

import httpx

from model_adapters.backends.vllm.opening import KEY, PROBE_TEXT
from model_adapters.backends.vllm.probe import Probe
from model_adapters.backends.vllm.server import VllmServer
from model_adapters.errors import SteerError

SECONDS = 60.0
"""How long all questions together may take; a server that is busy answers later than that."""

TOKENS = 24
"""Length of the text that is read: of tokens that any vocabulary has where the server doesn't make some itself."""


@dataclass(frozen=True)
class Status:
    """A server that answers: its address, its version, the models it serves, and how the first of them was probed.

    `shape` is `(n_layers, d_model)`; `problem` says why it doesn't steer, None where it does.
    """

    url: str
    version: str | None
    served: tuple[str, ...]
    shape: tuple[int, int] | None = None
    dtype: str | None = None
    problem: str | None = None


async def server_status(address: str, transport: httpx.AsyncBaseTransport | None = None) -> Status:
    """Ask the server at an address, and probe it: a vector at all positions, and one at those of an answer.

    The key comes from the environment. Raises SteerError where it can't be reached, or doesn't answer in time.
    """
    server = VllmServer(address, os.environ.get(KEY) or None, transport=transport)
    try:
        async with asyncio.timeout(SECONDS):
            return await _asked(server)
    except TimeoutError:
        raise SteerError(f"vLLM at {server.url} doesn't answer within {SECONDS:g} seconds; look at its log") from None
    finally:
        await server.aclose()


async def _asked(server: VllmServer) -> Status:
    served = tuple(str(card["id"]) for card in await server.models())
    version = await server.version()
    if not served:
        return Status(server.url, version, served, problem=f"vLLM at {server.url} serves no model")
    shape = dtype = problem = None
    try:
        tokens = await server.tokens_of(served[0], PROBE_TEXT) or list(range(1, TOKENS + 1))
        probe = Probe(server, served[0], (tokens * TOKENS)[:TOKENS])
        shape, dtype = await probe.shape(), await probe.dtype()
        await probe.check_steers(*shape)
        await probe.check_counts(*shape)
    except SteerError as found:
        problem = str(found)
    return Status(server.url, version, served, shape, dtype, problem)
