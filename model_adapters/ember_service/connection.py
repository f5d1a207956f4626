"""Work that lasts as long as somebody waits for it, and events on their way to the client. Imports fastapi."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, MutableMapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response

from model_adapters.ember_service.gate import Receive, Scope, Send
from model_adapters.ember_service.refusals import Abandoned

PAUSE_S = 0.001
"""Between two events: the goodfire SDK parses what each read hands it, and reads what came in one go as one."""

DONE = "data: [DONE]\n\n"

T = TypeVar("T")


async def hung_up(receive: Receive) -> None:
    """Returns when the client has closed its connection. The body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_wanted(request: Request, work: Awaitable[T]) -> T:
    """The work's result; it is cancelled, and Abandoned raised, when the client hangs up first."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(hung_up(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Abandoned("the client hung up")
        return task.result()
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


def event(data: Mapping[str, Any]) -> str:
    """One event: JSON in ASCII, and the characters `data: ` nowhere in it, by which the SDK cuts what it reads."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return "data: " + text.replace("data: ", "data\\u003a ") + "\n\n"


class EventStream(Response):
    """Sends each event in a piece of its own, and stops asking for them when the client hangs up."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[str]) -> None:
        super().__init__(headers={"Cache-Control": "no-cache"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        writing = asyncio.ensure_future(self._write(send))
        leaving = asyncio.ensure_future(hung_up(receive))
        try:
            await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
        finally:
            writing.cancel()
            leaving.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)

    async def _write(self, send: Send) -> None:
        async with aclosing(self._events) as events:  # type: ignore[type-var]
            async for one in events:
                await send(_piece(one, more=True))
                await asyncio.sleep(PAUSE_S)
        await send(_piece("", more=False))


def _piece(text: str, more: bool) -> MutableMapping[str, Any]:
    return {"type": "http.response.body", "body": text.encode("ascii"), "more_body": more}
