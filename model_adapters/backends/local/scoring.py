"""Log-probabilities of given tokens, whole distributions, and activations. Imports torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from model_adapters.backends.local.forward import Forward
from model_adapters.backends.local.prefixes import Past, grown, stacked
from model_adapters.backends.local.proof import NOT_FINITE
from model_adapters.backends.passage import Passage
from model_adapters.errors import NotFinite

SLICE = 64
"""Tokens whose log-probabilities are taken together: in float32 a long answer's would be larger than a small model."""


@dataclass(frozen=True)
class TokenScores:
    """One row's result: log-probability of each continuation token, and whether each was the most likely."""

    logprobs: tuple[float, ...]
    is_greedy: bool


def score_passages(passages: Sequence[Passage], wanted: Sequence[int], forward: Forward, pad: int) -> Iterator[Tensor]:
    """One pass over all rows; for each, logits over the vocabulary after its last `wanted` tokens.

    Yields `(wanted, vocabulary)` per row. Rows are padded on the left, so wanted columns are the last ones.
    """
    batch = forward.batch(passages, pad)
    width = batch.tokens.shape[1]
    keep = torch.arange(width - max(wanted), width, device=forward.device)
    logits = forward(batch.tokens, batch.attention, batch.positions, batch.span, keep=keep).logits
    for row, count in zip(logits, wanted, strict=True):
        yield row[-count:]


def score_tails(
    stems: Sequence[Passage],
    wanted: Sequence[int],
    tails: Sequence[tuple[int, list[int]]],
    forward: Forward,
    pad: int,
) -> Iterator[Tensor]:
    """Two passes: each stem once, then every tail after its stem's keys and values. For each tail, logits over the
    vocabulary after the last `wanted` tokens of its stem and after each of its own.

    `tails` are (place of the stem, tokens). The rows of `forward.blocks` are the tails' afterwards. Yields
    `(wanted + tail, vocabulary)` per tail.
    """
    batch = forward.batch(stems, pad)
    width = batch.tokens.shape[1]
    keep = torch.arange(width - max(wanted), width, device=forward.device)
    longest = max(len(tokens) for _, tokens in tails)
    output = forward(batch.tokens, batch.attention, batch.positions, batch.span, keep=keep, use_cache=longest > 0)
    of_stems, which = output.logits, torch.tensor([place for place, _ in tails], device=forward.device)
    forward.blocks.take(which)
    of_tails = None
    if longest:
        cache = forward.cache_of(output)
        cache.batch_select_indices(which)
        held = [width - int(batch.attention[place].argmax()) for place, _ in tails]
        of_tails = _tail_logits(held, [tokens for _, tokens in tails], cache, forward, pad)
    for row, (place, tokens) in enumerate(tails):
        parts = [of_stems[place, -wanted[place] :]]
        if of_tails is not None:
            parts.append(of_tails[row, : len(tokens)])
        yield parts[0] if len(parts) == 1 else torch.cat(parts)


def _tail_logits(
    held: Sequence[int], tails: Sequence[list[int]], cache: DynamicCache, forward: Forward, pad: int
) -> Tensor:
    """Logits after every token of tails that go on after what a cache holds, `(tails, longest tail, vocabulary)`."""
    after = forward.behind(held, [Passage(tokens, 0) for tokens in tails], pad)
    every = torch.arange(after.tokens.shape[1], device=forward.device)
    output = forward(
        after.tokens, after.attention, after.positions, after.span, cache=cache, keep=every, use_cache=True
    )
    logits: Tensor = output.logits
    return logits


def score_behind(
    pasts: Sequence[Past | None],
    stems: Sequence[Passage],
    wanted: Sequence[int],
    tails: Sequence[tuple[int, list[int]]],
    forward: Forward,
    pad: int,
) -> Iterator[Tensor]:
    """As `score_tails`, for stems whose first tokens were read before: `pasts` holds their keys and values.

    What was read is left out of every pass; it reaches into no token that is wanted or whose position is response.
    """
    held = [0 if past is None else past.length for past in pasts]
    rest = [Passage(stem.tokens[count:], stem.prompt_tokens - count) for stem, count in zip(stems, held, strict=True)]
    batch, cache = forward.behind(held, rest, pad), stacked(pasts)
    lengths = [len(one.tokens) for one in rest]
    columns = sorted({column for end, count in zip(lengths, wanted, strict=True) for column in range(end - count, end)})
    keep = torch.tensor(columns, device=forward.device)
    output = forward(batch.tokens, batch.attention, batch.positions, batch.span, cache=cache, keep=keep, use_cache=True)
    starts = [columns.index(end - count) for end, count in zip(lengths, wanted, strict=True)]
    which = [place for place, _ in tails]
    forward.blocks.take(torch.tensor(which, device=forward.device))
    of_tails = None
    if any(tokens for _, tokens in tails):
        whole = grown(pasts, cache, lengths)
        again = [whole[place] for place in which]
        of_tails = _tail_logits(
            [past.length for past in again], [tokens for _, tokens in tails], stacked(again), forward, pad
        )
    for row, (place, tokens) in enumerate(tails):
        parts = [output.logits[place, starts[place] : starts[place] + wanted[place]]]
        if of_tails is not None:
            parts.append(of_tails[row, : len(tokens)])
        yield parts[0] if len(parts) == 1 else torch.cat(parts)


def token_scores(logits: Tensor, continuation: Sequence[int]) -> TokenScores:
    """Read the continuation off its `(tokens, vocabulary)` logits, `SLICE` tokens at a time."""
    chosen = torch.tensor(list(continuation), device=logits.device)
    found: list[float] = []
    is_greedy = True
    for some, tokens in zip(logits.split(SLICE), chosen.split(SLICE), strict=True):
        logprobs = log_probabilities(some)
        found += logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        is_greedy = is_greedy and bool((logprobs.argmax(dim=-1) == tokens).all())
    return TokenScores(tuple(found), is_greedy)


def log_probabilities(logits: Tensor) -> Tensor:
    """Of `(tokens, vocabulary)` logits, in float32. Raises NotFinite where they are not numbers."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    if bool(logprobs.isnan().any()):
        raise NotFinite(f"the model's output {NOT_FINITE}")
    return logprobs


def read_activations(passage: Passage, start: int, forward: Forward, pad: int) -> np.ndarray:
    """Outputs of all blocks at the tokens from position `start` on: `(n_layers, tokens, d_model)`, float32."""
    batch = forward.batch([passage], pad)
    captured: list[Tensor] = []
    forward.blocks.captured = captured
    forward(batch.tokens, batch.attention, batch.positions, batch.span)
    count = len(passage.tokens) - start
    return torch.stack([layer[0, -count:].float().cpu() for layer in captured]).numpy()
