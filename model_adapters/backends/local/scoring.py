"""Log-probabilities of given tokens, whole distributions, and activations. Imports torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_adapters.backends.local.forward import Batch, Forward, Passage


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


@dataclass(frozen=True)
class TokenScores:
    """One row's result: log-probability of each continuation token, and whether each was the most likely."""

    logprobs: tuple[float, ...]
    is_greedy: bool


def score_passages(passages: Sequence[Passage], wanted: Sequence[int], forward: Forward, pad: int) -> Iterator[Tensor]:
    """One pass over all rows; for each, log-probabilities over the vocabulary after its last `wanted` tokens.

    Yields `(wanted, vocabulary)` float32 per row, one at a time, as all together would be large. Rows are padded on
    the left, so wanted columns are the last ones.
    """
    batch = Batch.of(passages, pad, forward.device)
    width = batch.tokens.shape[1]
    keep = torch.arange(width - max(wanted), width, device=forward.device)
    logits = forward(batch.tokens, batch.attention, batch.positions, batch.span, keep=keep).logits
    for row, count in zip(logits, wanted, strict=True):
        yield torch.log_softmax(row[-count:].float(), dim=-1)


def score_tails(
    stems: Sequence[Passage],
    wanted: Sequence[int],
    tails: Sequence[tuple[int, list[int]]],
    forward: Forward,
    pad: int,
) -> Iterator[Tensor]:
    """Two passes: each stem once, then every tail after its stem's keys and values. For each tail, log-probabilities
    over the vocabulary after the last `wanted` tokens of its stem and after each of its own.

    `tails` are (place of the stem, tokens). The rows of `forward.blocks` are the tails' afterwards. Yields
    `(wanted + tail, vocabulary)` float32 per tail, one at a time.
    """
    batch = Batch.of(stems, pad, forward.device)
    width = batch.tokens.shape[1]
    keep = torch.arange(width - max(wanted), width, device=forward.device)
    longest = max(len(tokens) for _, tokens in tails)
    output = forward(batch.tokens, batch.attention, batch.positions, batch.span, keep=keep, use_cache=longest > 0)
    of_stems, which = output.logits, torch.tensor([place for place, _ in tails], device=forward.device)
    forward.blocks.take(which)
    of_tails = None
    if longest:
        output.past_key_values.batch_select_indices(which)
        after = Batch.after(batch, which, [tokens for _, tokens in tails], pad)
        every = torch.arange(longest, device=forward.device)
        cache = output.past_key_values
        of_tails = forward(
            after.tokens, after.attention, after.positions, after.span, cache=cache, keep=every, use_cache=True
        ).logits
    for row, (place, tokens) in enumerate(tails):
        parts = [of_stems[place, -wanted[place] :]]
        if of_tails is not None:
            parts.append(of_tails[row, : len(tokens)])
        yield torch.log_softmax(torch.cat(parts).float(), dim=-1)


def token_scores(logprobs: Tensor, continuation: Sequence[int]) -> TokenScores:
    """Read the continuation off its `(tokens, vocabulary)` log-probabilities."""
    chosen = torch.tensor(list(continuation), device=logprobs.device)
    picked = logprobs.gather(1, chosen[:, None])[:, 0]
    return TokenScores(tuple(picked.tolist()), bool((logprobs.argmax(dim=-1) == chosen).all()))


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


def read_activations(passage: Passage, start: int, forward: Forward, pad: int) -> np.ndarray:
    """Outputs of all blocks at the tokens from position `start` on: `(n_layers, tokens, d_model)`, float32."""
    batch = Batch.of([passage], pad, forward.device)
    captured: list[Tensor] = []
    forward.blocks.captured = captured
    forward(batch.tokens, batch.attention, batch.positions, batch.span)
    return torch.stack([layer[0, start:].float().cpu() for layer in captured]).numpy()
