"""Two fake models that enter by the public door: one only speaks, one also shows its activations. numpy only."""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from model_adapters.backend import Completion, Likelihood, Messages, Prompt, Proof, Request, Text, with_system_prompts
from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AddVector, Steering

IDENTITY = ModelIdentity("fake/model", "fake", model_digest="0" * 16, dtype="float32", template_digest="t")


def echo(messages: Messages) -> str:
    """Says every message again."""
    return " ".join(message.content for message in messages)


class SpeakingBackend:
    """Says what `answer` makes of the messages it was sent; `asked` keeps every request. A token is a word."""

    name = "fake"

    def __init__(self, answer: Callable[[Messages], str] = echo, identity: ModelIdentity = IDENTITY) -> None:
        self.answer, self.identity = answer, identity
        self.asked: list[Request] = []
        self.words: list[str] = []

    def refusals(self, steering: Steering) -> list[str]:
        """It takes prompts and nothing else."""
        return [f"fake: {type(one).__name__} can't be applied; use a local model" for one in steering.on_residuals]

    async def complete(self, request: Request) -> Completion:
        """One answer, after giving every other coroutine its turn."""
        self.asked.append(request)
        await asyncio.sleep(0)
        if isinstance(request.prompt, Text):
            raise Refused("fake: send messages")
        sent = with_system_prompts(request.prompt, request.steering)
        text = self.answer(sent)
        proof = Proof("sent", request.steering.fingerprint, self.identity.run(request.steering.fingerprint))
        tokens = tuple(self._token(word) for word in text.split())
        return Completion(text, None, len(tokens), "stop", sent, proof, token_ids=tokens)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _token(self, word: str) -> int:
        if word not in self.words:
            self.words.append(word)
        return self.words.index(word)


class ReadingBackend(SpeakingBackend):
    """Also reads activations: after block `layer`, a word's residual is `layer + 1` times its embedding.

    `embeddings` gives those that a test works with by hand; other words get one of their own. `read` keeps every
    (prompt, response) that was read.
    """

    n_layers = 4

    def __init__(
        self,
        answer: Callable[[Messages], str] = echo,
        identity: ModelIdentity = IDENTITY,
        embeddings: Mapping[str, Sequence[float]] | None = None,
        d_model: int = 3,
    ) -> None:
        super().__init__(answer, identity)
        self.embeddings, self.d_model = dict(embeddings or {}), d_model
        self.read: list[tuple[Prompt, str]] = []

    def refusals(self, steering: Steering) -> list[str]:
        """Layers that it doesn't have."""
        return [
            f"{type(one).__name__}: layer {one.layer} is out of range; fake/model has layers 0 to {self.n_layers - 1}"
            for one in steering.on_residuals
            if one.layer >= self.n_layers
        ]

    async def activations(
        self, prompt: Prompt, response: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """`(n_layers, tokens, d_model)`, float32."""
        words = response.split() if isinstance(response, str) else [self.words[token] for token in response]
        self.read.append((prompt, " ".join(words)))
        await asyncio.sleep(0)
        one = np.array([self._embedding(word) for word in words], dtype=np.float32)
        return np.stack([(layer + 1) * one for layer in range(self.n_layers)])

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Likelihood:
        """Each word's log-probability is its embedding along what is added, at the vectors' layers, minus 10."""
        words = str(continuation).split()
        await asyncio.sleep(0)
        vectors = [one.vector * one.coefficient for one in steering.on_residuals if isinstance(one, AddVector)]
        added = sum(vectors, np.zeros(self.d_model))
        logprobs = tuple(float(np.dot(self._embedding(word), added)) - 10.0 for word in words)
        proof = Proof("sent", steering.fingerprint, self.identity.run(steering.fingerprint))
        return Likelihood(logprobs, False, proof)

    async def score_rolling(self, text: str, steering: Steering) -> Likelihood:
        """The same without a prompt."""
        return await self.score(Text(""), text, steering)

    def _embedding(self, word: str) -> Sequence[float]:
        if word in self.embeddings:
            return self.embeddings[word]
        return [byte / 16 - 8 for byte in hashlib.sha256(word.encode()).digest()[: self.d_model]]
