"""Answers that repeat themselves: what their own past says comes next. Standard library only.

A derailed answer loops until its token limit. What a loop says next can be read off its last round, and a model checks
many tokens in one pass for little more than it writes one (prompt lookup, a form of speculative decoding:
arXiv:2211.17192, section 2, with the answer's own text as the draft). Every token is still chosen by the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

ORDER = 4
"""So many last tokens, met before, say what comes next."""

STREAK = 12
"""So many tokens in a row must have come as foreseen before any is guessed: ordinary text has shorter repetitions, and
a wrong guess costs a pass."""


@dataclass
class Echo:
    """The tokens of one answer, and how long they have been repeating earlier ones."""

    streak: int = 0
    _seen: dict[tuple[int, ...], int] = field(default_factory=dict)
    _next: int | None = None

    def add(self, tokens: Sequence[int]) -> None:
        """Take the answer's newest token, the last of `tokens`, all of the answer."""
        foreseen = None if self._next is None else tokens[self._next]
        self.streak = self.streak + 1 if foreseen == tokens[-1] else 0
        key = tuple(tokens[-ORDER:])
        self._next = self._seen.get(key) if len(tokens) >= ORDER else None
        self._seen[key] = len(tokens)

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to `most` tokens that come next if the answer goes on repeating itself; none before it does."""
        if self._next is None or self.streak < STREAK:
            return []
        known = list(tokens)
        for place in range(self._next, self._next + max(0, most)):
            known.append(known[place])
        return known[len(tokens) :]
