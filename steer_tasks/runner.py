"""`--runner` and what goes with it: who runs a command's model, in this process or on a vLLM server.

Light: models are opened by what is imported when one is.
"""

import argparse
from typing import Any

from model_adapters.errors import SteerError

RUNNERS = ("local", "vllm")
SERVED = ("base_url", "served_as", "tokenizer")
"""Options that say where a vLLM server is and what it serves."""


def add_runner_options(one: argparse.ArgumentParser) -> None:
    """The options that open a model, `--model` apart."""
    one.add_argument("--runner", choices=RUNNERS, default="local", help="who runs the model (default local)")
    where = "a vLLM server, with --runner vllm (default: VLLM_BASE_URL in the environment)"
    one.add_argument("--base-url", metavar="URL", help=where)
    one.add_argument("--served-as", metavar="NAME", help="the server's name of the model")
    one.add_argument("--tokenizer", metavar="NAME", help="where its tokenizer is read, if not from --model")
    one.add_argument("--dtype", help="auto, float32, bfloat16 or float16")
    one.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    one.add_argument("--revision", help="a revision of the model on the hub")


def check_runner(given: argparse.Namespace) -> None:
    """Raise SteerError for options that the runner doesn't take, and for a server without an address."""
    if given.runner == "local":
        for name in SERVED:
            if getattr(given, name):
                raise SteerError(f"{_option(name)} belongs to --runner vllm; add it, or leave {_option(name)} out")
        return
    served_by(given)
    for name in ("dtype", "device"):
        if getattr(given, name):
            raise SteerError(f"{_option(name)} is the server's matter; start it with that, and leave it out here")


def served_by(given: argparse.Namespace) -> dict[str, str]:
    """The server's arguments as both harnesses call them, its address first; empty under `--runner local`.

    Raises SteerError where there is no address.
    """
    from model_adapters.backends.vllm.address import ADDRESS, checked_address, server_address

    if given.runner == "local":
        return {}
    address = server_address(given.base_url)
    if address is None:
        raise SteerError(f"--runner vllm needs --base-url http://HOST:PORT, or {ADDRESS} in the environment")
    named = {name: getattr(given, name) for name in SERVED[1:]}
    return {"base_url": checked_address(address)} | {name: value for name, value in named.items() if value}


def open_model(given: argparse.Namespace) -> Any:
    """The backend that the options name. Blocks, outside an event loop. Raises SteerError where there is none."""
    served = served_by(given)
    if not served:
        from model_adapters.backends.local import open_local

        return open_local(given.model, dtype=given.dtype, device=given.device, revision=given.revision)
    from model_adapters.harnesses.served import open_served

    return open_served(
        given.model,
        base_url=served["base_url"],
        served_as=served.get("served_as"),
        tokenizer=served.get("tokenizer"),
        revision=given.revision,
    )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
