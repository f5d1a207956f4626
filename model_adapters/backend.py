"""What is asked of a model and what comes back: Request, Completion, Proof, and the Backend protocol. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from model_adapters.behavior import Behavior
from model_adapters.errors import NotApplied, Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, FeatureEdit, Steering, SystemPrompt

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Text:
    """A prompt that is already rendered, sent as it is.

    A SystemPrompt can't enter it any more, so a steering that holds one is refused unless `entered` says that the
    text was rendered with it; a text rendered with other SystemPrompts than the steering's is refused too.
    """

    text: str
    entered: tuple[SystemPrompt, ...] = ()


Prompt = Messages | Text


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    `temperature` 0 is greedy; `seed` None asks for a fresh one, which the completion records.
    """

    max_tokens: int = 2048
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise Refused(f"max_tokens is {self.max_tokens}; ask for at least 1")
        if not 0.0 <= self.temperature < float("inf"):
            raise Refused(f"temperature is {self.temperature}; it must be a finite number from 0")
        if not 0.0 < self.top_p <= 1.0:
            raise Refused(f"top_p is {self.top_p}; it lies in (0, 1]")
        if self.top_k is not None and self.top_k < 1:
            raise Refused(f"top_k is {self.top_k}; it is at least 1")
        if any(not text for text in self.stop):
            raise Refused("a stop string is empty; leave it out")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True)
class Request:
    """One generation. `sample_index` tells repeated samples of one prompt apart and enters the seed."""

    prompt: Prompt
    steering: Steering = CONTROL
    sampling: Sampling = Sampling()
    sample_index: int = 0


@dataclass(frozen=True)
class LayerDose:
    """What one block's output was changed by: means of ‖Δ‖/‖h‖ over touched tokens, h before the change.

    The first position of the text is apart, because its norm is far larger than the others' in many models.
    None where no such token was touched.
    """

    layer: int
    dose: float | None
    first_position_dose: float | None = None


ProofLevel = Literal["measured", "probed", "acknowledged", "sent"]


@dataclass(frozen=True)
class Proof:
    """That the steering asked for is the steering that ran, and how that is known.

    `measured`: counted and measured in the forward passes by our own engine. `probed`: a probe at start-up told a
    steered from an unsteered answer. `acknowledged`: a service accepted it. `sent`: a prompt, seen in `messages_sent`.
    Token counts are those whose residual was changed, in the frame of `steering.Positions`; None below `measured`.
    `conditions_met` counts, for each `When` in the order they are written, outer before inner, the tokens that met it.
    """

    level: ProofLevel
    fingerprint: str
    identity: str
    prompt_tokens_touched: int | None = None
    response_tokens_touched: int | None = None
    first_response_token: bool | None = None
    doses: tuple[LayerDose, ...] = ()
    conditions_met: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)


StopReason = Literal["stop", "stop_string", "max_tokens", "context_length", "interrupt", "unknown"]


@dataclass(frozen=True)
class Completion:
    """One answer. `tokens_out` counts the generated tokens, the end-of-turn token included.

    `events` names the steering's events that ended it, where `stop_reason` is `interrupt`. `stored` is whether it was
    given before and comes out of a response store.
    """

    text: str
    tokens_in: int | None
    tokens_out: int | None
    stop_reason: StopReason
    messages_sent: Messages | None
    proof: Proof
    seed: int | None = None
    token_ids: tuple[int, ...] | None = None
    events: tuple[str, ...] = ()
    stored: bool = False


@dataclass(frozen=True)
class Likelihood:
    """Log-probabilities (natural logarithm) of given tokens, one each; `is_greedy` if each was the most likely one.

    `stored` is whether it comes out of a response store.
    """

    logprobs: tuple[float, ...]
    is_greedy: bool
    proof: Proof
    stored: bool = False

    @property
    def total(self) -> float:
        """Sum over the tokens."""
        return float(sum(self.logprobs))


class Backend(Protocol):
    """Who runs a steered request. Batching, retries and limits are its private matter."""

    name: str

    @property
    def identity(self) -> ModelIdentity:
        """Which model answers; known before anything is run."""
        ...

    def refusals(self, steering: Steering) -> list[str]:
        """Why this steering can't run here; empty when it can. Answered before anything is spent."""
        ...

    async def complete(self, request: Request) -> Completion:
        """Run one request. Raises Refused when it can't be run as asked, NotApplied when it was not."""
        ...

    async def aclose(self) -> None:
        """Give back what is held (threads, connections, weights)."""
        ...


@runtime_checkable
class ScoresText(Protocol):
    """Gives log-likelihoods of texts under a steering."""

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Likelihood:
        """Score `continuation` after `prompt`; token ids are taken as they are."""
        ...

    async def score_rolling(self, text: str, steering: Steering) -> Likelihood:
        """Score a whole text without a prompt, in disjoint windows where it outgrows the context."""
        ...


@runtime_checkable
class ReadsActivations(Protocol):
    """Gives residual activations, which contrast methods need."""

    @property
    def n_layers(self) -> int:
        """Number of decoder blocks."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    async def activations(
        self, prompt: Prompt, response: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Outputs of all blocks at the response's own tokens: `(n_layers, tokens, d_model)`, float32.

        The first position of the whole text is never among them.
        """
        ...


@runtime_checkable
class GivesDistributions(Protocol):
    """Gives whole next-token distributions."""

    async def distributions(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> np.ndarray:
        """Log-probabilities over the vocabulary that predict each token of `continuation`.

        `(tokens, vocabulary)`, float32, natural logarithm.
        """
        ...


@dataclass(frozen=True)
class SuggestedFeature:
    """One feature of a dictionary, by index, with its label and how well it fits what was asked."""

    index: int
    label: str
    score: float


@runtime_checkable
class SuggestsFeatures(Protocol):
    """Finds dictionary features for a description; automatic steering and feature search need it."""

    async def suggest_features(self, description: str, limit: int) -> tuple[SuggestedFeature, ...]:
        """The `limit` best-fitting features, best first."""
        ...


@dataclass(frozen=True)
class SuggestedEdits:
    """What an automatic steering chose: edits by index, labels, the dictionary's digest, and how they were found."""

    edits: tuple[FeatureEdit, ...]
    labels: Mapping[int, str]
    dictionary: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class SuggestsEdits(Protocol):
    """Finds edits for a behavior by itself; services with automatic steering do."""

    async def suggest_edits(self, behavior: Behavior, draw: int) -> SuggestedEdits:
        """One draw of edits. Services that don't know draws choose anew at every call."""
        ...


def with_system_prompts(messages: Messages, steering: Steering) -> Messages:
    """The messages as they are sent: `steering`'s SystemPrompts applied in order, nothing else added.

    One that replaces goes first: it replaces the system message that was there, not the other SystemPrompts.
    """
    for one in sorted(steering.system_prompts, key=lambda prompt: prompt.placement != "replace"):
        messages = _placed(messages, one)
    return messages


def _placed(messages: Messages, one: SystemPrompt) -> Messages:
    where = next((i for i, message in enumerate(messages) if message.role == "system"), None)
    if where is None:
        return (Message("system", one.text), *messages)
    old = messages[where]
    if one.placement == "separate":
        after = next((i for i in range(where, len(messages)) if messages[i].role != "system"), len(messages))
        return (*messages[:after], Message("system", one.text), *messages[after:])
    merged = {
        "after": f"{old.content}\n\n{one.text}",
        "before": f"{one.text}\n\n{old.content}",
        "replace": one.text,
    }[one.placement]
    return (*messages[:where], replace(old, content=merged), *messages[where + 1 :])


def prompt_refusals(prompt: Prompt, steering: Steering) -> list[str]:
    """Why `steering` can't be used with `prompt`; empty when it can."""
    if isinstance(prompt, Text):
        if prompt.entered and prompt.entered != steering.system_prompts:
            return ["the text was rendered with other system prompts than this steering's; render it with this one"]
        if steering.system_prompts and not prompt.entered:
            return [
                "a system prompt can't enter a text that is already rendered; send messages, or use the chat template"
            ]
    elif not prompt:
        return ["there are no messages; send at least one"]
    return []


def check_applied(asked: Steering, proof: Proof, identity: ModelIdentity) -> None:
    """Raise NotApplied unless `proof` is that `asked` ran on the model `identity`."""
    if proof.fingerprint != asked.fingerprint:
        raise NotApplied(
            f"steering {asked.fingerprint} was asked for, {proof.fingerprint} was applied; the answer is withheld"
        )
    expected = identity.run(asked.fingerprint)
    if proof.identity != expected:
        raise NotApplied(f"run {expected} was asked for, {proof.identity} answered; the answer is withheld")
