"""What calibration costs: tokens that were asked for, answers that came out of a store, a judge's replies. No torch."""

import asyncio
import math
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from model_adapters.backend import Completion, Likelihood, Prompt, Request
from model_adapters.steering import CONTROL, Steering

if TYPE_CHECKING:
    from model_adapters.backends.response_store import ResponseStore

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Tokens read as prompts, written as answers, and scored (a token of a distribution counts as one).

    Each request counts its whole prompt, though the local engine reads what prompts begin alike with once. Tokens that
    a backend doesn't disclose count nothing; answers and scores out of the store cost none. `verdicts` are the judge's.
    """

    prompt: int = 0
    generated: int = 0
    scored: int = 0
    requests: int = 0
    stored: int = 0
    verdicts: int = 0

    def since(self, before: "Cost") -> "Cost":
        """What came since another state of the same count."""
        return Cost(**{one.name: getattr(self, one.name) - getattr(before, one.name) for one in fields(self)})

    def text(self) -> str:
        """In words."""
        said = f"{self.prompt:,} prompt, {self.generated:,} generated and {self.scored:,} scored tokens in "
        said += f"{self.requests:,} requests"
        said += f", {self.stored:,} more from the store" if self.stored else ""
        return said + (f", {self.verdicts:,} verdicts" if self.verdicts else "")


@dataclass
class Counted:
    """A backend whose use is added up in `cost`; `source` gives activations and distributions, which no store keeps.

    `store` keeps what is made of distributions, two numbers for two tables; None keeps nothing.
    """

    backend: Any
    source: Any
    store: "ResponseStore | None" = None
    cost: Cost = Cost()
    _lengths: dict[Prompt, int] = field(default_factory=dict)

    async def complete(self, request: Request) -> Completion:
        """One answer."""
        answer: Completion = await self.backend.complete(request)
        self._add(answer.stored, prompt=answer.tokens_in or 0, generated=answer.tokens_out or 0)
        return answer

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Likelihood:
        """Log-probabilities of a continuation."""
        found: Likelihood = await self.backend.score(prompt, continuation, steering)
        self._add(found.stored, prompt=self._length(prompt), scored=len(found.logprobs))
        return found

    async def distributions(
        self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Whole distributions, `(tokens, vocabulary)`."""
        table: np.ndarray = await self.source.distributions(prompt, continuation, steering)
        self._add(False, prompt=self._length(prompt), scored=len(table))
        return table

    async def kept_divergence(self, key: str) -> tuple[float, int] | None:
        """Sum over the tokens of an answer, and how many, out of the store, in place of two tables; None without."""
        found: tuple[float, int] | None = await self.store.get(key, _read_divergence) if self.store else None
        if found is not None:
            self.cost = replace(self.cost, stored=self.cost.stored + 2)
        return found

    async def keep_divergence(self, key: str, total: float, tokens: int) -> None:
        """Keep it for another run."""
        if self.store:
            await self.store.put(key, [total, tokens])

    def judged(self) -> None:
        """Count one verdict."""
        self.cost = replace(self.cost, verdicts=self.cost.verdicts + 1)

    def _add(self, stored: bool, prompt: int = 0, generated: int = 0, scored: int = 0) -> None:
        now = self.cost
        if stored:
            self.cost = replace(now, stored=now.stored + 1)
            return
        self.cost = replace(
            now,
            prompt=now.prompt + prompt,
            generated=now.generated + generated,
            scored=now.scored + scored,
            requests=now.requests + 1,
        )

    def _length(self, prompt: Prompt) -> int:
        """Tokens of a prompt as the control is sent it; 0 where the backend can't tell."""
        if prompt not in self._lengths:
            tokenize = getattr(self.source, "tokenize", None)
            self._lengths[prompt] = len(tokenize(prompt)) if tokenize else 0
        return self._lengths[prompt]


def _read_divergence(value: Any) -> tuple[float, int]:
    """As it was kept. Raises ValueError for anything else, and TypeError."""
    total, tokens = value
    if not math.isfinite(total) or type(tokens) is not int or tokens < 1:
        raise ValueError("not a divergence")
    return float(total), tokens


async def together(tasks: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What they give, in order. The first that fails cancels the others, so that nothing is asked in vain."""
    running = [asyncio.ensure_future(one) for one in tasks]
    try:
        return await asyncio.gather(*running)
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
