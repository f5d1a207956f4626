"""A fake model whose answers depend on the dose in a known way. numpy only."""

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from model_adapters.backend import Completion, Likelihood, Messages, Prompt, Proof, Request, with_system_prompts
from model_adapters.behavior import find_behavior
from model_adapters.steering import CONTROL, AddVector, Steering
from steer_tasks.questions import load_questions
from tests.fake_backend import IDENTITY

NORM, D_MODEL, N_LAYERS = 8.0, 4, 6

Curve = Callable[[float], float]


def nothing(dose: float) -> float:
    """Whatever the dose."""
    return 0.0


@dataclass(frozen=True)
class Curves:
    """What a dose does: nats of the letters' margin lost, nats per token of llr gained, share of answers turned wrong,
    KL's logit. `noise` is the standard deviation of each item's own response to the dose, in multiples of the dose."""

    margin: Curve = nothing
    gain: Curve = nothing
    wrong: Curve = nothing
    logit: Curve = nothing
    noise: float = 0.0


class DoseBackend:
    """Every residual has norm 8, so that a dose is known from what is added; `layer_gain` scales the gain by layer.

    `prompts` keeps every text it was sent.
    """

    name, n_layers, d_model, identity = "dose", N_LAYERS, D_MODEL, IDENTITY

    def __init__(self, curves: Curves, layer_gain: Curve = lambda layer: 1.0) -> None:
        self.curves, self.layer_gain = curves, layer_gain
        self.prompts: list[str] = []
        self.letters = {one.question.strip(): one.letter for one in load_questions("mmlu_114").questions}
        self.own = {one.positive for one in find_behavior("funny").contrasts}

    def refusals(self, steering: Steering) -> list[str]:
        """None."""
        return []

    async def complete(self, request: Request) -> Completion:
        """The right letter, or for some of the items the wrong one."""
        text = self._seen(request.prompt, request.steering)
        right = self._right(text)
        is_wrong = unit(text) < self.curves.wrong(dose_of(request.steering))
        letter = "ABCD"["ABCD".index(right) - is_wrong] if right else "-"
        said = f"<thinking>one two three</thinking> <answer>{letter}</answer>"
        return Completion(said, 10, 5, "stop", None, self._proof(request.steering))

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Likelihood:
        """A letter's log-probability, or that of a text of ten tokens."""
        text = self._seen(prompt, steering)
        dose = dose_of(steering)
        own = normal(text) * self.curves.noise * dose if self.curves.noise else 0.0
        if self._right(text) is not None and len(continuation) == 1:
            value = -1.0 - (self.curves.margin(dose) + own if continuation == self._right(text) else 0.0)
            return Likelihood((value,), False, self._proof(steering))
        gain = self.layer_gain(steering.layers[0]) * self.curves.gain(dose) + own if steering else 0.0
        value = -2.0 + (gain if continuation in self.own else 0.0)
        return Likelihood((value,) * 10, False, self._proof(steering))

    async def score_rolling(self, text: str, steering: Steering) -> Likelihood:
        """Not asked for."""
        raise AssertionError

    async def activations(
        self, prompt: Prompt, response: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Directions by the text, all of norm 8: `(n_layers, 3, d_model)`."""
        drawn = np.random.default_rng(int(unit(str(response)) * 2**31)).standard_normal((N_LAYERS, 3, D_MODEL))
        return (NORM * drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).astype(np.float32)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _seen(self, prompt: Prompt, steering: Steering) -> str:
        assert isinstance(prompt, tuple)
        text: Messages = with_system_prompts(prompt, steering)
        self.prompts.append("\n".join(message.content for message in text))
        return prompt[-1].content

    def _right(self, text: str) -> str | None:
        return self.letters.get(re.split(r"\nA\. ", text)[0])

    def _proof(self, steering: Steering) -> Proof:
        return Proof("acknowledged", steering.fingerprint, self.identity.run(steering.fingerprint))


class SpreadBackend(DoseBackend):
    """Also gives distributions over two tokens: even ones unsteered, apart by the curve's logit when steered."""

    async def distributions(
        self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """`(3, 2)`, float32."""
        await asyncio.sleep(0)
        logit = self.curves.logit(dose_of(steering))
        row = np.array([logit, 0.0]) - np.logaddexp(logit, 0.0)
        return np.tile(row, (3, 1)).astype(np.float32)


def dose_of(steering: Steering) -> float:
    """Norm of what is added over the residual's."""
    added = [one.vector * one.coefficient for one in steering.on_residuals if isinstance(one, AddVector)]
    return float(np.linalg.norm(np.sum(added, axis=0)) / NORM) if added else 0.0


def unit(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12


def normal(text: str) -> float:
    """A standard normal number that depends on the text alone."""
    return float(np.random.default_rng(int(unit(text) * 2**31)).standard_normal())
