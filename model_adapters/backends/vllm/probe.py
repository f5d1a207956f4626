"""Probes: a server is asked to show what it adds, where, before anything is believed. numpy only."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model_adapters.backends.vllm.server import VllmServer
from model_adapters.backends.vllm.tensor import unpacked
from model_adapters.backends.vllm.vectors import Added, steering_vectors
from model_adapters.errors import NotApplied, SteerError

PROMPT_TOKENS = 6
"""Tokens of the probe's text that count as prompt: enough for positions of both kinds."""

WRITTEN = 4
"""Tokens that the server writes after the probe's text."""

OF_VECTOR, OF_RESIDUAL = 0.05, 0.02
"""How far a change may be from the vector that was asked for: relative to it, and to the residual it was added to.

bfloat16 keeps 8 bits, so each of the three numbers that a change is read from is off by up to 0.004 of the residual,
and vLLM's models add to one of two halves of it. A change left out is off by 1.0 of the vector.
"""


@dataclass
class Probe:
    """Asks one server for the residual stream of a short text, with and without vectors.

    `tokens` is the text, at least 10. Captured arrays are `(layers, tokens, d_model)`, float32.
    """

    server: VllmServer
    model: str
    tokens: Sequence[int]
    _bare: dict[int, np.ndarray] = field(default_factory=dict)

    async def shape(self) -> tuple[int, int]:
        """`(n_layers, d_model)`. Raises SteerError where the server has no vllm-lens."""
        n_layers, _, d_model = (await self.captured(self.tokens, True)).shape
        return int(n_layers), int(d_model)

    async def dtype(self) -> str | None:
        """The dtype of the residual stream (`bfloat16`), which is the model's; None where the server doesn't say."""
        _, body = await self._ask(self.tokens, [0], (), {"max_tokens": 1})
        said = _activations(body)["residual_stream"].get("original_dtype")
        return None if said is None else str(said).removeprefix("torch.")

    async def captured(
        self, tokens: Sequence[int], layers: list[int] | bool, vectors: Sequence[dict[str, object]] = ()
    ) -> np.ndarray:
        """The residual after these blocks, or all, at every token of a text."""
        stream, _ = await self._ask(tokens, layers, vectors, {"max_tokens": 1})
        return stream[:, : len(tokens)]

    async def _ask(
        self,
        tokens: Sequence[int],
        layers: list[int] | bool,
        vectors: Sequence[dict[str, object]],
        more: Mapping[str, object],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """What was captured, and the server's whole answer."""
        extra: dict[str, object] = {"output_residual_stream": layers}
        if vectors:
            extra["apply_steering_vectors"] = list(vectors)
        body = await self.server.complete(self.model, tokens, extra, {**more, "cache_salt": "probe"})
        held = _activations(body)
        if not isinstance(held, dict) or "residual_stream" not in held:
            raise SteerError(
                f"vLLM at {self.server.url} gives no activations; it must run with the plugin vllm-lens (pip install "
                "vllm-lens beside it), which steers it"
            )
        stream = unpacked(held["residual_stream"])
        if stream.ndim != 3 or stream.shape[1] < len(tokens):
            raise SteerError(f"vLLM at {self.server.url} gives activations of shape {stream.shape}")
        return stream, body

    async def check_steers(self, n_layers: int, d_model: int) -> None:
        """A zero vector must change nothing, another one every token by what it names. Raises NotApplied."""
        layer = (n_layers - 1) // 2
        drawn = np.random.default_rng(0).standard_normal(d_model).astype(np.float32)
        await self.check(Added(layer, drawn, drawn), scale=0.0)
        await self.check(Added(layer, drawn, drawn))

    async def check_counts(self, n_layers: int, d_model: int) -> None:
        """A vector at response positions must stay while tokens are written, and not reach the prompt. Raises
        NotApplied."""
        drawn = np.random.default_rng(1).standard_normal(d_model).astype(np.float32)
        await self.check(Added((n_layers - 1) // 2, np.zeros_like(drawn), drawn))

    async def check_same(self) -> None:
        """What `check_steers` read without a vector must be read again. Raises NotApplied for another model."""
        layer, bare = next(iter(self._bare.items()))
        off = np.linalg.norm((await self.captured(self.tokens, [layer]))[0] - bare, axis=-1)
        if not (off <= 2 * OF_RESIDUAL * np.linalg.norm(bare, axis=-1)).all():
            raise NotApplied(
                f"vLLM at {self.server.url} serves another model than when this run began (layer {layer} is off by "
                f"{off.max():.3g}); start the run again"
            )

    async def check(self, sums: Added, scale: float | None = None) -> None:
        """The vectors of one layer must be added at their positions and nowhere else.

        They are scaled to the residual's own size for this, so that rounding doesn't hide them. Raises NotApplied.
        """
        bare = await self._without(sums.layer)
        # The first position's norm is far larger than the others' in many models.
        size = float(np.linalg.norm(bare[1:], axis=-1).mean())
        longest = max(float(np.linalg.norm(part)) for part in (sums.prompt, sums.response))
        scale = size / longest if scale is None else scale
        steered, written = await self._written(sums, scale)
        place = np.arange(len(self.tokens))[:, None]
        expected = np.where(place < PROMPT_TOKENS - 1, sums.prompt, sums.response) * scale
        await self._check_written(sums, scale, written, steered[len(self.tokens) :])
        off = np.linalg.norm(steered[: len(self.tokens)] - bare - expected, axis=-1)
        allowed = OF_VECTOR * np.linalg.norm(expected, axis=-1) + OF_RESIDUAL * np.linalg.norm(bare, axis=-1)
        if not (off <= allowed).all():
            wrong = int(np.argmax(off - allowed))
            raise NotApplied(
                f"vLLM at {self.server.url}: the probe of layer {sums.layer} is off by {off[wrong]:.3g} at token "
                f"{wrong} ({allowed[wrong]:.3g} would be rounding); the server doesn't steer as asked"
            )

    async def _written(self, sums: Added, scale: float) -> tuple[np.ndarray, list[int]]:
        """The residual at the text's tokens and at those that the server wrote after it, and all but its last token."""
        end = len(self.tokens) + WRITTEN - 1
        vectors = steering_vectors([sums], PROMPT_TOKENS, end, scale)
        more = {"max_tokens": WRITTEN, "ignore_eos": True, "return_token_ids": True}
        stream, body = await self._ask(self.tokens, [sums.layer], vectors, more)
        tokens = body["choices"][0].get("token_ids")
        if not isinstance(tokens, list) or len(tokens) != WRITTEN or stream.shape[1] != end:
            raise SteerError(f"vLLM at {self.server.url} doesn't say which tokens it wrote; use a newer version")
        return stream[0], [int(token) for token in tokens[:-1]]

    async def _check_written(self, sums: Added, scale: float, written: list[int], seen: np.ndarray) -> None:
        """Tokens that were written must have been steered as the same tokens are when they are read."""
        whole = [*self.tokens, *written]
        vectors = steering_vectors([sums], PROMPT_TOKENS, len(whole), scale)
        read = (await self.captured(whole, [sums.layer], vectors))[0, len(self.tokens) :]
        off, size = np.linalg.norm(seen - read, axis=-1), np.linalg.norm(read, axis=-1)
        if not (off <= 2 * OF_RESIDUAL * size).all():
            raise NotApplied(
                f"vLLM at {self.server.url} steers tokens otherwise when it writes them than when it reads them (layer "
                f"{sums.layer}, off by {off.max():.3g} of {size.max():.3g}): its vllm-lens loses count of positions. "
                "Install steer-tasks beside vLLM (pip install --no-deps steer-tasks), or use positions=all"
            )

    async def _without(self, layer: int) -> np.ndarray:
        if layer not in self._bare:
            self._bare[layer] = (await self.captured(self.tokens, [layer]))[0]
        return self._bare[layer]


def _activations(body: Mapping[str, Any]) -> Any:
    held = body.get("activations")
    return json.loads(held) if isinstance(held, str) else held
