"""`steer serve`: a local Ember on a port. Light: the service and torch are imported when it runs."""

import argparse
import logging
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

from model_adapters.errors import SteerError

if TYPE_CHECKING:
    from model_adapters.features.dictionary import Dictionary

KEY = "GOODFIRE_API_KEY"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def add_serve_options(one: argparse.ArgumentParser) -> None:
    """The options of `steer serve`."""
    one.add_argument("--model", required=True, help="`embedded`, a Hugging Face id, or a folder")
    one.add_argument("--dictionary", help="a feature dictionary; for `embedded` the package's own is there")
    one.add_argument("--labels", help="a JSON, JSONL or CSV file of the dictionary's labels")
    one.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    one.add_argument("--port", type=int, default=8080, help="port to listen at, 0 for a free one (default 8080)")
    one.add_argument("--served-as", action="append", default=[], metavar="NAME", help="a further name of the model")
    one.add_argument("--layer", type=int, help="block where edits act (default: the dictionary's)")
    one.add_argument("--factor", type=float, help="dictionary units per unit of value (default: the dictionary's)")
    one.add_argument("--positions", default="response", choices=("all", "prompt", "response"), help="where edits act")
    one.add_argument("--dtype", help="auto, float32, bfloat16 or float16")
    one.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    one.add_argument("--revision", help="a revision of the model on the hub")
    one.add_argument("--rows", type=int, default=32, help="most rows of one forward pass (default 32)")
    drain = "how long running answers may take once it is told to stop (default 600)"
    one.add_argument("--drain", type=int, default=600, metavar="SECONDS", help=drain)


def serve(given: argparse.Namespace) -> None:
    """Answer until SIGTERM or SIGINT, then finish what is under way. A bearer key is needed where GOODFIRE_API_KEY
    is set. Raises SteerError for a taken port, and for a dictionary that doesn't fit."""
    listening = listen(given.host, given.port)
    try:
        _serve(given, listening)
    finally:
        listening.close()


def _serve(given: argparse.Namespace, listening: socket.socket) -> None:
    import uvicorn

    from model_adapters.backends.local import open_local
    from model_adapters.ember_service.app import create_app

    dictionary = opened_dictionary(given)
    backend = open_local(
        given.model,
        dtype=given.dtype,
        device=given.device,
        revision=given.revision,
        rows=given.rows,
        interrupts=True,
    )
    try:
        key = os.environ.get(KEY) or None
        app = create_app(
            backend,
            dictionary,
            names=[given.model, *given.served_as],
            layer=given.layer,
            factor=given.factor,
            positions=given.positions,
            api_key=key,
        )
        if key is None and given.host not in LOOPBACK:
            print(f"steer serve: {KEY} is not set, so anyone who reaches {given.host} may ask", file=sys.stderr)
        logging.basicConfig(level=logging.WARNING)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=given.drain,
        )
        _run(_announced(config, _greeting(given, dictionary, listening)), listening)
    finally:
        backend.close()


def opened_dictionary(given: argparse.Namespace) -> "Dictionary":
    """The dictionary named, or the package's own for the embedded model."""
    from model_adapters.features.dictionary import open_dictionary

    if given.dictionary is None and given.model != "embedded":
        raise SteerError(f"{given.model} needs --dictionary, a feature dictionary that was trained on it")
    return open_dictionary(given.dictionary or "demo", labels=given.labels)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, before anything is loaded. Raises SteerError for an address that can't be had."""
    if not 0 <= port < 2**16:
        raise SteerError(f"--port {port} can't be listened at; ports go from 0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # The protocol by name, so that asyncio switches the delay of small packets off.
        listening = socket.socket(family, kind, proto or socket.IPPROTO_TCP)
    except OSError as problem:
        raise SteerError(f"--host {host} --port {port} can't be listened at ({problem}); choose another") from problem
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as problem:
        listening.close()
        raise SteerError(f"--host {host} --port {port} can't be listened at ({problem}); choose another") from problem
    return listening


def _greeting(given: argparse.Namespace, dictionary: Any, listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    names = ", ".join([given.model, *given.served_as])
    return f"steer serve: {names} with dictionary {dictionary.name} on http://{shown}:{port}"


def _announced(config: Any, greeting: str) -> Any:
    import uvicorn

    class Announced(uvicorn.Server):
        """Says one line when it answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(greeting, flush=True)

    return Announced(config)


def _run(server: Any, listening: socket.socket) -> None:
    # uvicorn raises the signal that stopped it once more when it has drained; a clean stop ends with 0.
    heard = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])
    finally:
        for one, was in heard.items():
            signal.signal(one, was)
