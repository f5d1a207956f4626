"""Keys and values of the rows that are being written, in one preallocated block per layer. Imports torch.

Rows are aligned on the right: the newest token of every row lies in the same column, so a step writes one column and
copies nothing, and distances between columns are those between tokens, as sliding windows need. A row that leaves is
overwritten by the last one. A full block is exchanged for one as wide as its rows and some steps more.
"""

import math
import mmap
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from model_adapters.backends.local.attention import RowGroup, row_groups
from model_adapters.backends.local.prefixes import Past

SLACK = 160
"""Columns beyond the longest row: how many steps lie between two exchanges of the block."""


class SlotLayer(CacheLayerMixin):
    """One layer's block, `(slots, heads, columns, head_dim)`, as transformers' cache interface wants it."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, store: "KeyValueStore") -> None:
        super().__init__()
        self._store = store

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take memory for as many rows and columns as the store has."""
        self.keys, self.values = self._empty(key_states), self._empty(value_states)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def _empty(self, states: Tensor) -> Tensor:
        shape = (self._store.slots, states.shape[1], self._store.columns, states.shape[3])
        # Zeros: a masked column still enters the attention's product, and what is not a number would spread.
        return states.new_zeros(shape) if states.device.type != "cpu" else _unwritten(shape, states.dtype)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the pass's columns behind what is there; returns all that the rows may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        rows, new = self._store.places, key_states.shape[2]
        first, end = self._store.first, self._store.end
        self.keys[rows, :, end : end + new] = key_states
        self.values[rows, :, end : end + new] = value_states
        keys, values = self.keys[rows, :, first : end + new], self.values[rows, :, first : end + new]
        keys.row_groups = self._store.groups(new)  # type: ignore[attr-defined] # read by `attention`
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that are looked at, and their offset."""
        return self._store.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before this pass."""
        return self._store.width

    def get_max_length(self) -> int:
        """No limit that a model should know of."""
        return -1


def _unwritten(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros in memory of their own, of which the system gives a page only when it is first written: most rows never
    fill their columns. It takes all of it back when the tensor goes."""
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def _shift(row: Tensor, first: int, end: int, by: int) -> None:
    """Move columns `first` to `end` of one row's block, `(heads, columns, head_dim)`, to the right by so many."""
    row[:, first + by : end + by] = row[:, first:end].clone()


class KeyValueStore:
    """Room for `slots` rows of up to `columns` tokens.

    `mask` is `(slots, columns)`, int64: 1 where a row has a token. Columns `first` to `end` are in use. On a processor
    one `spare` column before them is nobody's: transformers leaves a mask out that hides nothing, and then takes an
    attention that is up to six times as slow there for single tokens in bfloat16 (grouped heads without a mask).
    """

    def __init__(self, layers: int, slots: int, columns: int, device: torch.device) -> None:
        self.slots, self.columns = slots, columns
        self.spare = int(device.type == "cpu")
        self.first = self.end = 0
        self.rows = 0
        self.lengths: list[int] = []
        self._only: int | None = None
        self._groups: tuple[RowGroup, ...] | None = None
        self.mask = torch.zeros(slots, columns, dtype=torch.long, device=device)
        self.layers = [SlotLayer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self.layers))

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.end - self.first

    @property
    def places(self) -> slice:
        """The rows of the coming pass: all, or the one that runs ahead."""
        return slice(0, self.rows) if self._only is None else slice(self._only, self._only + 1)

    @property
    def attention(self) -> Tensor:
        """The mask of the coming pass of one token a row: `(rows, width + 1)`."""
        return self.mask[: self.rows, self.first : self.end + 1]

    def groups(self, new: int) -> tuple[RowGroup, ...]:
        """Rows of the coming pass of `new` tokens a row, by the columns that they have.

        Steps make every row longer by one, so what is skipped stays the same until rows come, go or run ahead.
        """
        if self._only is not None:
            return (RowGroup(slice(0, 1), self.width - self.lengths[self._only] - self.spare),)
        if self._groups is None:
            self._groups = row_groups([length + self.spare for length in self.lengths], self.width)
        return self._groups

    def columns_ahead(self, place: int, tokens: int) -> int:
        """How many columns `begin_ahead` needs."""
        return max(self.width + tokens, self.lengths[place] + self.spare + 2 * tokens)

    def begin_ahead(self, place: int, tokens: int) -> Tensor:
        """Prepare a pass of several tokens of one row; returns its mask, `(1, width + tokens)`.

        There must be `columns_ahead`, and `end_ahead` must follow.
        """
        if self.end + tokens > self.columns:
            self._move(-self.first)
        # Behind the pass the row is moved to the left, so that its newest token lies in the column of the others'.
        # Half of what is free is left on either side, as steps go to the right and such passes to the left.
        if (lacking := self.lengths[place] + tokens + self.spare - self.end) > 0:
            self._move(max(lacking, (self.columns - self.end - tokens) // 2))
        self._only = place
        new = self.mask.new_ones(1, tokens)
        return torch.cat([self.mask[place : place + 1, self.first : self.end], new], dim=1)

    def end_ahead(self, tokens: int) -> None:
        """The pass has written its columns, of which the first `tokens` are kept."""
        place, self._only = self._only, None
        assert place is not None
        length = self.lengths[place]
        old, new = slice(self.end - length, self.end + tokens), slice(self.end - length - tokens, self.end)
        for layer in self.layers:
            _shift(layer.keys[place], old.start, old.stop, -tokens)
            _shift(layer.values[place], old.start, old.stop, -tokens)
        self.mask[place, new] = 1
        self.lengths[place] = length + tokens
        self._trim()

    @property
    def held_bytes(self) -> int:
        """Memory of all layers' blocks."""
        return sum(
            part.numel() * part.element_size()
            for layer in self.layers
            if layer.is_initialized
            for part in (layer.keys, layer.values)
        )

    def resized(self, slots: int, columns: int) -> "KeyValueStore":
        """A store of another size with the same rows; this one is empty afterwards, layer by layer."""
        other = KeyValueStore(len(self.layers), slots, columns, self.mask.device)
        used, other.end = slice(self.first, self.end), self.width
        other.rows, other.lengths = self.rows, list(self.lengths)
        for old, new in zip(self.layers, other.layers, strict=True):
            new.lazy_initialization(old.keys, old.values)
            for row, length in enumerate(self.lengths):
                here, there = slice(self.end - length, self.end), slice(self.width - length, self.width)
                new.keys[row, :, there] = old.keys[row, :, here]
                new.values[row, :, there] = old.values[row, :, here]
            del old.keys, old.values
            old.is_initialized = False
        other.mask[: self.rows, : self.width] = self.mask[: self.rows, used]
        return other

    def release(self) -> None:
        """Let all rows go, and the memory with them."""
        self.first = self.end = self.rows = 0
        self.lengths = []
        for layer in self.layers:
            if layer.is_initialized:
                del layer.keys, layer.values
                layer.is_initialized = False

    def begin_step(self) -> None:
        """Mark the next column as every row's newest token; there must be one."""
        self.mask[: self.rows, self.end] = 1

    def end_step(self) -> None:
        """The pass has written its column."""
        self.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def insert(self, pasts: Sequence[Past]) -> None:
        """Add rows with these tokens."""
        lengths = [past.length for past in pasts]
        longest = max(lengths)
        if not self.rows:
            self.first, self.end = 0, longest + self.spare
        if longest + self.spare > self.end:
            self._move(longest + self.spare - self.end)
        for place, past in enumerate(pasts, self.rows):
            columns = slice(self.end - past.length, self.end)
            for layer, (keys, values) in zip(self.layers, past.layers, strict=True):
                if not layer.is_initialized:
                    layer.lazy_initialization(keys[None], values[None])
                layer.keys[place, :, columns] = keys
                layer.values[place, :, columns] = values
            self.mask[place] = 0
            self.mask[place, columns] = 1
        self.rows += len(pasts)
        self.lengths += lengths
        self._trim()

    def keep(self, staying: Sequence[int]) -> list[int]:
        """Let the other rows go; returns the old place of every row that stays, in their new order."""
        order = list(staying)
        kept = set(order)
        # Holes are filled from the end, so that few rows are copied.
        holes = [place for place in range(len(order)) if place not in kept]
        movers = [place for place in order if place >= len(order)]
        fill = dict(zip(holes, movers, strict=True))
        order = [fill.get(place, place) for place in range(len(order))]
        for new, old in fill.items():
            columns = slice(self.end - self.lengths[old], self.end)
            for layer in self.layers:
                layer.keys[new, :, columns] = layer.keys[old, :, columns]
                layer.values[new, :, columns] = layer.values[old, :, columns]
            self.mask[new] = self.mask[old]
        self.lengths = [self.lengths[old] for old in order]
        self.rows = len(order)
        self._trim()
        return order

    def _trim(self) -> None:
        self._groups = None
        self.first = self.end - max(self.lengths) - self.spare if self.lengths else self.end

    def _move(self, by: int) -> None:
        """Move what is in use by so many columns, to the right where `by` is above 0."""
        old, new = slice(self.first, self.end), slice(self.first + by, self.end + by)
        for layer in self.layers:
            if layer.is_initialized:
                for row, length in enumerate(self.lengths):
                    _shift(layer.keys[row], self.end - length, self.end, by)
                    _shift(layer.values[row], self.end - length, self.end, by)
        moved = self.mask[: self.rows, old].clone()
        self.mask[: self.rows] = 0
        self.mask[: self.rows, new] = moved
        self.first, self.end = self.first + by, self.end + by
