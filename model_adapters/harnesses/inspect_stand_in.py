"""Inspect's providers for dry runs: stand-ins for a steered model and for a judge. Imports inspect_ai; no torch."""

import hashlib
from typing import Any

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelInfo, ModelOutput, ModelUsage, set_model_info
from inspect_ai.tool import ToolChoice, ToolInfo

from model_adapters.backend import Backend
from model_adapters.backends.stand_in import StandIn
from model_adapters.harnesses.inspect_request import RequestModel


class StandInSteered(RequestModel):
    """`stand_in_steered/<name>`: takes every steering and answers by digest; what it says means nothing."""

    provider = "stand_in_steered"

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the host's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, config)
        self._backend = StandIn(model_name)
        set_model_info(f"{self.provider}/{model_name}", ModelInfo(organization="stand-in"))

    async def backend(self) -> Backend:
        """The stand-in."""
        return self._backend


class StandInJudge(ModelAPI):
    """`stand_in_judge/<name>`: replies in the form that a judge is asked for; the scores are made from digests."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the host's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        set_model_info(f"stand_in_judge/{model_name}", ModelInfo(organization="stand-in"))

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """One reply with both scores."""
        number = 1 + int(hashlib.sha256(input[0].text.encode()).hexdigest()[:8], 16) % 5
        said = "<analysis>Made from a digest; it means nothing.</analysis>\n"
        said += f"<behavior>{number}</behavior>\n<coherence>{number}</coherence>"
        output = ModelOutput.from_content(self.model_name, said)
        tokens_in, tokens_out = sum(len(one.text.split()) for one in input), len(said.split())
        output.usage = ModelUsage(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out)
        return output
