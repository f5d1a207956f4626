"""Inspect's provider `hook_steered`: a model in this process. Imports inspect_ai; torch only when a model is loaded."""

from typing import Any

from inspect_ai.model import GenerateConfig, ModelInfo, set_model_info

from model_adapters.backend import Backend
from model_adapters.errors import Refused
from model_adapters.harnesses.inspect_arguments import local_arguments
from model_adapters.harnesses.inspect_engines import ENGINES, check_loop
from model_adapters.harnesses.inspect_request import RequestModel
from model_adapters.identity import digest

CONNECTIONS = 64
"""Requests under way at once: twice the rows of one forward pass, so that the next batch is there when one ends."""


class HookSteered(RequestModel):
    """A model in this process whose residual stream is steered request by request; requests share batches.

    The name is `embedded`, a hub id or a folder. Nothing is loaded before the first request, and providers opened
    alike share one model. Greedy unless the request has a temperature.
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
        if base_url is not None:
            raise Refused(f"hook_steered/{model_name} runs in this process; leave the base URL {base_url} out")
        self.keep(model_args.pop("store", None))
        self._opening, self.unsteered = local_arguments(model_args)
        self._backend: Backend | None = None
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
