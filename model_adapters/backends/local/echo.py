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

HINT = 4
"""The same for the only row of a batch: there a pass over some guesses stands in for a step, and costs little more."""

AHEAD = 32
"""Tokens that are checked in one pass once the streak is there: on a processor they cost half as much again as one."""

FAR_AHEAD = 128
"""Most tokens of such a pass, for an answer that has repeated itself for as long: it will not stop now, and each pass
has costs of its own."""


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

    @property
    def reach(self) -> int:
        """How many tokens are worth checking in one pass: no more than have come as foreseen, before the streak."""
        if self.streak < STREAK:
            return self.streak
        return min(max(AHEAD, self.streak), FAR_AHEAD)

    def guess(self, tokens: Sequence[int], most: int, streak: int) -> list[int]:
        """Up to `most` tokens that come next if the answer goes on repeating itself; none before it has done so for
        `streak` tokens."""
        if self._next is None or self.streak < streak:
            return []
        known = list(tokens)
        for place in range(self._next, self._next + max(0, most)):
            known.append(known[place])
        return known[len(tokens) :]
