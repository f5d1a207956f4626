"""The service as an ASGI application. Imports fastapi and torch."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse

from model_adapters.auto_steer import AutoSteerOptions
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.ember_service.activations import activation_routes
from model_adapters.ember_service.chat import chat_routes
from model_adapters.ember_service.features import feature_routes
from model_adapters.ember_service.gate import Gate
from model_adapters.ember_service.logits import logits_routes
from model_adapters.ember_service.refusals import answer_refusals
from model_adapters.ember_service.searches import Searches
from model_adapters.ember_service.service import EmberService
from model_adapters.ember_service.suggestions import suggestion_routes
from model_adapters.features.dictionary import Dictionary
from model_adapters.steering import Positions

ROOT = "/api/inference/v1"
BODY_BYTES = 8 * 2**20
MOST_REQUESTS = 1024


def create_app(
    backend: LocalBackend,
    dictionary: Dictionary,
    *,
    names: Sequence[str],
    layer: int | None = None,
    factor: float | None = None,
    positions: Positions = "response",
    api_key: str | None = None,
    auto_steer: AutoSteerOptions | None = None,
    features_per_token: int = 64,
    body_bytes: int = BODY_BYTES,
    most_requests: int = MOST_REQUESTS,
) -> FastAPI:
    """The Ember protocol over one model and one dictionary.

    `names` are the models that requests may name. `layer`, `factor` and `positions` say how edits act where the
    hosted service never published it; None is as the dictionary has it. `auto_steer` are the terms of its search for
    edits. With an `api_key` every request must bear it.
    A body over `body_bytes` is answered 413, and a request that would be one more than `most_requests` 429. The
    backend stays the caller's to close. Raises SteerError where the dictionary doesn't fit the model.
    """
    service = EmberService(
        backend,
        dictionary,
        names=names,
        layer=layer,
        factor=factor,
        positions=positions,
        features_per_token=features_per_token,
    )
    searches = Searches()

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await searches.close()

    # A redirect would break the SDK, which follows none; the documentation pages load scripts from elsewhere.
    app = FastAPI(
        title="steer-tasks: a local Ember",
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Gate, api_key=api_key, body_bytes=body_bytes, most=most_requests)
    answer_refusals(app)
    app.include_router(model_routes(service), prefix=ROOT)
    for routes in (chat_routes, logits_routes, feature_routes, activation_routes):
        app.include_router(routes(service), prefix=ROOT)
    app.include_router(suggestion_routes(service, searches, auto_steer), prefix=ROOT)
    return app


def model_routes(service: EmberService) -> APIRouter:
    """`/models`: which model and dictionary these are, which the hosted service didn't say."""
    routes = APIRouter()
    identity = service.backend.identity
    steer = {
        "identity": identity.as_dict(),
        "identity_digest": identity.digest,
        "dictionary": {
            "name": service.dictionary.name,
            "digest": service.dictionary.digest,
            "layer": service.layer,
            "factor": service.factor,
            "activation": service.dictionary.activation,
        },
        "positions": service.positions,
        "draws": True,
    }

    @routes.get("/models")
    async def models() -> JSONResponse:
        data = [{"id": name, "object": "model", "steer": steer} for name in service.names]
        return JSONResponse({"object": "list", "data": data})

    return routes
