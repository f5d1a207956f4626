"""Server-sent events, and a chat answer put together from them. Standard library only."""

import codecs
import json
import re
from dataclasses import dataclass, field
from typing import Any

DONE = "[DONE]"
_LINE = re.compile(r"\r\n|\n|\r")


class EventReader:
    """Finds the data of server-sent events in pieces of a stream, wherever the pieces are cut.

    Lines end in CRLF, LF or CR; comments and fields other than `data` are ignored (WHATWG HTML, section 9.2).
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._rest = ""
        self._data: list[str] = []
        self._begun = False

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that `piece` completes. Raises UnicodeDecodeError for what isn't UTF-8."""
        return self._read(self._decoder.decode(piece))

    def end(self) -> list[str]:
        """The data of an event that the stream's end completes; its blank line may be missing."""
        return self._read(self._decoder.decode(b"", final=True) + "\n\n")

    def _read(self, text: str) -> list[str]:
        if text and not self._begun:
            self._begun, text = True, text.removeprefix("\ufeff")
        text, self._rest = self._rest + text, ""
        if text.endswith("\r"):  # its LF may be in the next piece
            text, self._rest = text[:-1], "\r"
        *lines, last = _LINE.split(text)
        self._rest = last + self._rest
        return [data for line in lines if (data := self._line(line)) is not None]

    def _line(self, line: str) -> str | None:
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = line.partition(":")
        if name == "data":
            self._data.append(value.removeprefix(" "))
        return None


class StreamError(Exception):
    """The stream says that the answer failed; the text is what it says."""


@dataclass
class StreamedAnswer:
    """Puts chunks of a chat answer together into the shape of an answer that wasn't streamed.

    Takes this protocol's chunks and OpenAI's. Text of a `gf_token_index` that was seen before is dropped.
    """

    is_complete: bool = False
    _text: list[str] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)
    _events: list[str] = field(default_factory=list)
    _whole: dict[str, Any] = field(default_factory=dict)
    _finish: str | None = None
    _has_choice: bool = False

    def add(self, data: str) -> None:
        """Take one event. Raises ValueError for what isn't a chunk, StreamError where it reports a failure."""
        if data.strip() == DONE:
            self.is_complete = True
            return
        chunk = json.loads(data)
        if not isinstance(chunk, dict):
            raise ValueError("a chunk is not an object")
        if chunk.get("error") is not None:
            raise StreamError(json.dumps(chunk["error"], ensure_ascii=False))
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            raise ValueError("a chunk has no choices")
        self._whole |= {
            key: held
            for key, held in chunk.items()
            if held is not None and key not in ("choices", "object", "gf_event_names")
        }
        for name in chunk.get("gf_event_names") or []:
            if name not in self._events:
                self._events.append(name)
        for choice in choices:
            if isinstance(choice, dict) and choice.get("index", 0) == 0:
                self._choice(choice)

    def _choice(self, choice: dict[str, Any]) -> None:
        self._has_choice = True
        if choice.get("finish_reason") is not None:
            self._finish, self.is_complete = choice["finish_reason"], True
        place = choice.get("gf_token_index")
        if isinstance(place, int):
            if place in self._seen:
                return
            self._seen.add(place)
        delta = choice.get("delta")
        content = delta.get("content") if isinstance(delta, dict) else None
        if isinstance(content, str):
            self._text.append(content)

    def whole(self) -> dict[str, Any]:
        """The answer so far, in the shape of one that wasn't streamed; no choices where none came."""
        message = {"role": "assistant", "content": "".join(self._text)}
        choices = [{"index": 0, "message": message, "finish_reason": self._finish}] if self._has_choice else []
        events = {"gf_event_names": self._events} if self._events else {}
        return {**self._whole, "object": "chat.completion", **events, "choices": choices}
