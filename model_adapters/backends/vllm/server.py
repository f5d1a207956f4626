"""HTTP to a vLLM server: token ids in, tokens, scores and activations out. httpx only."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from model_adapters.backends.vllm.address import checked_address
from model_adapters.errors import Refused, SteerError

CONCURRENCY = 256
"""Requests under way at once where nothing is asked for: as many as vLLM takes into a batch by its own default."""

CONNECT_S = 10.0
ANSWER_S = 3600.0
"""A queue of long answers may take this long; a dead server is noticed by its closed connection."""

LOOK_S = 60.0
"""What runs no model answers sooner."""

KEPT_S = 2.0
"""An idle connection is let go before the server closes it (5 seconds), so that no request meets a closing one."""

AWAY = (429, 502, 503, 504)
"""What a full server says, and what stands before one says while it is away."""


class Lost(SteerError):
    """A request without an answer, as the connection was lost or the server was away for a moment; it may be asked
    again. What the server does must then be probed again: it may be another process."""


@dataclass(frozen=True)
class _Lane:
    """Connections of one event loop."""

    client: httpx.AsyncClient
    slots: asyncio.Semaphore


class VllmServer:
    """A server at `url` (with or without `/v1`). Works from any event loop; `transport` stands in for the network.

    At most `concurrency` requests are under way, the server batches them. The key is sent and never shown.
    `losses` counts the requests that raised Lost.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        concurrency: int = CONCURRENCY,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = checked_address(url)
        self.losses = 0
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._concurrency, self._transport = concurrency, transport
        self._lanes: dict[asyncio.AbstractEventLoop, _Lane] = {}

    async def models(self) -> list[dict[str, Any]]:
        """The served models, as the server lists them."""
        listed = await self._ask("GET", "/v1/models")
        return [one for one in listed.get("data", []) if isinstance(one, dict) and isinstance(one.get("id"), str)]

    async def version(self) -> str | None:
        """The server's version; None where it doesn't say."""
        try:
            found = (await self._ask("GET", "/version")).get("version")
        except Refused:
            return None
        return None if found is None else str(found)

    async def tokens_of(self, model: str, text: str) -> list[int] | None:
        """The tokens that the server itself makes of a text, without special ones; None where it doesn't say."""
        try:
            body = {"model": model, "prompt": text, "add_special_tokens": False}
            found = (await self._ask("POST", "/tokenize", body)).get("tokens")
        except Refused:
            return None
        return [int(token) for token in found] if isinstance(found, list) else None

    async def complete(
        self, model: str, tokens: Sequence[int], extra: Mapping[str, object], more: Mapping[str, object]
    ) -> dict[str, Any]:
        """The body of one completion; `extra` are vllm-lens' arguments, `more` those of the request itself.

        Everything that a model's own generation config could set on the server is said, so that it sets nothing.
        """
        body = {
            "model": model,
            "prompt": list(tokens),
            "add_special_tokens": False,
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "n": 1,
            **more,
        }
        if extra:
            body["vllm_xargs"] = {name: json.dumps(value) for name, value in extra.items()}
        return await self._ask("POST", "/v1/completions", body, ANSWER_S)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        lane = self._lanes.pop(asyncio.get_running_loop(), None)
        if lane is not None:
            await lane.client.aclose()

    async def _ask(
        self, verb: str, path: str, body: Mapping[str, object] | None = None, seconds: float | None = None
    ) -> dict[str, Any]:
        seconds = LOOK_S if seconds is None else seconds
        lane = self._lane()
        timeout = httpx.Timeout(seconds, connect=CONNECT_S, pool=ANSWER_S)
        async with lane.slots:
            try:
                answer = await lane.client.request(verb, self.url + path, json=body, timeout=timeout)
            except httpx.ReadTimeout:
                raise SteerError(
                    f"vLLM at {self.url} gave no answer to {path} within {seconds:g} seconds; look at its log"
                ) from None
            except httpx.HTTPError as problem:
                why = str(problem) or type(problem).__name__
                raise self._lost(f"can't be reached ({why}); is `vllm serve` running there?") from None
        if answer.status_code in (401, 403):
            raise SteerError(f"vLLM at {self.url} refuses the key; set VLLM_API_KEY to the server's --api-key")
        if answer.status_code in AWAY:
            raise self._lost(f"answers {answer.status_code}; is `vllm serve` running there, and not too busy?")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.status_code >= 400 or not isinstance(found, dict):
            raise _problem(self.url, answer.status_code, found)
        return found

    def _lost(self, why: str) -> Lost:
        self.losses += 1
        return Lost(f"vLLM at {self.url} {why}")

    def _lane(self) -> _Lane:
        loop = asyncio.get_running_loop()
        lane = self._lanes.get(loop)
        if lane is None:
            # Connections of a loop that has ended can't be closed any more, only let go.
            for ended in [one for one in self._lanes if one.is_closed()]:
                del self._lanes[ended]
            most = self._concurrency
            limits = httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=KEPT_S)
            transport = self._transport or httpx.AsyncHTTPTransport(retries=3, limits=limits)
            client = httpx.AsyncClient(transport=transport, headers=self._headers)
            lane = self._lanes[loop] = _Lane(client, asyncio.Semaphore(self._concurrency))
        return lane


def _problem(url: str, status: int, body: Any) -> SteerError:
    held = body.get("error", body) if isinstance(body, dict) else {}
    said = held.get("message") if isinstance(held, dict) else None
    kind = Refused if 400 <= status < 500 else SteerError
    return kind(f"vLLM at {url} answers {status}: {said or 'no reason given'}")
