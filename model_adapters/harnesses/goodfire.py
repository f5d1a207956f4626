"""Where `goodfire_steered` gets its answers: a hosted Ember, another one at a URL, or one inside this process.

Joins the client and the service through the ASGI transport, so that both always speak the same protocol. Imports
httpx; torch and FastAPI only when the service inside the process is opened.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from model_adapters.backends.ember import HOSTED, IN_PROCESS, EmberBackend, open_ember
from model_adapters.backends.local.embedded import EMBEDDED
from model_adapters.errors import SteerError

log = logging.getLogger(__name__)

HOSTED_MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct"
"""The model asked for where a key or a URL is set and no model is named."""

DEMO = "demo"
"""The dictionary that comes with the package, for the embedded model."""

KEY_VARIABLE, URL_VARIABLE = "GOODFIRE_API_KEY", "GOODFIRE_BASE_URL"

SERVICE = ("dictionary", "layer", "factor", "positions", "dtype", "device", "revision", "max_rows")
"""Arguments of a service inside the process; a service elsewhere has its own."""

CLIENT = ("base_url", "record", "replay", "num_concurrent", "request_seconds", "run_seconds", "attempts", "stream")
"""Arguments of the client."""

ROWS, PATIENCE_S = 64, 86_400.0
"""Requests at once, and seconds for one, where the service is in this process: what waits there, waits for our own
batches and not for a network, and two batches' worth of requests keep them full."""


@dataclass(frozen=True)
class ServiceChoice:
    """Which service answers: the one at `base_url`, a recorded one (`replay` in `client`), or else one inside this
    process, made from `service`."""

    model: str
    base_url: str | None
    service: Mapping[str, Any] = field(default_factory=dict)
    client: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_in_process(self) -> bool:
        """Whether the service is started in here."""
        return self.base_url is None and not self.is_replayed

    @property
    def is_replayed(self) -> bool:
        """Whether a cassette answers and nothing is asked."""
        return "replay" in self.client

    @property
    def is_embedded(self) -> bool:
        """Whether the answers are the embedded model's, which every result must say."""
        return self.is_in_process and self.model == EMBEDDED

    def described(self) -> dict[str, object]:
        """What a result says of the service."""
        where = "in this process" if self.is_in_process else self.base_url
        return {"service": where, "embedded": self.is_embedded, "replayed": self.is_replayed}


def service_choice(arguments: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> ServiceChoice:
    """Who answers, from the arguments `model`, those of `SERVICE` and `CLIENT`, and from key and URL in `environment`.

    A key without a URL means the hosted address, a URL goes without a key, neither means this process. Raises
    SteerError for arguments that fit no such service.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    service = {name: _plain(name, given[name]) for name in SERVICE if name in given}
    client = {name: _plain(name, given[name]) for name in CLIENT if name in given}
    url = client.pop("base_url", None) or environment.get(URL_VARIABLE) or None
    if url is None and "replay" in client:
        default = HOSTED_MODEL if environment.get(KEY_VARIABLE) else EMBEDDED
        return ServiceChoice(str(given.get("model", default)), None, {}, client)
    if url is None and environment.get(KEY_VARIABLE):
        url = HOSTED
    if url is None:
        model = str(given.get("model", EMBEDDED))
        if model != EMBEDDED and "dictionary" not in service:
            raise SteerError(
                f"model={model} has no dictionary of features here; give dictionary=… (docs/features.md), or set "
                f"{KEY_VARIABLE} and {URL_VARIABLE} to ask a service"
            )
        return ServiceChoice(model, None, {"dictionary": DEMO, **service}, client)
    if service:
        raise SteerError(
            f"{', '.join(sorted(service))}: the service at {url} sets that itself; leave it out, or unset "
            f"{KEY_VARIABLE} and {URL_VARIABLE} to run one in this process"
        )
    return ServiceChoice(str(given.get("model", HOSTED_MODEL)), str(url), {}, client)


WHOLE: Mapping[str, int] = {"layer": 0, "max_rows": 1, "num_concurrent": 1, "attempts": 1}
"""Arguments that are whole numbers, with the least they may be."""


def _plain(name: str, value: Any) -> Any:
    """An argument's value from what command lines make of it. Raises SteerError."""
    if name in WHOLE or name in ("factor", "request_seconds", "run_seconds"):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        least = WHOLE.get(name)
        if isinstance(value, bool) or not (number > 0 if least is None else number >= least and number == int(number)):
            raise SteerError(
                f"{name} is {value!r}; it is a {'' if least is None else 'whole '}number "
                f"{'above 0' if least is None else f'from {least}'}"
            )
        return number if least is None else int(number)
    if name == "stream":
        if str(value).lower() not in ("true", "false"):
            raise SteerError(f"stream is {value!r}; it is true or false")
        return str(value).lower() == "true"
    if not isinstance(value, str) or not value:
        raise SteerError(f"{name} is {value!r}, not a text; put it in quotes")
    return value


@dataclass(frozen=True)
class Service:
    """A connected client, and the model behind it where the service is inside this process."""

    client: EmberBackend
    model: Any = None

    async def aclose(self) -> None:
        """Close the connections, and unload the model."""
        await self.client.aclose()
        if self.model is not None:
            await self.model.aclose()


async def open_service(choice: ServiceChoice, open_model: Callable[..., Any]) -> Service:
    """The chosen service. `open_model` loads the model of one inside this process, called in a thread.

    Raises SteerError where the service doesn't answer; there is no falling back.
    """
    options = dict(choice.client)
    if "num_concurrent" in options:
        options["concurrency"] = options.pop("num_concurrent")
    if not choice.is_in_process:
        return Service(await open_ember(choice.model, base_url=choice.base_url, **options))
    import httpx

    from model_adapters.ember_service import create_app
    from model_adapters.features import open_dictionary

    service = dict(choice.service)
    dictionary = open_dictionary(service.pop("dictionary"))
    opening: dict[str, Any] = {name: service.pop(name) for name in ("dtype", "device", "revision") if name in service}
    if "max_rows" in service:
        opening["rows"] = service.pop("max_rows")
    log.warning(
        "goodfire_steered: neither %s nor %s is set, so %s is served in this process with the dictionary %s",
        KEY_VARIABLE,
        URL_VARIABLE,
        choice.model,
        dictionary.name,
    )
    model = await asyncio.to_thread(open_model, choice.model, interrupts=True, **opening)
    app = create_app(model, dictionary, names=(choice.model,), **service)
    waits = {"concurrency": ROWS, "request_seconds": PATIENCE_S, "attempt_seconds": PATIENCE_S}
    transport = httpx.ASGITransport(app)
    client = await open_ember(choice.model, base_url=IN_PROCESS, transport=transport, **{**waits, **options})
    return Service(client, model)
