"""The next-token distribution after a conversation. Imports fastapi."""

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from model_adapters.ember_service.connection import while_wanted
from model_adapters.ember_service.refusals import Unprocessable
from model_adapters.ember_service.schemas import MOST_RESULTS, LogitsRequest, messages_of
from model_adapters.ember_service.service import EmberService


def logits_routes(service: EmberService) -> APIRouter:
    """`/chat-attribution/compute-logits`."""
    routes = APIRouter()

    @routes.post("/chat-attribution/compute-logits")
    async def compute(asked: LogitsRequest, request: Request) -> JSONResponse:
        service.check_model(asked.model)
        steered = await service.steered(asked.controller)
        wanted = wanted_tokens(service, asked.filter_vocabulary)
        # Any token will do as the continuation: what predicts it is what is asked for.
        work = service.backend.distributions(messages_of(asked.messages), [0], steered.resolved)
        table = (await while_wanted(request, work))[0]
        names = {"fingerprint": steered.resolved.fingerprint, "source_fingerprint": steered.source.fingerprint}
        logits = largest(service, table, wanted, asked.top_k or MOST_RESULTS)
        return JSONResponse({"logits": logits, "steer": names})

    return routes


def wanted_tokens(service: EmberService, texts: list[str] | None) -> dict[str, int] | None:
    """The token of each text; None where any token may be answered with. Raises Unprocessable for longer texts."""
    if texts is None:
        return None
    wanted = {}
    for text in texts:
        tokens = service.backend.encoding.encode_bare(text)
        if len(tokens) != 1:
            problem = f"{text[:80]!r} is {len(tokens)} tokens of this model; a logit belongs to a single token"
            raise Unprocessable(problem, "body", "filter_vocabulary")
        wanted[text] = tokens[0]
    return wanted


def largest(service: EmberService, table: np.ndarray, wanted: dict[str, int] | None, limit: int) -> dict[str, float]:
    """The largest `limit` values by token text, largest first; of tokens with one text the largest stands.

    `table` is `(vocabulary,)`, float32, natural logarithm.
    """
    if wanted is not None:
        named = {text: float(table[token]) for text, token in wanted.items()}
    else:
        named = {}
        for token in np.argsort(-table, kind="stable"):
            if len(named) == limit:
                break
            named.setdefault(service.backend.encoding.decode([int(token)], special=True), float(table[token]))
    return dict(sorted(named.items(), key=lambda item: -item[1])[:limit])
