"""Inspect's model providers: `hook_steered` (a local model) and `prompt_steered` (any Inspect model behind a prompt).

No steering decision is taken here: which one runs is in each request, in `extra_body["steer"]` (see `inspect_spec`).
Imports inspect_ai; torch only when a model is loaded.
"""

import asyncio
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelCall,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    StopReason,
    get_model,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from model_adapters.backend import Backend, Completion, Messages, Proof, Request, Sampling, check_applied
from model_adapters.backend import StopReason as OurStopReason
from model_adapters.backends.wrapped import (
    Answer,
    WrappedBackend,
    prompt_only_refusals,
    seed_of_sample,
    sent_proof,
)
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect_arguments import check_arguments, is_true, local_arguments
from model_adapters.harnesses.inspect_engines import ENGINES, check_loop
from model_adapters.harnesses.inspect_messages import inspect_messages, our_messages, sent_text, with_prompts
from model_adapters.harnesses.inspect_sampling import MAX_TOKENS, sampling_of
from model_adapters.harnesses.inspect_spec import KEY, Spec, parse_spec
from model_adapters.identity import ModelIdentity, digest
from model_adapters.steering import CONTROL, Steering

CONNECTIONS = 64
"""Requests under way at once: twice the rows of one forward pass, so that the next batch is there when one ends."""

STOP_REASONS: dict[OurStopReason, StopReason] = {
    "stop": "stop",
    "stop_string": "stop",
    "max_tokens": "max_tokens",
    "context_length": "model_length",
    "unknown": "unknown",
}
FROM_INSPECT: dict[str, OurStopReason] = {"stop": "stop", "max_tokens": "max_tokens", "model_length": "context_length"}


class SteeredModel(ModelAPI):
    """A provider that steers each request as its spec says, and reports in `ModelOutput.metadata["steer"]` what ran."""

    unsteered = False
    """Whether a request without a spec is let through as it is, instead of being refused."""

    @abstractmethod
    async def backend(self) -> Backend:
        """The backend that methods prepare with and that says what it refuses; opened at the first call."""
        ...

    def taken(self, config: GenerateConfig) -> tuple[Spec | None, dict[str, Any]]:
        """The spec in a request, and what else is in its extra_body. Raises Refused for a request without one."""
        body = dict(config.extra_body or {})
        given = body.pop(KEY, None)
        if given is not None:
            return parse_spec(given), body
        if self.unsteered:
            return None, body
        raise Refused(
            f'the request says nothing about steering; add --extra-body "$(steer spec FILE)", '
            f"or open {self.model_name} with -M unsteered=true to run it plain"
        )


class _Steerings:
    """The steerings of this provider's requests, each file read once."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, str | None], Steering] = {}

    async def of(self, spec: Spec | None) -> Steering:
        if spec is None:
            return CONTROL
        key = (spec.fingerprint, spec.file)
        if key not in self._read:
            self._read[key] = await asyncio.to_thread(spec.steering)
        return self._read[key]


def _report(
    spec: Spec | None, proof: Proof, sent: Messages | None, seed: int | None, identity: ModelIdentity
) -> dict[str, object]:
    """What `ModelOutput.metadata["steer"]` holds: what was asked, what ran, and on what."""
    return {
        "spec": spec.as_dict() if spec else None,
        "fingerprint": proof.fingerprint,
        "identity": proof.identity,
        "proof": proof.as_dict(),
        "messages_sent": None if sent is None else [asdict(message) for message in sent],
        "seed": seed,
        "model": identity.as_dict(),
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
        self._steerings = _Steerings()
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
        metadata = _report(spec, done.proof, done.messages_sent, done.seed, backend.identity)
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


class PromptSteered(SteeredModel):
    """Any other Inspect model, steered by what it is told: `prompt_steered/openai/gpt-4o`.

    Only SystemPrompts can run here; everything else is refused. All `-M` arguments but `unsteered` go to the inner
    provider, as do its limits, retries and connections.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the host's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        if "/" not in model_name:
            raise Refused(f"prompt_steered/{model_name} names no provider; write prompt_steered/<provider>/<model>")
        check_arguments("prompt_steered", model_args)
        self._arguments = dict(model_args)
        self.unsteered = is_true("unsteered", self._arguments.pop("unsteered", False))
        self._config, self._inner = config, None
        self._steerings = _Steerings()
        set_model_info(f"prompt_steered/{model_name}", ModelInfo(organization="local"))

    _inner: Model | None

    @property
    def inner(self) -> Model:
        """The model behind the prompt, made at the first use."""
        if self._inner is None:
            self._inner = get_model(
                self.model_name,
                base_url=self.base_url,
                api_key=self.api_key,
                config=self._config,
                memoize=False,
                **self._arguments,
            )
        return self._inner

    @property
    def identity(self) -> ModelIdentity:
        """The inner model by name, URL and arguments; more it doesn't disclose."""
        arguments = {name: repr(value) for name, value in sorted(self._arguments.items())}
        return ModelIdentity(self.model_name, WrappedBackend.name, url=self.base_url, arguments=arguments)

    async def backend(self) -> Backend:
        """A backend that asks the inner model, in the event loop of this call."""
        loop = asyncio.get_running_loop()

        async def send(messages: Messages, sampling: Sampling) -> Answer:
            asked = asyncio.run_coroutine_threadsafe(self._ask(messages, sampling), loop)
            return await asyncio.wrap_future(asked)

        return WrappedBackend(send, self.identity)

    async def _ask(self, messages: Messages, sampling: Sampling) -> Answer:
        config = GenerateConfig(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=None if math.isclose(sampling.top_p, 1.0) else sampling.top_p,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop_seqs=list(sampling.stop) or None,
        )
        output = await self.inner.generate(inspect_messages(messages), config=config)
        usage = output.usage
        return Answer(
            output.completion,
            usage.input_tokens if usage else None,
            usage.output_tokens if usage else None,
            FROM_INSPECT.get(output.stop_reason, "unknown"),
        )

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput | tuple[ModelOutput | Exception, ModelCall]:
        """The inner provider's completion of the messages with the steering's prompts in them."""
        spec, body = self.taken(config)
        steering = await self._steerings.of(spec)
        reasons = prompt_only_refusals(steering)
        if reasons:
            raise Refused("; ".join(reasons))
        if spec is not None:
            spec.check_identity(self.identity)
        api = self.inner.api
        seed = seed_of_sample(config.seed, (spec.sample_index or 0) if spec else 0)
        passed_on = config.model_copy(update={"extra_body": body or None, "seed": seed})
        sent = with_prompts(input, steering, api.collapse_system_messages())
        result = await api.generate(sent, tools, tool_choice, passed_on)
        output = result[0] if isinstance(result, tuple) else result
        if isinstance(output, ModelOutput):
            proof = sent_proof(steering, self.identity)
            check_applied(steering, proof, self.identity)
            steer = _report(spec, proof, sent_text(sent), seed, self.identity)
            output.metadata = {**(output.metadata or {}), KEY: steer}
        return result

    async def aclose(self) -> None:
        """Close the inner model, if it was made."""
        if self._inner is not None:
            inner, self._inner = self._inner, None
            await inner.api.aclose()

    def initialize(self) -> None:
        """The keys are the inner provider's: it reads them again, if it was made."""
        if getattr(self, "_inner", None) is not None:
            self.inner.api.initialize()


DELEGATED = (
    *("should_retry", "retry_wait", "is_auth_failure", "refresh_credentials", "connection_key"),
    *("max_tokens", "max_tokens_for_config", "max_connections", "cache_write_ttl", "served_model_usage"),
    *("count_tokens", "count_text_tokens", "count_media_tokens", "tokenize"),
    *("collapse_user_messages", "collapse_assistant_messages", "collapse_system_messages"),
    *("tools_required", "supports_remote_mcp", "tool_result_images", "tool_result_documents"),
    *("disable_computer_screenshot_truncation", "model_family", "service_model_name"),
    *("force_reasoning_history", "auto_reasoning_history", "compact_reasoning_history"),
)
"""Questions that Inspect asks a provider and that only the inner one can answer."""


def _delegate(name: str) -> Callable[..., Any]:
    def asked(self: PromptSteered, *arguments: Any) -> Any:
        return getattr(self.inner.api, name)(*arguments)

    asked.__name__ = name
    return asked


for _name in DELEGATED:
    setattr(PromptSteered, _name, _delegate(_name))
