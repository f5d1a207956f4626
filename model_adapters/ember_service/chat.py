"""Chat completions, plain and streamed, and tokens of a conversation. Imports fastapi."""

import math
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from model_adapters import backend as seam
from model_adapters.backend import Completion, Sampling, check_applied
from model_adapters.ember_service.connection import DONE, EventStream, event, while_wanted
from model_adapters.ember_service.refusals import Unprocessable, withheld
from model_adapters.ember_service.schemas import ChatRequest, TokenizeRequest, messages_of
from model_adapters.ember_service.service import EmberService, Steered
from model_adapters.errors import Refused

LONGEST_DELTA = 512
"""Characters of one event's text: a longer one might be cut in two on its way, which the SDK can't read."""

FINISH = {
    "stop": "stop",
    "stop_string": "stop",
    "interrupt": "stop",
    "max_tokens": "length",
    "context_length": "length",
}


def chat_routes(service: EmberService) -> APIRouter:
    """`/chat/completions` and `/chat/tokenize`."""
    routes = APIRouter()

    @routes.post("/chat/completions")
    async def complete(asked: ChatRequest, request: Request) -> Response:
        service.check_model(asked.model)
        steered = await service.steered(asked.controller)
        wanted = seam.Request(messages_of(asked.messages), steered.resolved, sampling_of(asked))
        answer = _Answer(service, asked.model, steered)
        try:
            if not asked.stream:
                completion = await while_wanted(request, service.backend.complete(wanted))
                return JSONResponse(answer.whole(completion))
            pieces = service.backend.stream(wanted)
            # Before any status is sent, so that a refusal still has one of its own.
            first = await while_wanted(request, anext(pieces))
        except Refused as problem:
            raise Unprocessable(str(problem), "body", "messages") from problem
        return EventStream(answer.events(first, pieces))

    @routes.post("/chat/tokenize")
    async def tokenize(asked: TokenizeRequest) -> JSONResponse:
        service.check_model(asked.model)
        tokens = service.backend.tokenize(messages_of(asked.messages))
        return JSONResponse({"tokens": [{"value": text, "id": number} for number, text in tokens]})

    return routes


def sampling_of(asked: ChatRequest) -> Sampling:
    """How tokens are chosen. A nucleus of 0 holds the likeliest token alone, so it is greedy."""
    temperature = 0.6 if asked.temperature is None else asked.temperature
    top_p = 0.9 if asked.top_p is None else asked.top_p
    return Sampling(
        max_tokens=asked.most_tokens,
        temperature=temperature if top_p > 0 else 0.0,
        top_p=top_p if top_p > 0 else 1.0,
        seed=asked.seed,
        stop=tuple(asked.stop or ()),
    )


class _Answer:
    """One answer in the protocol's layout."""

    def __init__(self, service: EmberService, model: str, steered: Steered) -> None:
        self._service, self._steered = service, steered
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": math.floor(time.time()),
            "model": model,
            "system_fingerprint": service.system_fingerprint,
        }

    def whole(self, completion: Completion) -> dict[str, Any]:
        """The answer in one object."""
        said = {"role": "assistant", "content": completion.text}
        choice = {"index": 0, "message": said, "finish_reason": FINISH.get(completion.stop_reason), "logprobs": None}
        return {**self._head, "object": "chat.completion", **self._ending(completion), "choices": [choice]}

    async def events(self, first: str | Completion, rest: AsyncIterator[str | Completion]) -> AsyncIterator[str]:
        """The answer as events: its text in order, then one with the reason it ended, then the end mark."""
        number = 0
        try:
            async with aclosing(rest):  # type: ignore[type-var]
                piece: str | Completion | None = first
                while isinstance(piece, str):
                    for start in range(0, len(piece), LONGEST_DELTA):
                        yield event(self._chunk(number, piece[start : start + LONGEST_DELTA]))
                        number += 1
                    piece = await anext(rest, None)
                assert piece is not None, "the backend ended a stream without its completion"
                ending, finish = self._ending(piece), FINISH.get(piece.stop_reason)
            yield event({**self._chunk(number, "", finish), **ending})
        except Exception as problem:
            # The status is out already. No client takes this for an answer, and no end mark follows.
            yield event(withheld(problem))
            return
        yield DONE

    def _chunk(self, number: int, text: str, finish: str | None = None) -> dict[str, Any]:
        delta = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "gf_token_index": number, "finish_reason": finish}
        return {**self._head, "object": "chat.completion.chunk", "gf_event_names": None, "choices": [choice]}

    def _ending(self, completion: Completion) -> dict[str, Any]:
        """What is known when it ended. Raises NotApplied unless what ran is what was asked."""
        check_applied(self._steered.resolved, completion.proof, self._service.backend.identity)
        read, written = completion.tokens_in or 0, completion.tokens_out or 0
        return {
            "gf_event_names": list(completion.events) or None,
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
            "steer": {
                "proof": completion.proof.as_dict(),
                "fingerprint": self._steered.resolved.fingerprint,
                "source_fingerprint": self._steered.source.fingerprint,
                "stop_reason": completion.stop_reason,
                "seed": completion.seed,
            },
        }
