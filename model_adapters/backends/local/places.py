"""Whether a model knows where its tokens stand when there are empty columns between them. Imports torch."""

import inspect
from typing import Any

import torch

HOLE = 32
"""Empty columns of the probe: as many as a row that waits for a neighbour's read-ahead easily gets."""

NOISE = 0.1
"""Share of the logits' standard deviation that rounding may move them by, in bfloat16 too."""


def unwrapped(model: Any) -> Any:
    """The model inside an adapter's wrapping (LoRA), which takes *args and says nothing of what it wraps."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def knows_places(model: Any, device: torch.device) -> bool:
    """Whether three tokens mean the same with a hole between them that the mask leaves out.

    A model that takes `position_ids` is told. Of the others some read places off the mask (Bloom), and some off the
    columns (MPT): rows of one block of keys and values, which have holes, would read each other's pauses as distance.
    """
    if "position_ids" in inspect.signature(unwrapped(model).forward).parameters:
        return True
    tokens = [1, 2, 3]
    plain = torch.tensor([tokens], device=device)
    torn = torch.tensor([[*tokens[:2], *[0] * HOLE, tokens[2]]], device=device)
    mask = torch.ones_like(torn)
    mask[:, 2:-1] = 0
    try:
        with torch.inference_mode():
            expected = model(input_ids=plain, attention_mask=torch.ones_like(plain)).logits[0, -1].float()
            found = model(input_ids=torn, attention_mask=mask).logits[0, -1].float()
    except Exception:  # what can't be asked isn't known
        return False
    return bool((found - expected).abs().max() <= NOISE * expected.std())
