"""Token ids as backends read and score them. Standard library only."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """Token ids of one row, of which the first `prompt_tokens` are the prompt (0: the whole text is response)."""

    tokens: list[int]
    prompt_tokens: int


@dataclass(frozen=True)
class Scored:
    """Tokens to score after a context; `prompt_tokens` of both together are prompt (0: everything is response)."""

    context: list[int]
    continuation: list[int]
    prompt_tokens: int

    def fitted(self, max_length: int) -> "Scored":
        """The same with the context cut from the left so that all inputs fit `max_length` tokens (as lm-eval does)."""
        excess = max(0, len(self.context) + len(self.continuation) - 1 - max_length)
        kept = max(0, self.prompt_tokens - excess) or min(self.prompt_tokens, 1)
        return Scored(self.context[excess:], self.continuation, kept)

    @property
    def passage(self) -> Passage:
        """What the model reads: all but the last token, which is only predicted."""
        return Passage([*self.context, *self.continuation][:-1], self.prompt_tokens)

    @property
    def stem_tokens(self) -> int:
        """How many leading tokens every continuation of this prompt has: the context, and prompt that is scored."""
        return max(len(self.context), self.prompt_tokens)

    @property
    def stem(self) -> Passage:
        """What all continuations of this prompt read first."""
        return Passage(self.passage.tokens[: self.stem_tokens], self.prompt_tokens)

    @property
    def tail(self) -> list[int]:
        """What the model reads after the stem; empty where the continuation is one token."""
        return self.passage.tokens[self.stem_tokens :]


def rolling_windows(tokens: Sequence[int], prefix: int, max_length: int) -> list[Scored]:
    """Disjoint windows that score every token of a text once; the first is conditioned on `prefix`.

    Each later window reads as many earlier tokens as fit, as lm-eval does with a context of one token.
    """
    windows = []
    for start in range(0, len(tokens), max_length):
        end = min(start + max_length, len(tokens))
        context = [prefix] if start == 0 else list(tokens[max(0, end - 1 - max_length) : start])
        windows.append(Scored(context, list(tokens[start:end]), 0))
    return windows
