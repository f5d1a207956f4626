"""Features by text, by id, by index and by likeness. Imports fastapi."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from model_adapters.ember_service.refusals import Unprocessable
from model_adapters.ember_service.schemas import LookupRequest, NeighborsRequest, RerankRequest
from model_adapters.ember_service.service import EmberService
from model_adapters.errors import SteerError

MOST_IDS = 512
"""Ids in one listing; the SDK asks for 50 at a time."""


def feature_routes(service: EmberService) -> APIRouter:
    """`/features/search`, `rerank`, `lookup`, the listing `/features/`, and `/attributions/neighbors`."""
    routes = APIRouter()
    dictionary = service.dictionary

    def indices_of(identifiers: list[str], *place: str) -> list[int]:
        try:
            return [service.index(identifier) for identifier in identifiers]
        except SteerError as problem:
            raise Unprocessable(str(problem), *place) from problem

    @routes.get("/features/search")
    async def search(
        query: Annotated[str, Query(max_length=2000)],
        model: str,
        page: Annotated[int, Query(ge=1, le=10_000)] = 1,
        per_page: Annotated[int, Query(ge=1, le=100, alias="perPage")] = 10,
    ) -> JSONResponse:
        service.check_model(model, "query", "model")
        found = await asyncio.to_thread(dictionary.labels.search, query, page * per_page)
        shown = found[(page - 1) * per_page :]
        return JSONResponse({"features": [service.feature(index, score) for index, score in shown]})

    @routes.get("/features/")
    async def listing(feature_id: Annotated[list[str], Query(min_length=1, max_length=MOST_IDS)]) -> JSONResponse:
        found = indices_of(feature_id, "query", "feature_id")
        return JSONResponse({"features": [service.feature(index) for index in found]})

    @routes.post("/features/rerank")
    async def rerank(asked: RerankRequest) -> JSONResponse:
        service.check_model(asked.model)
        given = list(dict.fromkeys(indices_of(asked.feature_ids, "body", "feature_ids")))
        ordered = await asyncio.to_thread(dictionary.labels.rerank, asked.query, given, asked.top_k)
        return JSONResponse({"features": [service.feature(index, score) for index, score in ordered]})

    @routes.post("/features/lookup")
    async def lookup(asked: LookupRequest) -> JSONResponse:
        service.check_model(asked.model)
        service.check_indices(asked.indices, "body", "indices")
        return JSONResponse({"features": [service.feature(index) for index in asked.indices]})

    @routes.post("/attributions/neighbors")
    async def neighbors(asked: NeighborsRequest) -> JSONResponse:
        service.check_model(asked.model)
        service.check_indices(asked.feature_indices, "body", "feature_indices")
        found = await asyncio.to_thread(dictionary.neighbors, asked.feature_indices, asked.top_k)
        return JSONResponse({"neighbors": [service.feature(index, cosine) for index, cosine in found]})

    return routes
