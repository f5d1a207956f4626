"""Answers from a function: for tests and dry runs. Standard library and the seam only."""

from collections.abc import Callable

from model_adapters.backend import (
    Completion,
    Proof,
    ProofLevel,
    Request,
    Text,
    prompt_refusals,
    with_system_prompts,
)
from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import Steering

SCRIPTED = ModelIdentity(name="scripted", backend="scripted")


def _refuses_nothing(steering: Steering) -> list[str]:
    return []


class ScriptedBackend:
    """Asks `answer` instead of a model; `requests` keeps what it was asked, in order.

    `answer` is handed the whole request, steering included, so a steering that is more than a prompt counts as
    `acknowledged`, a prompt as `sent`. Nothing is generated, so token counts are None.
    """

    name = "scripted"

    def __init__(
        self,
        answer: Callable[[Request], str],
        *,
        identity: ModelIdentity = SCRIPTED,
        refuses: Callable[[Steering], list[str]] = _refuses_nothing,
    ) -> None:
        self._answer, self._identity, self._refuses = answer, identity, refuses
        self.requests: list[Request] = []

    @property
    def identity(self) -> ModelIdentity:
        """What it was told to be."""
        return self._identity

    def refusals(self, steering: Steering) -> list[str]:
        """What the script refuses; nothing unless told."""
        return self._refuses(steering)

    async def complete(self, request: Request) -> Completion:
        """The function's answer to the request."""
        reasons = prompt_refusals(request.prompt, request.steering) + self.refusals(request.steering)
        if reasons:
            raise Refused("; ".join(reasons))
        self.requests.append(request)
        sent = None if isinstance(request.prompt, Text) else with_system_prompts(request.prompt, request.steering)
        fingerprint = request.steering.fingerprint
        steered = request.steering.on_residuals or request.steering.needs_dictionary
        level: ProofLevel = "acknowledged" if steered else "sent"
        return Completion(
            text=self._answer(request),
            tokens_in=None,
            tokens_out=None,
            stop_reason="stop",
            messages_sent=sent,
            proof=Proof(level, fingerprint, self._identity.run(fingerprint)),
            seed=None if request.sampling.is_greedy else request.sampling.seed,
        )

    async def aclose(self) -> None:
        """Nothing is held."""
