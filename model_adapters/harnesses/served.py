"""A model on a vLLM server, opened: its tokenizer and its config are read here, its weights never are. No host."""

import asyncio
from collections.abc import Mapping

from model_adapters.backends.local.loading import model_shape, model_tokenizer
from model_adapters.backends.vllm import CONCURRENCY, VllmBackend, open_vllm
from model_adapters.errors import SteerError


def known_shape(name: str, revision: str | None = None) -> tuple[int, int] | None:
    """`(n_layers, d_model)` from the model's config; None where only the server knows it."""
    try:
        return model_shape(name, revision)
    except SteerError:
        return None


def open_served(
    name: str,
    *,
    base_url: str,
    served_as: str | None = None,
    tokenizer: str | None = None,
    revision: str | None = None,
    rows: int = CONCURRENCY,
    max_length: int | None = None,
    template_arguments: Mapping[str, object] | None = None,
) -> VllmBackend:
    """A probed backend on the vLLM server at `base_url`, with the tokenizer of `name`, or another one's.

    `rows` is how many requests are under way at once. Blocks, outside an event loop. Raises what `open_vllm` raises,
    and SteerError where the tokenizer isn't there.
    """
    read = model_tokenizer(tokenizer or name, revision)

    async def opened() -> VllmBackend:
        backend = await open_vllm(
            name,
            read,
            base_url,
            served_as=served_as,
            max_length=max_length,
            template_arguments=template_arguments,
            revision=revision,
            arguments={} if tokenizer is None else {"tokenizer": tokenizer},
            config_shape=known_shape(name, revision),
            concurrency=rows,
        )
        await backend.aclose()  # the connections of this loop, which ends here; others open their own
        return backend

    return asyncio.run(opened())
