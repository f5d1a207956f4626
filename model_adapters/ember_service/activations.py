"""What the dictionary reads from conversations: at each token, between two sets, and for one token. Imports fastapi."""

import asyncio
from collections.abc import Sequence

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from model_adapters.backend import Messages
from model_adapters.ember_service.attribution import attribution
from model_adapters.ember_service.connection import while_wanted
from model_adapters.ember_service.refusals import Unprocessable
from model_adapters.ember_service.schemas import (
    AttributionRequest,
    ContrastRequest,
    FeaturesRequest,
    Turn,
    messages_of,
)
from model_adapters.ember_service.service import EmberService
from model_adapters.steering import CONTROL, Steering

ENCODED_TOKENS = 64
"""Tokens encoded at once: 65,536 features of them are 16 MB."""


def activation_routes(service: EmberService) -> APIRouter:
    """`compute-features`, `contrast` and `compute-logit-attribution`."""
    routes = APIRouter()

    @routes.post("/chat-attribution/compute-features")
    async def compute(asked: FeaturesRequest, request: Request) -> JSONResponse:
        service.check_model(asked.model)
        only = asked.include_feature_indexes
        service.check_indices(only or (), "body", "include_feature_indexes")
        steered = await service.steered(asked.controller)
        work = _features(service, messages_of(asked.messages), steered.resolved, only)
        return JSONResponse({"tokens": await while_wanted(request, work)})

    @routes.post("/chat-attribution/contrast")
    async def contrast(asked: ContrastRequest, request: Request) -> JSONResponse:
        service.check_model(asked.model)
        difference = await while_wanted(request, _difference(service, asked.dataset_1, asked.dataset_2))
        towards = {"dataset_1": (-difference, asked.k_to_remove), "dataset_2": (difference, asked.k_to_add)}
        answer = {}
        for name, (gain, limit) in towards.items():
            best = [int(index) for index in np.argsort(-gain, kind="stable")[:limit] if gain[index] > 0]
            answer[f"{name}_features"] = [service.feature(index, float(gain[index])) for index in best]
        return JSONResponse(answer)

    @routes.post("/attributions/compute-logit-attribution")
    async def attribute(asked: AttributionRequest, request: Request) -> JSONResponse:
        service.check_model(asked.model)
        if asked.start != asked.end:
            raise Unprocessable("startIndex and endIndex differ; one token is attributed at a time", "body", "endIndex")
        work = attribution(service, messages_of(asked.messages), asked.start)
        return JSONResponse(await while_wanted(request, work))

    return routes


async def _features(
    service: EmberService, messages: Messages, steering: Steering, only: Sequence[int] | None
) -> list[dict[str, object]]:
    """Tokens of the rendered conversation, each with what is active there, strongest first."""
    check_length(service, messages)
    tokens = service.backend.tokenize(messages)
    read = await service.backend.prompt_activations(messages, service.dictionary.layer, steering)
    limit = len(only) if only is not None else service.features_per_token
    active = await asyncio.to_thread(_strongest, service, read, only, limit)
    return [
        {
            "token": text,
            "attributions": [
                {"id": service.feature(index)["id"], "index_in_sae": index, "activation_strength": strength}
                for index, strength in found
            ],
        }
        for (_, text), found in zip(tokens, active, strict=True)
    ]


def _strongest(
    service: EmberService, residuals: np.ndarray, only: Sequence[int] | None, limit: int
) -> list[list[tuple[int, float]]]:
    """For each token (index, activation) of what is active, strongest first, at most `limit`."""
    found = []
    wanted = None if only is None else np.array(sorted(set(only)), dtype=np.int64)
    for start in range(0, len(residuals), ENCODED_TOKENS):
        read = service.dictionary.encode(residuals[start : start + ENCODED_TOKENS])
        for row in read:
            at = np.flatnonzero(row > 0) if wanted is None else wanted[row[wanted] > 0]
            order = np.argsort(-row[at], kind="stable")[:limit]
            found.append([(int(index), float(row[index])) for index in at[order]])
    return found


async def _difference(service: EmberService, first: Sequence[list[Turn]], second: Sequence[list[Turn]]) -> np.ndarray:
    """Mean activation of each feature over the second set's conversations minus that over the first's.

    `(n_features,)`, float64. A conversation counts once, by the mean over its last answer's tokens; one that doesn't
    end with an answer by the mean over all of its tokens but the first.
    """
    means = []
    for dataset in (first, second):
        total = np.zeros(service.dictionary.n_features)
        for turns in dataset:
            total += await _pooled(service, messages_of(turns))
        means.append(total / len(dataset))
    return means[1] - means[0]


async def _pooled(service: EmberService, messages: Messages) -> np.ndarray:
    check_length(service, messages)
    layer = service.dictionary.layer
    *before, last = messages
    if last.role == "assistant" and before and last.content:
        residuals = (await service.backend.activations(tuple(before), last.content, CONTROL))[layer]
    else:
        residuals = (await service.backend.prompt_activations(messages, layer))[1:]
    return await asyncio.to_thread(_mean, service, residuals)


def _mean(service: EmberService, residuals: np.ndarray) -> np.ndarray:
    total = np.zeros(service.dictionary.n_features)
    for start in range(0, len(residuals), ENCODED_TOKENS):
        total += service.dictionary.encode(residuals[start : start + ENCODED_TOKENS]).sum(axis=0, dtype=np.float64)
    return total / max(1, len(residuals))


def check_length(service: EmberService, messages: Messages) -> None:
    """Raise Unprocessable for a conversation that doesn't fit the model's context."""
    tokens = len(service.backend.tokenize(messages))
    if tokens > service.backend.max_length:
        problem = f"a conversation has {tokens} tokens, the model takes {service.backend.max_length}; shorten it"
        raise Unprocessable(problem, "body", "messages")
