"""Contrastive activation addition: the mean difference of activations between contrast conversations."""

import asyncio
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

import numpy as np

from model_adapters.backend import Message, Messages, ReadsActivations, Request, Sampling, with_system_prompts
from model_adapters.behavior import Behavior, Contrast, neutral_prompts
from model_adapters.errors import Refused
from model_adapters.identity import digest
from model_adapters.method import Context, capable
from model_adapters.methods.prompt import SimplePrompt
from model_adapters.steering import AddVector, Positions, Steering, Vector

OWN_TOKENS = 64
"""Length of the model's own contrast answers; long enough for the behavior to show, short enough not to loop."""


@dataclass(frozen=True)
class CAA:
    """Adds the mean activation of answers that show the behavior minus that of answers that don't.

    Panickssery et al., arXiv:2312.06681, section 3, there at the position of an answer letter; here every answer is
    averaged over its own tokens first, then over answers, so that long answers don't outweigh short ones. `contrasts`:
    `written` are those of the behavior's file, `own` are the model's greedy answers to the package's neutral prompts
    with and without the instruction (both read after the plain prompt, so the instruction itself is not in the
    difference), `auto` is `written` where there are any. `layer` None is the middle, (n_layers - 1) // 2.
    """

    name: ClassVar[str] = "caa"

    layer: int | None = None
    coefficient: float | None = None
    dose: float | None = None
    positions: Positions = "response"
    contrasts: Literal["auto", "written", "own"] = "auto"

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """One AddVector with coefficient 1. Refused where there are no contrasts or the difference is zero."""
        reader = capable(context.backend, ReadsActivations, self.name)
        layer = (reader.n_layers - 1) // 2 if self.layer is None else self.layer
        if not 0 <= layer < reader.n_layers:
            raise Refused(f"caa: layer {layer} is out of range; the model has layers 0 to {reader.n_layers - 1}")
        pairs = await self._pairs(behavior, context)
        means = [await self._mean(reader, layer, pair) for pair in pairs]
        vector: Vector = np.stack(means).mean(axis=0).astype(np.float32)
        if not np.isfinite(vector).all() or not vector.any():
            raise Refused(f"caa: the contrasts of {behavior.slug} give no difference at layer {layer}; give others")
        described = {"contrast_pairs": len(pairs), "contrast_digest": digest([asdict(pair) for pair in pairs])}
        return Steering((AddVector(layer, vector, 1.0, self.positions),), described)

    async def _pairs(self, behavior: Behavior, context: Context) -> tuple[Contrast, ...]:
        if self.contrasts == "written" and not behavior.contrasts:
            raise Refused(f"caa: behavior {behavior.slug} has no written contrasts; use contrasts=own")
        if behavior.contrasts and self.contrasts != "own":
            return behavior.contrasts
        prompts = neutral_prompts()
        instruction = await SimplePrompt().prepare(behavior, context)
        plain: list[Messages] = [(Message("user", prompt),) for prompt in prompts]
        asked = [with_system_prompts(messages, instruction) for messages in plain]
        sampling = Sampling(max_tokens=OWN_TOKENS)
        answers = await asyncio.gather(
            *(context.backend.complete(Request(messages, sampling=sampling)) for messages in [*asked, *plain])
        )
        texts = [answer.text for answer in answers]
        pairs = zip(prompts, texts[: len(prompts)], texts[len(prompts) :], strict=True)
        found = tuple(Contrast(*pair) for pair in pairs if pair[1].strip() and pair[2].strip())
        if not found:
            raise Refused(f"caa: the model answers no neutral prompt with and without {behavior.slug}; write contrasts")
        return found

    async def _mean(self, reader: ReadsActivations, layer: int, pair: Contrast) -> np.ndarray:
        prompt: Messages = (Message("user", pair.prompt),)
        positive, negative = await asyncio.gather(
            reader.activations(prompt, pair.positive), reader.activations(prompt, pair.negative)
        )
        difference: np.ndarray = positive[layer].mean(axis=0, dtype=np.float64) - negative[layer].mean(
            axis=0, dtype=np.float64
        )
        return difference
