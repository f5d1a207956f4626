"""The key of a service: read from the environment, put into one header, shown nowhere else. Standard library only."""

import os
from typing import Any
from urllib.parse import quote

from model_adapters.errors import Refused

ENVIRONMENT = "GOODFIRE_API_KEY"
SHORTEST = 8
"""A key shorter than this could not be told from ordinary text, so it could not be kept out of what is written."""
FRAGMENT = 12
"""Parts of a key from this length on are taken out of texts too: services quote keys they refuse in part."""
HIDDEN = "[key]"


class Key:
    """A key, or none. Neither its text nor its repr shows it; `removed` takes it out of what a service sent back."""

    __slots__ = ("_text",)

    def __init__(self, text: str | None) -> None:
        text = (text or "").strip()
        if text and (len(text) < SHORTEST or not text.isascii() or not text.isprintable() or " " in text):
            raise Refused(
                f"{ENVIRONMENT} doesn't hold a key ({SHORTEST} or more printable ASCII characters); correct or unset it"
            )
        self._text = text

    @classmethod
    def from_environment(cls) -> "Key":
        """The key in `GOODFIRE_API_KEY`, or none. Raises Refused for what can't be one."""
        return cls(os.environ.get(ENVIRONMENT))

    def __bool__(self) -> bool:
        return bool(self._text)

    def __repr__(self) -> str:
        return f"Key({'hidden' if self._text else 'none'})"

    def __reduce__(self) -> Any:
        raise TypeError("a key is not copied or stored")

    def headers(self) -> dict[str, str]:
        """The header that carries it; nothing where there is none."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    def removed(self, value: Any) -> Any:
        """A text, or plain JSON data, with the key and longer parts of it replaced."""
        if not self._text:
            return value
        if isinstance(value, str):
            return self._removed(value)
        if isinstance(value, dict):
            return {self.removed(key): self.removed(held) for key, held in value.items()}
        if isinstance(value, list):
            return [self.removed(held) for held in value]
        return value

    def _removed(self, text: str) -> str:
        text = text.replace(self._text, HIDDEN).replace(quote(self._text, safe=""), HIDDEN)
        size = min(FRAGMENT, len(self._text))
        parts = {self._text[start : start + size] for start in range(len(self._text) - size + 1)}
        if not any(part in text for part in parts):
            return text
        out, place = [], 0
        while place < len(text):
            if text[place : place + size] not in parts:
                out.append(text[place])
                place += 1
                continue
            place += size
            # Overlapping parts follow one another; the run ends where no part ends any more.
            while place < len(text) and text[place - size + 1 : place + 1] in parts:
                place += 1
            out.append(HIDDEN)
        return "".join(out)
