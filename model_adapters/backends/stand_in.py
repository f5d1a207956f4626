"""A stand-in for any model: answers, activations and edits made from digests, for dry runs. numpy only.

Nothing it says means anything; its identity, and so every proof, record and prepared steering, is the stand-in's own.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from model_adapters.backend import Likelihood, Prompt, Proof, Request, SuggestedEdits, Text
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.behavior import Behavior
from model_adapters.identity import ModelIdentity, digest
from model_adapters.steering import CONTROL, FeatureEdit, Steering

N_LAYERS, D_MODEL, N_FEATURES = 80, 16, 65536
"""Deep enough for the layers of every model up to 70B; narrow, because nothing is computed with it."""

LETTERS = "ABCD"


class StandIn(ScriptedBackend):
    """Answers every request in the form that the questions ask for, and takes every steering.

    Also gives activations, `(n_layers, tokens, d_model)` in float32, likelihoods and feature edits, so that every
    method can be prepared.
    """

    name = "stand_in"
    n_layers, d_model = N_LAYERS, D_MODEL

    def __init__(self, model: str) -> None:
        super().__init__(_answer, identity=ModelIdentity(name=model, backend="stand_in"))

    async def activations(
        self, prompt: Prompt, response: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Normal numbers seeded by the texts, one token a word."""
        generator = np.random.default_rng(_number(digest([_plain(prompt), str(response)])))
        tokens = max(len(str(response).split()), 1)
        return generator.standard_normal((N_LAYERS, tokens, D_MODEL)).astype(np.float32)

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Likelihood:
        """One number for each word, seeded by the texts."""
        generator = np.random.default_rng(_number(digest([_plain(prompt), str(continuation), steering.fingerprint])))
        values = -generator.exponential(2.0, size=len(str(continuation).split()))
        return Likelihood(tuple(float(value) for value in values), False, self._proof(steering))

    async def score_rolling(self, text: str, steering: Steering) -> Likelihood:
        """As `score`, without a prompt."""
        return await self.score(Text(""), text, steering)

    async def suggest_edits(self, behavior: Behavior, draw: int) -> SuggestedEdits:
        """Three random features."""
        generator = np.random.default_rng(_number(digest([behavior.slug, draw])))
        indices = [int(index) for index in generator.choice(N_FEATURES, size=3, replace=False)]
        edits = tuple(FeatureEdit(index, 0.3) for index in sorted(indices))
        labels = {index: f"feature {index} of the stand-in" for index in indices}
        return SuggestedEdits(edits, labels, None, {"service": "stand_in", "n_features": N_FEATURES, "draw": draw})

    def _proof(self, steering: Steering) -> Proof:
        return Proof("acknowledged", steering.fingerprint, self.identity.run(steering.fingerprint))


def _answer(request: Request) -> str:
    found = _number(digest([_plain(request.prompt), request.steering.fingerprint, request.sample_index]))
    letter = LETTERS[found % len(LETTERS)]
    return f"<thinking>Answer {found % 1000} of the stand-in.</thinking>\n<answer>{letter}</answer>"


def _plain(prompt: Prompt) -> object:
    return prompt.text if isinstance(prompt, Text) else [[one.role, one.content] for one in prompt]


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
