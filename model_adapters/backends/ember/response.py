"""What a response of an Ember service says, and whether it is worth asking again. httpx only."""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from model_adapters.backends.ember.call import EmberError, shortened
from model_adapters.backends.ember.key import Key
from model_adapters.backends.ember.stream import EventReader, StreamedAnswer, StreamError

LARGEST = 64 * 2**20
"""Bytes of an answer that are read; a service that sends more is not one of this protocol."""

NOT_RETRIED = (501, 505)
"""Server errors that another attempt can't mend."""


@dataclass(frozen=True)
class Answered:
    """What came back over HTTP, rid of the key. `passing` says why it is worth asking again, None where it isn't."""

    status: int
    body: Any
    location: str | None = None
    retry_after: float | None = None
    passing: str | None = None
    wrong: str | None = None


async def read_response(response: httpx.Response, url: str, key: Key) -> Answered:
    """Read a response to its end and take the key out of it.

    Raises what httpx raises, EmberError for an answer without an end.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    status = response.status_code
    if status == 200 and kind == "text/event-stream":
        return await _read_events(response, key)
    raw = await _whole(response)
    text = raw.decode("utf-8", "replace")
    if status != 200:
        passing = None
        if status == 429 or (status >= 500 and status not in NOT_RETRIED):
            passing = f"{status}: {shortened(key.removed(text or response.reason_phrase))}"
        location = key.removed(response.headers.get("location"))
        body = key.removed(_json_or_text(text))
        return Answered(status, body, location, _retry_after(response.headers), passing)
    if kind and kind != "application/json" and not kind.endswith("+json"):
        said = shortened(key.removed(text), 80)
        wrong = f"answered with {key.removed(kind)} where JSON was due ({said!r}); check the base URL {url}"
        return Answered(200, key.removed(text), wrong=wrong)
    try:
        return Answered(200, key.removed(json.loads(raw)))
    except (ValueError, RecursionError):
        said = shortened(key.removed(text), 80)
        return Answered(200, key.removed(text), passing=f"the answer is not JSON ({said!r})")


async def _read_events(response: httpx.Response, key: Key) -> Answered:
    reader, answer = EventReader(), StreamedAnswer()
    try:
        size = 0
        async for piece in response.aiter_bytes():
            size += len(piece)
            _bounded(size)
            for data in reader.feed(piece):
                answer.add(data)
        for data in reader.end():
            answer.add(data)
    except StreamError as problem:
        said = shortened(key.removed(str(problem)))
        return Answered(200, said, wrong=f"the stream reports an error: {said}; see the service's log")
    except (ValueError, RecursionError) as problem:
        return Answered(200, "", passing=f"the stream can't be read ({shortened(key.removed(str(problem)), 120)})")
    # Without an end of its own, only HTTP's framing tells a whole stream from one that was cut.
    framed = "content-length" in response.headers or "transfer-encoding" in response.headers
    if not answer.is_complete and not framed:
        return Answered(200, "", passing="the stream ended early")
    return Answered(200, key.removed(answer.whole()))


async def _whole(response: httpx.Response) -> bytes:
    pieces, size = [], 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        _bounded(size)
        pieces.append(piece)
    return b"".join(pieces)


def _bounded(size: int) -> None:
    if size > LARGEST:
        raise EmberError(f"an answer is longer than {LARGEST >> 20} MiB; check the base URL")


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that the service asks to wait: a number, or a date (RFC 9110, section 10.2.3), by its own clock."""
    asked = headers.get("retry-after", "").strip()
    try:
        seconds = float(asked)
        return max(0.0, seconds) if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        until = parsedate_to_datetime(asked)
        now = parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, IndexError):
        return None
