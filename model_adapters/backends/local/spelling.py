"""Text of an answer while its tokens arrive. Standard library only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a character spells whose last bytes have not been generated yet."""


@dataclass
class Spelling:
    """Turns tokens into text piece by piece; all pieces together begin the answer's text.

    `decode` gives the text of tokens. What may yet become a stop string, or a character that lacks bytes, is held
    back; a stop string and everything after it is never given.
    """

    decode: Callable[[Sequence[int]], str]
    stops: Sequence[str] = ()
    given: str = ""
    _tokens: list[int] = field(default_factory=list)
    _anchor: int = 0
    _read: int = 0
    _held: str = ""
    _is_stopped: bool = False

    def add(self, token: int) -> str:
        """The text that has become certain with this token; often empty."""
        if self._is_stopped:
            return ""
        self._tokens.append(token)
        # Decoded behind the tokens of the last piece: many tokenizers spell a token differently at a text's start.
        before = self.decode(self._tokens[self._anchor : self._read])
        now = self.decode(self._tokens[self._anchor :])
        if len(now) <= len(before) or now.endswith(UNFINISHED):
            return ""
        self._anchor, self._read = self._read, len(self._tokens)
        self._held += now[len(before) :]
        # The earliest of all: one stop string may lie inside another.
        if found := [place for stop in self.stops if (place := self._held.find(stop)) >= 0]:
            self._held, self._is_stopped = self._held[: min(found)], True
        keep = 0 if self._is_stopped else self._beginning_of_stop()
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self.given += certain
        return certain

    def _beginning_of_stop(self) -> int:
        """How many last characters may be the beginning of a stop string."""
        lengths = (
            size
            for stop in self.stops
            for size in range(min(len(stop) - 1, len(self._held)), 0, -1)
            if self._held.endswith(stop[:size])
        )
        return max(lengths, default=0)
