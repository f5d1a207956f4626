"""Prompt-only steering in front of any model: what it refuses, what it can prove, and a Backend around a function.

Standard library and the seam only.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from model_adapters.backend import (
    Completion,
    Messages,
    Proof,
    Request,
    Sampling,
    StopReason,
    Text,
    check_applied,
    prompt_refusals,
    with_system_prompts,
)
from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity, digest
from model_adapters.steering import Steering, SystemPrompt


@dataclass(frozen=True)
class Answer:
    """What a wrapped model said; a count it does not disclose is None."""

    text: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    stop_reason: StopReason = "unknown"


Send = Callable[[Messages, Sampling], Awaitable[Answer]]
"""Sends one conversation to a model and waits for its answer. Retries and limits are its own matter."""


def prompt_only_refusals(steering: Steering) -> list[str]:
    """Why a model that takes nothing but messages can't run `steering`; empty when it can."""
    kinds = dict.fromkeys(type(one).__name__ for one in steering.interventions if not isinstance(one, SystemPrompt))
    return [f"{kind} needs a model whose activations are ours to change; use hook_steered" for kind in kinds]


def sent_proof(steering: Steering, identity: ModelIdentity) -> Proof:
    """The proof of a steering that is a prompt and nothing else. Raises Refused for any other."""
    reasons = prompt_only_refusals(steering)
    if reasons:
        raise Refused("; ".join(reasons))
    return Proof("sent", steering.fingerprint, identity.run(steering.fingerprint))


def seed_of_sample(seed: int | None, sample_index: int) -> int | None:
    """The seed a wrapped model is given: `seed` itself for the first sample, another 31-bit number for each later."""
    if seed is None or sample_index == 0:
        return seed
    return int(digest([seed, sample_index])[:8], 16) >> 1


class WrappedBackend:
    """Steers any model by what it is told. Proofs are `sent`: the messages as sent are in the completion."""

    name = "wrapped"

    def __init__(self, send: Send, identity: ModelIdentity, close: Callable[[], Awaitable[None]] | None = None) -> None:
        self._send, self._identity, self._close = send, identity, close

    @property
    def identity(self) -> ModelIdentity:
        """The wrapped model as far as it is known."""
        return self._identity

    def refusals(self, steering: Steering) -> list[str]:
        """Every kind of intervention that is not a SystemPrompt, by name."""
        return prompt_only_refusals(steering)

    async def complete(self, request: Request) -> Completion:
        """Send the messages with the steering's SystemPrompts in them. Refused for rendered text and the rest."""
        reasons = prompt_refusals(request.prompt, request.steering) + self.refusals(request.steering)
        if isinstance(request.prompt, Text):
            reasons.append(f"{self._identity.name} takes messages, not rendered text; send messages")
        if reasons or isinstance(request.prompt, Text):
            raise Refused("; ".join(reasons))
        sampling = replace(request.sampling, seed=seed_of_sample(request.sampling.seed, request.sample_index))
        sent = with_system_prompts(request.prompt, request.steering)
        answer = await self._send(sent, sampling)
        proof = sent_proof(request.steering, self._identity)
        check_applied(request.steering, proof, self._identity)
        return Completion(
            text=answer.text,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            stop_reason=answer.stop_reason,
            messages_sent=sent,
            proof=proof,
            seed=None if sampling.is_greedy else sampling.seed,
        )

    async def aclose(self) -> None:
        """Close the wrapped model, where it asked for that."""
        if self._close is not None:
            await self._close()
