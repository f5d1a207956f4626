"""Inspect's provider `prompt_steered`: any other Inspect model behind a prompt. Imports inspect_ai."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    GenerateConfig,
    Model,
    ModelCall,
    ModelInfo,
    ModelOutput,
    get_model,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from model_adapters.backend import Backend, Messages, Sampling, check_applied
from model_adapters.backend import StopReason as OurStopReason
from model_adapters.backends.wrapped import Answer, WrappedBackend, prompt_only_refusals, seed_of_sample, sent_proof
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect_arguments import check_arguments, is_true
from model_adapters.harnesses.inspect_messages import inspect_messages, sent_text, with_prompts
from model_adapters.harnesses.inspect_model import SteeredModel, Steerings, report
from model_adapters.harnesses.inspect_spec import KEY
from model_adapters.identity import ModelIdentity

FROM_INSPECT: dict[str, OurStopReason] = {"stop": "stop", "max_tokens": "max_tokens", "model_length": "context_length"}


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
        self._steerings = Steerings()
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
            steer = report(spec, proof, sent_text(sent), seed, self.identity)
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
