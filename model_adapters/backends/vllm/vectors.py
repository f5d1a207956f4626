"""A steering as vllm-lens takes it: which vectors are added at which absolute positions. numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_adapters.backends.vllm.tensor import packed
from model_adapters.steering import AddVector, Steering, SystemPrompt, is_idle

ONLY_ADDS = "vLLM only adds vectors to the residual stream; leave it out, or use runner=local"


def unsupported(steering: Steering) -> list[str]:
    """What of a steering can't run on a server, by name."""
    reasons = []
    for one in steering.interventions:
        if not isinstance(one, (AddVector, SystemPrompt)):
            reasons.append(f"{type(one).__name__}: {ONLY_ADDS}")
    return list(dict.fromkeys(reasons))


@dataclass(frozen=True)
class Added:
    """The sums of what is added at one layer: before the last prompt token, and from it on; `(d_model,)`, float32."""

    layer: int
    prompt: np.ndarray
    response: np.ndarray

    @property
    def is_everywhere(self) -> bool:
        """Whether every token gets the same."""
        return np.array_equal(self.prompt, self.response)


def added(steering: Steering) -> tuple[Added, ...]:
    """The sums of a steering's vectors for each layer that it changes, lowest first.

    Summed in float32, as the local engine does; the server casts the sum to the model's dtype before it adds. A layer
    where they cancel isn't changed.
    """
    sums: dict[int, Added] = {}
    for one in steering.interventions:
        if not isinstance(one, AddVector) or is_idle(one):
            continue
        term = one.vector.astype(np.float32) * np.float32(one.coefficient)
        none = np.zeros_like(term)
        known = sums.get(one.layer) or Added(one.layer, none, none)
        at_prompt = term if one.positions in ("all", "prompt") else none
        at_response = term if one.positions in ("all", "response") else none
        sums[one.layer] = Added(one.layer, known.prompt + at_prompt, known.response + at_response)
    return tuple(sums[layer] for layer in sorted(sums) if sums[layer].prompt.any() or sums[layer].response.any())


def steering_vectors(
    sums: Sequence[Added], prompt_tokens: int, tokens: int, scale: float = 1.0
) -> list[dict[str, Any]]:
    """vllm-lens' SteeringVectors for a text of `tokens` tokens that the model reads, `prompt_tokens` of them prompt.

    Absolute positions from 0: prompt is 0 to `prompt_tokens` - 2, response what follows.
    """
    last = max(prompt_tokens - 1, 0)
    everywhere = [one for one in sums if one.is_everywhere]
    apart = [one for one in sums if not one.is_everywhere]
    found = []
    if everywhere:
        whole = np.stack([one.prompt for one in everywhere])
        found.append(_vector(whole, [one.layer for one in everywhere], None, scale))
    for start, end, part in ((0, last, "prompt"), (last, tokens, "response")):
        at = [(one.layer, getattr(one, part)) for one in apart if getattr(one, part).any()]
        if at and end > start:
            repeated = np.repeat(np.stack([vector for _, vector in at])[:, None], end - start, axis=1)
            found.append(_vector(repeated, [layer for layer, _ in at], list(range(start, end)), scale))
    return found


def _vector(array: np.ndarray, layers: list[int], positions: list[int] | None, scale: float) -> dict[str, Any]:
    return {
        "activations": packed(array),
        "layer_indices": layers,
        "scale": scale,
        "norm_match": False,
        "position_indices": positions,
    }
