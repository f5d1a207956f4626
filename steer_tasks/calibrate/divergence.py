"""How far a steering moves a model's next-token distributions: KL(control ‖ steered) on the control's own answers.

numpy only. Exact: over the whole vocabulary, summed in float64, a slice of tokens at a time.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from model_adapters.backend import GivesDistributions, Message, Messages, Request, Sampling
from model_adapters.behavior import neutral_prompts
from model_adapters.dose import ANSWER_TOKENS
from model_adapters.errors import Refused
from model_adapters.steering import CONTROL, Steering
from steer_tasks.calibrate.cost import Counted, together

SLICE = 16
"""Tokens that are made float64 at once."""

UNDER_WAY = 4
"""Prompts whose two tables are held at once; each is `(at most 64, vocabulary)` in float32."""

NO_DISTRIBUTIONS = "gives no whole next-token distributions, so there is no KL; take a model in this process"


@dataclass(frozen=True)
class Spoken:
    """A neutral prompt and what the unsteered model answers it greedily, at most 64 tokens."""

    id: str
    prompt: Messages
    answer: str | Sequence[int]


@dataclass(frozen=True)
class Divergence:
    """KL(control ‖ steered) of each prompt's answer: the sum over its tokens in nats, and how many tokens."""

    sums: dict[str, float]
    tokens: dict[str, int]

    @property
    def mean(self) -> float:
        """Nats per token, over all tokens of all answers."""
        return math.fsum(self.sums.values()) / sum(self.tokens.values())

    def shares(self, ids: Sequence[str]) -> dict[str, float]:
        """A number for each of these prompts whose mean is their KL per token, and whose variance is that of this ratio
        of two sums (linearised; Cochran, Sampling Techniques, chapter 6)."""
        tokens = sum(self.tokens[id_] for id_ in ids)
        ratio = math.fsum(self.sums[id_] for id_ in ids) / tokens
        weight = len(ids) / tokens
        return {id_: ratio + weight * (self.sums[id_] - ratio * self.tokens[id_]) for id_ in ids}


def check_distributions(backend: Any) -> None:
    """Raise Refused, naming the backend, where it gives no distributions."""
    if not isinstance(backend, GivesDistributions):
        raise Refused(f"kl: backend {backend.name!r} {NO_DISTRIBUTIONS}")


async def control_answers(model: Counted) -> tuple[Spoken, ...]:
    """The unsteered model's greedy answers to the package's neutral prompts, over which doses are measured as well."""
    prompts: list[Messages] = [(Message("user", text),) for text in neutral_prompts()]
    sampling = Sampling(max_tokens=ANSWER_TOKENS)
    answers = await asyncio.gather(*(model.complete(Request(prompt, sampling=sampling)) for prompt in prompts))
    said = [one.text if one.token_ids is None else one.token_ids for one in answers]
    found = [
        Spoken(f"neutral/{number}", prompt, answer)
        for number, (prompt, answer) in enumerate(zip(prompts, said, strict=True))
        if answer
    ]
    if not found:
        raise Refused("kl: the unsteered model says nothing to the neutral prompts, so there is nothing to measure on")
    return tuple(found)


async def divergence(model: Counted, steering: Steering, spoken: Sequence[Spoken]) -> Divergence:
    """The divergence of `steering` from the control on these answers; what is in the store isn't read anew."""
    from model_adapters.backends.stored import divergence_key

    limit = asyncio.Semaphore(UNDER_WAY)

    async def one(answer: Spoken) -> tuple[float, int]:
        key = divergence_key(answer.prompt, answer.answer, steering, model.source.identity)
        async with limit:
            if (kept := await model.kept_divergence(key)) is not None:
                return kept
            # Asked for at once, so that both run in passes of one shape.
            pair = (model.distributions(answer.prompt, answer.answer, arm) for arm in (CONTROL, steering))
            control, steered = await together(pair)
            values = await asyncio.to_thread(token_divergences, control, steered)
            total, tokens = math.fsum(values), len(values)
            await model.keep_divergence(key, total, tokens)
            return total, tokens

    found = dict(zip((answer.id for answer in spoken), await together(map(one, spoken)), strict=True))
    return Divergence({id_: total for id_, (total, _) in found.items()}, {id_: n for id_, (_, n) in found.items()})


def token_divergences(control: np.ndarray, steered: np.ndarray) -> np.ndarray:
    """KL of each row, in nats, float64: `(tokens,)` from two `(tokens, vocabulary)` of log-probabilities.

    A token that the control gives no probability adds nothing.
    """
    found = np.empty(len(control))
    for start in range(0, len(control), SLICE):
        rows = slice(start, start + SLICE)
        logs = control[rows].astype(np.float64)
        weights = np.exp(logs)
        with np.errstate(invalid="ignore"):  # minus infinity twice
            logs -= steered[rows]
            terms = weights * logs
        found[rows] = np.where(weights > 0, terms, 0.0).sum(axis=1)
    return found
