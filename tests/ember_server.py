"""A service on this machine that answers as a test tells it, faults included; every request is kept."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

ROOT = "/api/inference/v1"


@dataclass(frozen=True)
class Asked:
    """One request as it came over the wire. `query` of a GET, `body` of a POST."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: dict

    @property
    def question(self) -> str:
        return self.body["messages"][-1]["content"]


@dataclass(frozen=True)
class Answer:
    """Bytes to send back, exactly; `cut` ends the connection at once, `stall` first waits that long."""

    data: bytes
    cut: bool = False
    stall: float = 0.0


def response(status: int, body: object = b"", kind: str | None = "application/json", **headers: str) -> Answer:
    """An ordinary response; a body that isn't bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(data)}"]
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return Answer("\r\n".join([*lines, "", ""]).encode() + data)


def chat(text: str, **more: object) -> Answer:
    """A chat answer that says `text`."""
    return response(200, chat_body(text, **more))


def chat_body(text: str | None, **more: object) -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    about = {"id": "1", "object": "chat.completion", "created": None, "model": "m", "system_fingerprint": "f"}
    return {**about, "choices": [choice], **more}


def events(*pieces: bytes) -> Answer:
    """A stream in HTTP chunks, one for each piece."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return Answer(head + body + b"0\r\n\r\n")


def event(data: object) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


@dataclass
class Server:
    """Where it listens, and what it was asked, in order."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    open_connections: int = 0
    connections: int = 0
    most_at_once: int = 0
    at_once: int = 0

    def of(self, path: str) -> list[Asked]:
        return [one for one in self.asked if one.path == ROOT + path]

    @property
    def questions(self) -> list[str]:
        return [one.question for one in self.of("/chat/completions")]


Script = Callable[[Asked], "Answer | Awaitable[Answer]"]


@asynccontextmanager
async def serving(script: Script, *, models: Answer | None = None):
    """A Server that answers with `script`; the list of models is not found unless given."""
    server = Server()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while (asked := await _read(reader)) is not None:
                server.asked.append(asked)
                if asked.path == f"{ROOT}/models":
                    answer = models or response(404, {"detail": "Not Found"})
                else:
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                    try:
                        made = script(asked)
                        answer = made if isinstance(made, Answer) else await made
                        await asyncio.sleep(answer.stall)
                    finally:
                        server.at_once -= 1
                writer.write(answer.data)
                await writer.drain()
                if answer.cut:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connection, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    raw = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    return Asked(method, parts.path, parse_qs(parts.query), headers, json.loads(raw) if raw else {})
