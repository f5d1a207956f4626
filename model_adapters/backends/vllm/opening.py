"""Opening a vLLM server: which model it serves, whether it steers, and the tokenizer that prompts are rendered with."""

import os
from collections.abc import Mapping
from typing import Any

import httpx

from model_adapters.backends.encoding import Encoding
from model_adapters.backends.vllm.backend import VllmBackend
from model_adapters.backends.vllm.probe import Probe
from model_adapters.backends.vllm.server import CONCURRENCY, VllmServer
from model_adapters.errors import SteerError
from model_adapters.identity import ModelIdentity

KEY = "VLLM_API_KEY"
"""The variable that vLLM itself takes its key from."""

PROBE_TEXT = "The probe of a steered model reads this short text: one, two, three, four, five, six."


async def open_vllm(
    name: str,
    tokenizer: Any,
    base_url: str,
    *,
    served_as: str | None = None,
    add_bos_token: bool | None = None,
    prefix_token_id: int | None = None,
    max_length: int | None = None,
    template_arguments: Mapping[str, object] | None = None,
    template_mode: str | None = None,
    revision: str | None = None,
    arguments: Mapping[str, str] | None = None,
    config_shape: tuple[int, int] | None = None,
    concurrency: int = CONCURRENCY,
    transport: httpx.AsyncBaseTransport | None = None,
) -> VllmBackend:
    """A backend on the server at `base_url`, probed: a zero and a non-zero vector, before any answer is asked for.

    `tokenizer` must be the served model's own, of this `revision`; `served_as` is the server's name of the model where
    it serves several; `arguments` enter the identity; `config_shape` is `(n_layers, d_model)` of the model that is
    meant, where that is known here. The key comes from the environment. Raises SteerError where the server can't be
    reached, serves another model, reads texts as other tokens or has no vllm-lens, NotApplied where it doesn't steer
    as asked.
    """
    server = VllmServer(base_url, os.environ.get(KEY) or None, concurrency=concurrency, transport=transport)
    try:
        card = _chosen(await server.models(), served_as, name, server.url)
        encoding = Encoding(tokenizer, add_bos_token, prefix_token_id, dict(template_arguments or {}))
        await _check_tokens(server, card["id"], encoding, name)
        probe = Probe(server, card["id"], _probe_tokens(encoding))
        shape = await probe.shape()
        if config_shape is not None and config_shape != shape:
            raise SteerError(
                f"vLLM at {server.url} serves {card['id']} of {_size(shape)}, and {name} has {_size(config_shape)}; "
                "name the served model"
            )
        await probe.check_steers(*shape)
        length = min(int(card.get("max_model_len") or 2048), max_length or 2**31)
        identity = ModelIdentity(
            name=name,
            backend="vllm",
            revision=revision,
            dtype=await probe.dtype(),
            url=server.url,
            template_digest=encoding.template_digest,
            template_mode=template_mode,
            arguments={
                "served": str(card.get("root") or card["id"]),
                "version": str(await server.version()),
                "max_length": str(length),
                "add_bos_token": str(add_bos_token),
                "prefix_token_id": str(prefix_token_id),
                "template_arguments": repr(sorted((template_arguments or {}).items())),
                **(arguments or {}),
            },
        )
    except BaseException:
        await server.aclose()
        raise
    return VllmBackend(server, encoding, probe, served_as=card["id"], shape=shape, max_length=length, identity=identity)


def _chosen(cards: list[dict[str, Any]], served_as: str | None, name: str, url: str) -> dict[str, Any]:
    """The card of the model that is meant: by the server's name of it, or the only one there is."""
    wanted = served_as or name
    for card in cards:
        if wanted in (card["id"], card.get("root")):
            return card
    if served_as is None and len(cards) == 1:
        return cards[0]
    known = ", ".join(card["id"] for card in cards) or "nothing"
    raise SteerError(f"vLLM at {url} serves {known}, not {wanted}; give served_as=NAME")


async def _check_tokens(server: VllmServer, model: str, encoding: Encoding, name: str) -> None:
    """Raise SteerError where the server's tokenizer is another one: token ids would mean other words there."""
    theirs = await server.tokens_of(model, PROBE_TEXT)
    if theirs is not None and theirs != encoding.encode_bare(PROBE_TEXT):
        raise SteerError(
            f"the tokenizer of {name} isn't that of {model}, which vLLM at {server.url} serves; name the served model, "
            "or give tokenizer=…"
        )


def _size(shape: tuple[int, int]) -> str:
    return f"{shape[0]} layers of width {shape[1]}"


def _probe_tokens(encoding: Encoding) -> list[int]:
    tokens = encoding.encode(PROBE_TEXT)
    return (tokens * 10)[: max(10, min(len(tokens), 24))]
