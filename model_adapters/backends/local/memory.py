"""How much room keys and values may take. Imports torch."""

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from model_adapters.backends.local.prefixes import KEPT_TOKENS
from model_adapters.errors import Refused

SHARE = 4
"""By default keys and values take at most one part in so many of the memory that is free when they are first needed:
the rest is for activations, logits, and other processes."""

MEGABYTE = 2**20

MEMINFO = Path("/proc/meminfo")
"""What Linux says of its memory."""


@dataclass(frozen=True)
class Footprint:
    """What one token costs in all layers: bytes of keys and values."""

    layers: int
    token_bytes: int


def footprint(model: Any, device: torch.device) -> Footprint | None:
    """Measured by reading one token; None for a model whose cache is not one of plain keys and values.

    Such a model says so in many ways: it knows no `past_key_values`, asks the cache for what it has not, or gives
    another back.
    """
    cache = DynamicCache()
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    try:
        with torch.inference_mode():
            mask = torch.ones_like(token)
            output = model(input_ids=token, attention_mask=mask, past_key_values=cache, use_cache=True)
    except Exception:
        return None
    layers: list[Any] = list(cache.layers)
    if getattr(output, "past_key_values", None) is not cache:
        return None
    if len(layers) != int(model.config.get_text_config().num_hidden_layers):
        return None
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    if any(not layer.is_initialized or layer.keys.ndim != 4 or layer.keys.shape[2] != 1 for layer in layers):
        return None
    held = sum(part.numel() * part.element_size() for layer in layers for part in (layer.keys, layer.values))
    return Footprint(len(layers), held)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with suppress(OSError, ValueError, IndexError, StopIteration):
        # What is free alone leaves out the files that the system keeps in memory and would give up: nearly all of it
        # after some hours.
        told = next(line for line in MEMINFO.read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(told.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # not told on this system
        return 8 * 2**30


def give_back() -> None:
    """Have the C library return what was freed to the system, where it can.

    What passes of many sizes leave behind is seldom of use to the next one, and adds up to more than a small model.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def slots(
    cost: Footprint, columns: int, rows: int, budget: int | None, device: torch.device, held: int = 0, least: int = 1
) -> int:
    """How many of `rows` rows fit `budget` bytes, by default a share of what is free; `held` bytes are ours already.

    Raises Refused for fewer than `least`.
    """
    allowed = (free_bytes(device) + held) // SHARE if budget is None else budget
    row = cost.token_bytes * columns
    fit = min(rows, allowed // row)
    if fit < least:
        need = -(-row * least // MEGABYTE)
        raise Refused(
            f"a row of {columns} tokens needs kv_memory_mb={need}, {allowed // MEGABYTE} are allowed; raise "
            "kv_memory_mb, or lower max_tokens"
        )
    return fit


def prefix_bytes(cost: Footprint, budget: int | None, device: torch.device) -> int:
    """How much may be kept of prompts for others that begin alike: `KEPT_TOKENS`, within an eighth of the budget."""
    allowed = free_bytes(device) // SHARE if budget is None else budget
    return min(KEPT_TOKENS * cost.token_bytes, allowed // 8)
