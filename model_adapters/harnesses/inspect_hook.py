"""Inspect's provider `hook_steered`: a model in this process. Imports inspect_ai; torch only when a model is loaded."""

from dataclasses import asdict, replace
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelCall,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    StopReason,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from model_adapters.backend import Backend, Completion, Messages, Request, Sampling, check_applied
from model_adapters.backend import StopReason as OurStopReason
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect_arguments import local_arguments
from model_adapters.harnesses.inspect_engines import ENGINES, check_loop
from model_adapters.harnesses.inspect_messages import our_messages
from model_adapters.harnesses.inspect_model import SteeredModel, Steerings, report
from model_adapters.harnesses.inspect_sampling import MAX_TOKENS, sampling_of
from model_adapters.harnesses.inspect_spec import KEY, Spec
from model_adapters.identity import digest

CONNECTIONS = 64
"""Requests under way at once: twice the rows of one forward pass, so that the next batch is there when one ends."""

STOP_REASONS: dict[OurStopReason, StopReason] = {
    "stop": "stop",
    "stop_string": "stop",
    "max_tokens": "max_tokens",
    "context_length": "model_length",
    "unknown": "unknown",
}

class HookSteered(SteeredModel):
    """A model in this process whose residual stream is steered request by request; requests share batches.

    The name is `embedded`, a hub id or a folder. Nothing is loaded before the first request, and providers opened
    alike share one model. Greedy unless the request has a temperature.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the host's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, None, None, [], config)
        if base_url is not None:
            raise Refused(f"hook_steered/{model_name} runs in this process; leave the base URL {base_url} out")
        self._opening, self.unsteered = local_arguments(model_args)
        self._backend: Backend | None = None
        self._steerings = Steerings()
        set_model_info(f"hook_steered/{model_name}", ModelInfo(organization="local"))

    @property
    def revision(self) -> str | None:
        """The revision that was asked for."""
        return self._opening.get("revision")

    async def backend(self) -> Backend:
        """The local model, loaded outside the event loop at the first call in this process."""
        check_loop()
        if self._backend is None:
            backend = await ENGINES.acquire(self.model_name, self._opening)
            if self._backend is None:
                self._backend = backend
            else:  # another request of ours was first; one hold is enough
                await ENGINES.release(self.model_name, self._opening)
        return self._backend

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> tuple[ModelOutput, ModelCall]:
        """One completion, and the call as it went to the engine. Raises Refused before any token is spent."""
        spec, other = self.taken(config)
        if other:
            raise Refused(f"extra_body has {', '.join(other)}, which hook_steered doesn't know; it takes {KEY!r} only")
        if tools:
            raise Refused(f"hook_steered has no tools, and {tools[0].name} is offered; use a task without tools")
        sampling, messages = sampling_of(config), our_messages(input)
        steering = await self._steerings.of(spec)
        backend = await self.backend()
        if spec is not None:
            spec.check_identity(backend.identity)
        if spec is not None and spec.sample_index is not None and sampling.seed is None:
            sampling = _seeded(sampling, backend.identity.run(steering.fingerprint), messages)
        index = spec.sample_index if spec is not None and spec.sample_index is not None else 0
        done = await backend.complete(Request(messages, steering, sampling, index))
        check_applied(steering, done.proof, backend.identity)
        metadata = report(spec, done.proof, done.messages_sent, done.seed, backend.identity)
        return self._output(done, metadata), self._call(done, spec, sampling, index)

    def _output(self, done: Completion, steer: dict[str, object]) -> ModelOutput:
        message = ChatMessageAssistant(content=done.text, model=self.model_name, source="generate")
        tokens_in, tokens_out = done.tokens_in or 0, done.tokens_out or 0
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=STOP_REASONS[done.stop_reason])],
            usage=ModelUsage(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out),
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

    def max_connections(self) -> int:
        """Requests under way at once."""
        return CONNECTIONS

    def connection_key(self) -> str:
        """One pool for each model and way of running it."""
        return digest([self.model_name, self._opening])

    async def aclose(self) -> None:
        """Give the model back; it is unloaded when no provider holds it any more."""
        if self._backend is not None:
            self._backend = None
            await ENGINES.release(self.model_name, self._opening)


def _seeded(sampling: Sampling, identity: str, messages: Messages) -> Sampling:
    """The sampling with a seed from run identity and messages, so that a killed run's retry draws the same again."""
    if sampling.is_greedy:
        return sampling
    return replace(sampling, seed=int(digest([identity, [asdict(message) for message in messages]])[:15], 16))
