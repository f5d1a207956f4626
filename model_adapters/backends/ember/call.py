"""One call of the Ember protocol, the error it may end in, and the key under which equal calls are one.

Standard library and `errors` only.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from model_adapters.errors import SteerError

ROOT = "/api/inference/v1"
"""Path under which all calls of the protocol lie."""

SHOWN = 300
"""Characters of a service's own words that an error quotes."""


class EmberError(SteerError):
    """A service that did not answer, or not as the protocol has it. `status` is its last HTTP status, if any."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Call:
    """One question to a service. `path` is below the protocol's root; a GET's payload is its query string.

    `seconds` bounds one attempt; `attempts` their number, where they are fewer than usual. `fresh` says that each
    equal call asks for another answer, as sampling without a seed does: a replay gives each recorded answer once.
    """

    method: Literal["GET", "POST"]
    path: str
    payload: Mapping[str, Any]
    seconds: float
    stream: bool = False
    fresh: bool = False
    attempts: int | None = None


@dataclass(frozen=True)
class Reply:
    """A service's answer as plain JSON data, and the payload that it answers: the call's, or the recorded one's."""

    body: Any
    asked: Mapping[str, Any]


class Asks(Protocol):
    """Who answers calls: a service over HTTP, or a cassette."""

    @property
    def url(self) -> str:
        """The service's address."""
        ...

    async def ask(self, call: Call) -> Reply:
        """The answer to one call. Raises EmberError."""
        ...

    async def aclose(self) -> None:
        """Give back connections."""
        ...


def canonical(call: Call) -> dict[str, Any]:
    """What makes two calls one question: the payload without what changes no answer.

    That is controllers' names, the names of events (not that there is one), labels and ids of features, and whether
    the answer is streamed. The seed of a `fresh` call is left out too.
    """
    payload = {key: held for key, held in call.payload.items() if key != "stream"}
    if call.fresh and "seed" in payload:
        payload["seed"] = None
    if isinstance(payload.get("controller"), Mapping):
        payload["controller"] = _bare(payload["controller"])
    return {"method": call.method, "path": call.path, "payload": payload}


def request_key(call: Call) -> str:
    """SHA-256 over the canonical JSON of a call; equal for calls that ask the same question."""
    text = json.dumps(canonical(call), sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _bare(held: Any) -> Any:
    if isinstance(held, Mapping):
        if "index_in_sae" in held:
            return held["index_in_sae"]
        bare = {key: _bare(one) for key, one in held.items() if key not in ("name", "event_name")}
        return bare | ({"interrupts": held["event_name"] is not None} if "event_name" in held else {})
    return [_bare(one) for one in held] if isinstance(held, list) else held


def shortened(text: str, limit: int = SHOWN) -> str:
    """A text in one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def refusal(call: Call, url: str, status: int, body: Any, location: str | None, has_key: bool) -> EmberError | None:
    """The error that a final status means; None for 200. `body` and `location` are already rid of the key."""
    if status == 200:
        return None
    said = shortened(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)) or "no text"
    where = f"{call.method} {url}{ROOT}{call.path}"
    if 300 <= status < 400:
        target = shortened(location or "an address it doesn't name")
        return EmberError(f"{where}: {status}, redirected to {target}; give that address as the base URL", status)
    return EmberError(f"{where}: {status}: {said}; {_remedy(status, url, has_key)}", status)


def _remedy(status: int, url: str, has_key: bool) -> str:
    if status == 401:
        return f"check the key in GOODFIRE_API_KEY, it must be one of {url}" if has_key else "set GOODFIRE_API_KEY"
    if status == 429:
        return "lower the concurrency, or try later"
    if 200 < status < 300:
        return f"only 200 is an answer; check that {url} speaks the Ember protocol"
    known = {
        400: "correct the request",
        402: "the account's funds are used up; top it up",
        403: "this key may not do that; ask for access",
        404: f"check the base URL {url} and the model's name",
        413: "shorten the request",
        422: "correct what the service names",
    }
    return known.get(status, "try later" if status >= 500 else "correct the request")
