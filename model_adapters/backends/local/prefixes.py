"""Keys and values of what texts begin with, so that the same beginning is read once. Imports torch."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor
from transformers.cache_utils import DynamicCache

KEPT_TOKENS = 4096
"""Most tokens whose keys and values are kept for texts to come: the last two dozen questions, or a few long prompts."""

LEAST = 16
"""Fewer shared tokens than this are read again: a pass costs more than they do."""


@dataclass(frozen=True)
class Past:
    """Keys and values of one text's first tokens: a pair for each layer, `(heads, tokens, head_dim)`."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def length(self) -> int:
        """How many tokens."""
        return int(self.layers[0][0].shape[1])

    @property
    def held_bytes(self) -> int:
        """Memory of all layers."""
        return sum(part.numel() * part.element_size() for pair in self.layers for part in pair)

    def first(self, count: int) -> "Past":
        """The same of the first `count` tokens; the memory is shared."""
        return Past(tuple((keys[:, :count], values[:, :count]) for keys, values in self.layers))


def stacked(pasts: Sequence[Past | None]) -> DynamicCache:
    """A cache of these rows, padded on the left with zeros to the longest; empty where none has anything."""
    cache = DynamicCache()
    width = max((past.length for past in pasts if past is not None), default=0)
    known = next((past for past in pasts if past is not None), None)
    if not width or known is None:
        return cache
    for number, pair in enumerate(known.layers):
        filled = []
        for part, like in enumerate(pair):
            whole = like.new_zeros(len(pasts), like.shape[0], width, like.shape[2])
            for row, past in enumerate(pasts):
                if past is not None:
                    whole[row, :, width - past.length :] = past.layers[number][part]
            filled.append(whole)
        cache.update(filled[0], filled[1], number)
    return cache


def grown(pasts: Sequence[Past | None], cache: DynamicCache, lengths: Sequence[int]) -> list[Past]:
    """The rows of a cache that `stacked(pasts)` made and a pass went over, each with as many new tokens as `lengths`
    says (padding on the right is left out), in memory of their own."""
    width = max((past.length for past in pasts if past is not None), default=0)
    rows = []
    for row, (past, length) in enumerate(zip(pasts, lengths, strict=True)):
        held = 0 if past is None else past.length
        columns = slice(width - held, width + length)
        pairs = [(keys[row, :, columns].clone(), values[row, :, columns].clone()) for keys, values in _pairs(cache)]
        rows.append(Past(tuple(pairs)))
    return rows


def rows_of(cache: DynamicCache, chosen: Sequence[int], lengths: Sequence[int]) -> list[Past]:
    """Rows of a cache that was filled by a pass padded on the left; `lengths` are their tokens. Memory is shared."""
    pairs = _pairs(cache)
    return [
        Past(tuple((keys[row, :, -length:], values[row, :, -length:]) for keys, values in pairs))
        for row, length in zip(chosen, lengths, strict=True)
    ]


def _pairs(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer, `(batch, heads, tokens, head_dim)`."""
    pairs = []
    for layer in cache.layers:
        keys, values = layer.keys, layer.values  # type: ignore[union-attr]
        assert keys is not None
        assert values is not None
        pairs.append((keys, values))
    return pairs


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many first tokens two texts have in common."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


@dataclass
class Prefixes:
    """What was read of texts that no intervention touches, by their tokens; the longest unused goes first.

    At most `budget` bytes are kept.
    """

    budget: int
    _kept: "OrderedDict[tuple[int, ...], Past]" = field(default_factory=OrderedDict)
    _bytes: int = 0

    def longest(self, tokens: tuple[int, ...]) -> Past | None:
        """Keys and values of the longest known beginning of `tokens`; None below `LEAST` tokens."""
        best: tuple[int, ...] | None = None
        most = 0
        for known in self._kept:
            count = shared(known, tokens)
            if count > most:
                best, most = known, count
        if best is None or most < min(LEAST, len(tokens)):
            return None
        self._kept.move_to_end(best)
        return self._kept[best].first(most)

    def keep(self, tokens: tuple[int, ...], past: Past) -> None:
        """Keep what was read of `tokens`, unless it is known or too large by itself."""
        if tokens in self._kept or past.held_bytes > self.budget:
            return
        self._kept[tokens] = past
        self._bytes += past.held_bytes
        while self._bytes > self.budget:
            _, gone = self._kept.popitem(last=False)
            self._bytes -= gone.held_bytes

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._bytes = 0


def common_beginning(texts: Sequence[tuple[int, ...]]) -> int:
    """How many first tokens all texts have in common; 0 for fewer than two texts."""
    if len(texts) < 2:
        return 0
    return min(shared(texts[0], other) for other in texts[1:])
