"""Attention of rows of different lengths, side by side in one store: each looks at its own columns. Imports torch.

Rows of a store are as wide as the longest of them. transformers attends over that width for every row and masks the
rest, which on a processor costs as much as if it were looked at. Rows that lie beside each other and are about as long
are attended to together, without the columns that none of them has: those are masked, and add exact zeros.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from model_adapters.backends.local.places import unwrapped

NAME = "steer_row_groups"

CALL = 256
"""What one more call of the attention costs, in tokens of one row: on two cores a call took 3 to 40 microseconds more,
and a single query looks at a token of 3 key heads of 64 in 0.06."""


@dataclass(frozen=True)
class RowGroup:
    """Rows beside each other, and how many columns on the left none of them has."""

    rows: slice
    skipped: int


def row_groups(lengths: Sequence[int], width: int) -> tuple[RowGroup, ...]:
    """The cheapest way to cut rows of these lengths, aligned on the right in `width` columns, into groups.

    Cost of a group: its rows times its longest, and `CALL`.
    """
    best, cut = [0], [0]
    for end in range(1, len(lengths) + 1):
        longest, costs = 0, []
        for start in range(end - 1, -1, -1):
            longest = max(longest, lengths[start])
            costs.append((best[start] + (end - start) * longest + CALL, start))
        cost, start = min(costs)
        best.append(cost)
        cut.append(start)
    groups, end = [], len(lengths)
    while end:
        start = cut[end]
        groups.append(RowGroup(slice(start, end), width - max(lengths[start:end])))
        end = start
    return tuple(reversed(groups))


def grouped_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **arguments: Any
) -> tuple[Tensor, None]:
    """transformers' own attention, group by group where `key` says what the groups are. Its signature is the host's.

    `query` is `(batch, heads, new, head_dim)`, `key` and `value` `(batch, key heads, columns, head_dim)`, the mask
    `(batch, 1, new, columns)`; returns `(batch, new, heads, head_dim)`.
    """
    groups: tuple[RowGroup, ...] | None = getattr(key, "row_groups", None)
    if not groups or attention_mask is None or arguments.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **arguments)
    parts = []
    for group in groups:
        rows, columns = group.rows, slice(group.skipped, None)
        mask = attention_mask if attention_mask.shape[0] == 1 else attention_mask[rows]
        seen = (key[rows, :, columns], value[rows, :, columns], mask[..., columns])
        parts.append(sdpa_attention_forward(module, query[rows], *seen, **arguments)[0])
    return (parts[0] if len(parts) == 1 else torch.cat(parts)), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


class RowAttention:
    """Has a model attend by groups while it is `on`. Only on a processor, and only where it uses torch's own attention:
    elsewhere a call costs more than the columns it leaves out.

    A model that doesn't ask transformers which attention to call (Falcon) is left alone: it would take another name for
    its slow attention, whose masks are of another kind.
    """

    def __init__(self, model: Any) -> None:
        self._config = model.config.get_text_config()
        on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
        asks = bool(getattr(unwrapped(model), "_supports_attention_backend", False))
        self._serves = on_cpu and asks and self._config._attn_implementation == "sdpa"

    @contextmanager
    def on(self) -> Iterator[None]:
        """Within it the model's attention reads groups off the keys; outside it is transformers' own."""
        if not self._serves:
            yield
            return
        self._config._attn_implementation = NAME
        try:
            yield
        finally:
            self._config._attn_implementation = "sdpa"
