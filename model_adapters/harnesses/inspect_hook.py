"""Inspect's provider `hook_steered`: a model in this process, or on a vLLM server.

Imports inspect_ai; torch only when a model is loaded.
"""

from typing import Any

from inspect_ai.model import GenerateConfig, ModelInfo, set_model_info

from model_adapters.backend import Backend
from model_adapters.backends.local import model_shape
from model_adapters.backends.vllm import CONCURRENCY
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect_arguments import hook_opening
from model_adapters.harnesses.inspect_engines import ENGINES, SERVED, Engines, check_loop
from model_adapters.harnesses.inspect_request import RequestModel
from model_adapters.harnesses.served import known_shape
from model_adapters.identity import digest

CONNECTIONS = 64
"""Requests under way at once in this process: twice the rows of one forward pass, so that the next batch is there when
one ends."""


class HookSteered(RequestModel):
    """A model whose residual stream is steered request by request; requests share batches.

    The name is `embedded`, a hub id or a folder. The model is loaded into this process, or with `runner=vllm` asked of
    the vLLM server at `base_url`, and then only its tokenizer is read. Nothing is opened before the first request, and
    providers opened alike share one. Greedy unless the request has a temperature.
    """

    provider = "hook_steered"

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the host's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, config)
        self.keep(model_args.pop("store", None))
        self._opening = hook_opening(model_args, base_url)
        self.unsteered = self._opening.unsteered
        self._is_served = self._opening.runner == "vllm"
        if self._is_served and api_key is not None:
            raise Refused("hook_steered takes a server's key from VLLM_API_KEY in the environment; leave api_key out")
        self._engines: Engines[Any] = SERVED if self._is_served else ENGINES
        self._backend: Backend | None = None
        set_model_info(f"hook_steered/{model_name}", ModelInfo(organization=self._opening.runner))

    def shape(self) -> tuple[int, int] | None:
        """`(n_layers, d_model)` from the model's config, nothing loaded; None where only the server knows it."""
        revision = self._opening.arguments.get("revision")
        return (known_shape if self._is_served else model_shape)(self.model_name, revision)

    async def backend(self) -> Backend:
        """The model, loaded or probed outside the event loop at the first call in this process."""
        check_loop()
        if self._backend is None:
            backend = await self._engines.acquire(self.model_name, self._opening.arguments)
            if self._backend is None:
                self._backend = backend
            else:  # another request of ours was first; one hold is enough
                await self._engines.release(self.model_name, self._opening.arguments)
        return self._backend

    def max_connections(self) -> int:
        """Requests under way at once: as many as a server takes into a batch."""
        return self._opening.arguments.get("rows", CONCURRENCY) if self._is_served else CONNECTIONS

    def connection_key(self) -> str:
        """One pool for each model and way of running it."""
        return digest([self.model_name, self._opening.runner, dict(self._opening.arguments)])

    async def aclose(self) -> None:
        """Give the model back; it is unloaded, or its connections closed, when no provider holds it any more."""
        if self._backend is not None:
            self._backend = None
            await self._engines.release(self.model_name, self._opening.arguments)
