"""One forward pass over a padded batch, with its spans. Imports torch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from model_adapters.backends.local.blocks import SteeredBlocks
from model_adapters.backends.local.places import unwrapped
from model_adapters.backends.local.span import Span
from model_adapters.backends.passage import Passage
from model_adapters.errors import SteerError


@dataclass(frozen=True)
class Batch:
    """Rows padded on the left to one width; all tensors are `(batch, tokens)`."""

    tokens: Tensor
    attention: Tensor
    positions: Tensor
    span: Span

    @classmethod
    def of(cls, rows: Sequence[Passage], pad: int, device: torch.device, width: int = 0) -> "Batch":
        """Pad and mark: prompt is all but the last prompt token, response is that one and everything after.

        As wide as the longest row, or `width` where that is more.
        """
        width = max([width, *(len(row.tokens) for row in rows)])
        tokens = torch.full((len(rows), width), pad)
        for index, row in enumerate(rows):
            tokens[index, width - len(row.tokens) :] = torch.tensor(row.tokens)
        starts = torch.tensor([width - len(row.tokens) for row in rows])[:, None]
        column = torch.arange(width)[None, :]
        valid = column >= starts
        first_response = starts + torch.tensor([max(row.prompt_tokens - 1, 0) for row in rows])[:, None]
        span = Span(
            response=(valid & (column >= first_response)).to(device),
            prompt=(valid & (column < first_response)).to(device),
            starts_text=(column == starts).to(device),
            last_prompt=first_response[:, 0].to(device),
        )
        positions = (column - starts).clamp_min(0)
        return cls(tokens.to(device), valid.long().to(device), positions.to(device), span)

    @classmethod
    def behind(
        cls, held: Sequence[int], rows: Sequence[Passage], pad: int, device: torch.device, width: int = 0
    ) -> "Batch":
        """Rows that go on after `held` tokens each, which a cache has padded on the left; padded on the right.

        A passage's `prompt_tokens` count from its own first token. `attention` covers what is held and what is new,
        `(batch, held + tokens)`.
        """
        width, before = max([width, *(len(row.tokens) for row in rows)]), max(held)
        tokens = torch.full((len(rows), width), pad)
        for index, row in enumerate(rows):
            tokens[index, : len(row.tokens)] = torch.tensor(row.tokens, dtype=torch.long)
        column = torch.arange(width)[None, :]
        known = torch.tensor(list(held))[:, None]
        valid = column < torch.tensor([len(row.tokens) for row in rows])[:, None]
        first_response = torch.tensor([row.prompt_tokens - 1 for row in rows])[:, None]
        is_here = valid & (column == first_response)
        span = Span(
            response=(valid & (column >= first_response)).to(device),
            prompt=(valid & (column < first_response)).to(device),
            starts_text=((known == 0) & (column == 0)).expand(len(rows), width).to(device),
            last_prompt=torch.where(is_here.any(1), first_response[:, 0], -1).to(device),
        )
        seen = torch.arange(before)[None, :] >= before - known
        attention = torch.cat([seen, valid], dim=1).long()
        return cls(tokens.to(device), attention.to(device), (known + column).to(device), span)


ROUND = 32
"""Passes of more tokens than this have a multiple of it, of fewer a power of two, where widths are rounded."""


def rounded(tokens: int) -> int:
    """The next width, from `tokens` up."""
    return 1 << (tokens - 1).bit_length() if tokens <= ROUND else -(-tokens // ROUND) * ROUND


def rounded_down(tokens: int) -> int:
    """The last width up to `tokens`, which is at least 1."""
    return 1 << (tokens.bit_length() - 1) if tokens <= ROUND else tokens // ROUND * ROUND


class Forward:
    """Calls the model the way its signature allows.

    With `rounds` passes are padded to few different widths: oneDNN makes and keeps a kernel for every size of a
    product, milliseconds and megabytes each, and prompts come in all lengths.
    """

    def __init__(self, model: Any, blocks: SteeredBlocks, rounds: bool = False) -> None:
        self.model, self.blocks, self.rounds = model, blocks, rounds
        accepted = inspect.signature(unwrapped(model).forward).parameters
        self._positions = "position_ids" in accepted
        self._keeps_logits = "logits_to_keep" in accepted
        self._cache = "cache_params" if "cache_params" in accepted else "past_key_values"

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the embeddings."""
        place: torch.device = self.model.get_input_embeddings().weight.device
        return place

    def batch(self, rows: Sequence[Passage], pad: int) -> Batch:
        """`Batch.of` on this model's device."""
        return Batch.of(rows, pad, self.device, self._width(rows))

    def behind(self, held: Sequence[int], rows: Sequence[Passage], pad: int) -> Batch:
        """`Batch.behind` on this model's device."""
        return Batch.behind(held, rows, pad, self.device, self._width(rows))

    def _width(self, rows: Sequence[Passage]) -> int:
        """0 leaves the width to the longest row; rows that are read one token a pass are never padded."""
        if not self.rounds or self.blocks.plan.gates.is_stepwise:
            return 0
        return rounded(max(len(row.tokens) for row in rows))

    def __call__(
        self,
        tokens: Tensor,
        attention: Tensor | None,
        positions: Tensor,
        span: Span,
        cache: Any = None,
        keep: Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        """The model's output. `attention` is None where no row is padded. `keep` holds the columns `(kept,)` whose
        logits are wanted; None wants the last one."""
        if self.blocks.plan.gates.is_stepwise and tokens.shape[1] > 1:
            return self._stepwise(tokens, attention, positions, span, cache, keep)
        self.blocks.span = span
        self.blocks.plan.gates.begin()
        arguments: dict[str, Any] = {"use_cache": use_cache}
        if self._positions:
            arguments["position_ids"] = positions
        if cache is not None:
            arguments[self._cache] = cache
        if self._keeps_logits:
            arguments["logits_to_keep"] = 1 if keep is None else keep
        output = self.model(input_ids=tokens, attention_mask=attention, **arguments)
        if not self._keeps_logits:
            output.logits = output.logits[:, -1:] if keep is None else output.logits[:, keep]
        return output

    def cache_of(self, output: Any) -> Any:
        """What a pass read, for the next one. Raises SteerError for a model that keeps it otherwise."""
        cache = getattr(output, self._cache, None)
        if not isinstance(cache, Cache):
            raise SteerError(
                f"{type(self.model).__name__} keeps what it read in no cache of transformers' kind, so it can score "
                "texts but not write them; use another model"
            )
        return cache

    def _stepwise(
        self, tokens: Tensor, attention: Tensor | None, positions: Tensor, span: Span, cache: Any, keep: Tensor | None
    ) -> Any:
        """The same, one column a pass: what a token is changed by may depend on blocks above, one token earlier."""
        width = tokens.shape[1]
        wanted = {width - 1} if keep is None else set(keep.tolist())
        logits, output = [], None
        for number in range(width):
            one = slice(number, number + 1)
            seen = None if attention is None else attention[:, : attention.shape[1] - width + number + 1]
            output = self(tokens[:, one], seen, positions[:, one], span.column(number), cache, use_cache=True)
            cache = self.cache_of(output)
            if number in wanted:
                logits.append(output.logits[:, -1:])
        assert output is not None
        output.logits = torch.cat(logits, dim=1)
        return output
