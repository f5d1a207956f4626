"""What every request passes first: the key, the size, and how many are under way. Plain ASGI, standard library only."""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Gate:
    """In front of the application: 401 without the bearer key, 413 for a body over `body_bytes`, 429 over `most`."""

    def __init__(self, app: Application, api_key: str | None, body_bytes: int, most: int) -> None:
        self._app, self._key, self._body_bytes, self._most = app, api_key, body_bytes, most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._may_enter(headers.get(b"authorization", b"")):
            await refuse(send, 401, "the API key is missing or wrong; send Authorization: Bearer <key>")
        elif self._under_way >= self._most:
            await refuse(send, 429, f"{self._most} requests are under way; ask again", (b"retry-after", b"1"))
        elif announced(headers) > self._body_bytes:
            await refuse(send, 413, f"the request is larger than {self._body_bytes} bytes; send less")
        else:
            self._under_way += 1
            try:
                await self._enter(scope, receive, send)
            finally:
                self._under_way -= 1

    def _may_enter(self, authorization: bytes) -> bool:
        if self._key is None:
            return True
        scheme, _, given = authorization.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key.encode())

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the whole body, at most `body_bytes` of it, and hand it on in one piece."""
        body = bytearray()
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            if len(body) > self._body_bytes:
                await refuse(send, 413, f"the request is larger than {self._body_bytes} bytes; send less")
                return
            if not event.get("more_body", False):
                break
        waiting: list[Event] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Event:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)


def announced(headers: dict[bytes, bytes]) -> int:
    """The body's size as the client announces it; 0 where it doesn't."""
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() else 0


async def refuse(send: Send, status: int, message: str, *headers: tuple[bytes, bytes]) -> None:
    """A whole answer that says no."""
    body = json.dumps({"detail": message}).encode()
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": sent})
    await send({"type": "http.response.body", "body": body, "more_body": False})
