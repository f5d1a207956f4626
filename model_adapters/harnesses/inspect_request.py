"""Inspect requests on one of our backends: steered, proved, reported. Imports inspect_ai."""

from abc import abstractmethod
from dataclasses import asdict, replace
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelCall,
    ModelOutput,
    ModelUsage,
    StopReason,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from model_adapters.backend import Backend, Completion, Messages, Request, Sampling, check_applied
from model_adapters.backend import StopReason as OurStopReason
from model_adapters.backends.response_store import ResponseStore
from model_adapters.backends.stored import stored
from model_adapters.errors import Refused
from model_adapters.harnesses.answer_store import opened_store, run_store
from model_adapters.harnesses.inspect_messages import our_messages
from model_adapters.harnesses.inspect_model import SteeredModel, Steerings, report
from model_adapters.harnesses.inspect_progress import ProgressCounter
from model_adapters.harnesses.inspect_sampling import MAX_TOKENS, sampling_of
from model_adapters.harnesses.inspect_spec import KEY, Spec
from model_adapters.identity import digest

STOP_REASONS: dict[OurStopReason, StopReason] = {
    "stop": "stop",
    "stop_string": "stop",
    "max_tokens": "max_tokens",
    "context_length": "model_length",
    "interrupt": "stop",
    "unknown": "unknown",
}


class RequestModel(SteeredModel):
    """A provider that runs its requests on a backend of ours. Greedy unless the request has a temperature."""

    provider = ""
    """Its name in Inspect."""

    def __init__(self, model_name: str, config: GenerateConfig) -> None:
        super().__init__(model_name, None, None, [], config)
        self._steerings = Steerings()
        self.store: ResponseStore | None = None
        self._counter = ProgressCounter(self.provider)

    @abstractmethod
    async def backend(self) -> Backend:
        """The backend, opened at the first call."""
        ...

    def keep(self, given: object) -> None:
        """Keep answers where the argument `store` says. Raises SteerError for what is no place."""
        self.store = opened_store(given)

    @property
    def keeps(self) -> bool:
        """Whether answers are kept: by this provider, or by the run around it."""
        return (self.store or run_store()) is not None

    async def answering(self, is_repeatable: bool = True) -> Any:
        """The backend, behind the response store where there is one; a sample that nobody numbered is never kept."""
        return stored(await self.backend(), (self.store or run_store()) if is_repeatable else None)

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> tuple[ModelOutput, ModelCall]:
        """One completion, and the call as it went to the backend. Raises Refused before any token is spent."""
        spec, other = self.taken(config)
        if other:
            said = ", ".join(other)
            raise Refused(f"extra_body has {said}, which {self.provider} doesn't know; it takes {KEY!r} only")
        if tools:
            raise Refused(f"{self.provider} has no tools, and {tools[0].name} is offered; use a task without tools")
        sampling, messages = sampling_of(config, self.provider), our_messages(input)
        steering = await self._steerings.of(spec)
        backend = await self.answering(sampling.is_greedy or (spec is not None and spec.sample_index is not None))
        if spec is not None:
            spec.check_identity(backend.identity)
        if spec is not None and spec.sample_index is not None and sampling.seed is None:
            sampling = _seeded(sampling, backend.identity.run(steering.fingerprint), messages)
        index = spec.sample_index if spec is not None and spec.sample_index is not None else 0
        with self._counter.shown(await self.backend()):
            done = await backend.complete(Request(messages, steering, sampling, index))
        check_applied(steering, done.proof, backend.identity)
        metadata = report(spec, done.proof, done.messages_sent, done.seed, backend.identity, done.stored)
        return self._output(done, metadata), self._call(done, spec, sampling, index)

    def _output(self, done: Completion, steer: dict[str, object]) -> ModelOutput:
        message = ChatMessageAssistant(content=done.text, model=self.model_name, source="generate")
        usage = None
        if done.tokens_in is not None and done.tokens_out is not None and not done.stored:
            total = done.tokens_in + done.tokens_out
            usage = ModelUsage(input_tokens=done.tokens_in, output_tokens=done.tokens_out, total_tokens=total)
        if done.events:
            steer = {**steer, "events": list(done.events)}
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=STOP_REASONS[done.stop_reason])],
            usage=usage,
            metadata={KEY: steer},
        )

    def _call(self, done: Completion, spec: Spec | None, sampling: Sampling, index: int) -> ModelCall:
        request = {
            "model": self.model_name,
            "messages": [asdict(message) for message in done.messages_sent or ()],
            KEY: spec.as_dict() if spec else None,
            "sampling": asdict(sampling) | {"seed": done.seed, "sample_index": index},
        }
        return ModelCall.create(request, {"text": done.text, "stop_reason": done.stop_reason})

    def max_tokens(self) -> int:
        """Where a request has none: the length of the 171 questions' protocol."""
        return MAX_TOKENS


def _seeded(sampling: Sampling, identity: str, messages: Messages) -> Sampling:
    """The sampling with a seed from run identity and messages, so that a killed run's retry draws the same again."""
    if sampling.is_greedy:
        return sampling
    return replace(sampling, seed=int(digest([identity, [asdict(message) for message in messages]])[:15], 16))
