"""How what can't be done is said: the statuses that the goodfire SDK turns into its own exceptions. Imports fastapi."""

import logging
from collections.abc import Sequence

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response

from model_adapters.errors import NotApplied, SteerError

log = logging.getLogger("steer.ember_service")


class Busy(Exception):
    """Too much is under way already; the client asks again after some seconds."""

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class Abandoned(Exception):
    """The client hung up; nobody reads an answer any more."""


class Unprocessable(SteerError):
    """One field of a request holds what can't be done; `place` says where, as in FastAPI's own answers."""

    def __init__(self, message: str, *place: str) -> None:
        super().__init__(message)
        self.place = place or ("body",)


def unprocessable(message: str, place: Sequence[str | int] = ("body",), kind: str = "value_error") -> JSONResponse:
    """422 in the layout of FastAPI's own."""
    return JSONResponse({"detail": [{"type": kind, "loc": list(place), "msg": message}]}, status_code=422)


def withheld(problem: Exception) -> dict[str, object]:
    """What a client reads of an answer that was begun and then failed."""
    return {"error": {"type": type(problem).__name__, "message": str(problem)}}


def answer_refusals(app: FastAPI) -> None:
    """422 for what is asked wrongly, 429 for too much at once, 500 for an answer that failed its own proof."""

    async def invalid(_request: Request, problem: Exception) -> Response:
        assert isinstance(problem, RequestValidationError)
        # The values themselves stay out: a request may be large, or private.
        detail = [{"type": one["type"], "loc": list(one["loc"]), "msg": one["msg"]} for one in problem.errors()[:20]]
        return JSONResponse({"detail": detail}, status_code=422)

    async def refused(_request: Request, problem: Exception) -> Response:
        return unprocessable(str(problem), getattr(problem, "place", ("body",)))

    async def not_applied(_request: Request, problem: Exception) -> Response:
        log.error("an answer was withheld: %s", problem)
        return JSONResponse(withheld(problem), status_code=500)

    async def busy(_request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Busy)
        headers = {"Retry-After": str(problem.seconds)}
        return JSONResponse({"detail": str(problem)}, status_code=429, headers=headers)

    async def abandoned(_request: Request, _problem: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it; the number is the one that web servers log

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(SteerError, refused)
    app.add_exception_handler(NotApplied, not_applied)
    app.add_exception_handler(Busy, busy)
    app.add_exception_handler(Abandoned, abandoned)
