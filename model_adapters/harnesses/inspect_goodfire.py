"""Inspect's provider `goodfire_steered`: an Ember service. Imports inspect_ai; torch only for a service in here."""

import asyncio
from collections.abc import Mapping
from typing import Any

from inspect_ai.model import GenerateConfig, ModelInfo, set_model_info

from model_adapters.backend import Backend
from model_adapters.backends.local import open_local
from model_adapters.errors import Refused
from model_adapters.harnesses.goodfire import CLIENT, SERVICE, Service, open_service, service_choice
from model_adapters.harnesses.inspect_arguments import check_arguments, is_true
from model_adapters.harnesses.inspect_engines import Engines, check_loop
from model_adapters.harnesses.inspect_request import RequestModel
from model_adapters.identity import digest

CONNECTIONS = 64
"""Requests under way at once; the client asks fewer at a time where it was told to."""

TAKEN = (*SERVICE, *CLIENT, "unsteered", "store")
"""What `-M` may say. `dictionary` and `layer` describe the service, not what is asked of it."""


def _open(name: str, **arguments: Any) -> Service:
    return asyncio.run(open_service(service_choice({"model": name, **arguments}), open_local))


SERVICES = Engines(_open)
"""Of this process: Inspect makes several provider objects per eval, and a service may hold weights."""


def _check(arguments: Mapping[str, Any]) -> None:
    check_arguments("goodfire_steered", {name: held for name, held in arguments.items() if name not in TAKEN})
    for name in arguments:
        if name not in TAKEN:
            raise Refused(f"goodfire_steered has no argument {name!r}; -M takes {', '.join(TAKEN)}")


class GoodfireSteered(RequestModel):
    """A model steered by an Ember service, request by request.

    The service is the hosted one where GOODFIRE_API_KEY is set, the one at GOODFIRE_BASE_URL (or Inspect's base URL),
    or else one inside this process. Greedy unless the request has a temperature.
    """

    provider = "goodfire_steered"

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 (the host's signature)
        **model_args: Any,
    ) -> None:
        super().__init__(model_name, config)
        if api_key is not None:
            raise Refused("goodfire_steered takes its key from GOODFIRE_API_KEY in the environment; leave api_key out")
        self.unsteered = is_true("unsteered", model_args.pop("unsteered", False))
        self.keep(model_args.pop("store", None))
        _check(model_args)
        given = {"base_url": base_url, **model_args}
        self._arguments = {name: value for name, value in given.items() if value is not None}
        self.choice = service_choice({"model": model_name, **self._arguments})
        self._service: Service | None = None
        set_model_info(f"goodfire_steered/{model_name}", ModelInfo(organization="Ember"))

    async def backend(self) -> Backend:
        """The connected client; a service in this process is started, outside the event loop, at the first call."""
        check_loop()
        if self._service is None:
            service = await SERVICES.acquire(self.model_name, self._arguments)
            if self._service is None:
                self._service = service
            else:  # another request of ours was first; one hold is enough
                await SERVICES.release(self.model_name, self._arguments)
        return self._service.client

    def max_connections(self) -> int:
        """Requests under way at once."""
        return CONNECTIONS

    def connection_key(self) -> str:
        """One pool for each service."""
        return digest([self.model_name, self._arguments])

    async def aclose(self) -> None:
        """Give the service back; it is closed when no provider holds it any more."""
        if self._service is not None:
            self._service = None
            await SERVICES.release(self.model_name, self._arguments)
