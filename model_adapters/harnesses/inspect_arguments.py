"""What `-M` may say to our Inspect providers: how a model is run, never what is done to it. No host."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_adapters.backends.vllm.address import checked_address, server_address
from model_adapters.errors import Refused
from model_adapters.secret import looks_secret

WHAT_IS_STEERED = frozenset(
    {
        *("steer", "steering", "method", "behavior", "behaviour", "draw", "redraw", "interventions", "vector"),
        *("coefficient", "dose", "layer", "layers", "positions", "text", "placement", "contrasts", "match"),
        *("first", "second", "edits", "dictionary", "fingerprint", "file", "system_prompt"),
    }
)


def check_arguments(provider: str, arguments: Mapping[str, Any]) -> None:
    """Raise Refused for an argument that says what is steered, looks like a key, or is not plain data.

    Inspect's caches leave these arguments out of their keys, drop values that JSON can't hold, and its logs show them.
    """
    for name, value in arguments.items():
        if name in WHAT_IS_STEERED:
            raise Refused(
                f"{provider}: -M {name}=… would say what is steered, which Inspect's caches don't see; "
                "say it in the task's arguments, or with --extra-body"
            )
        if looks_secret(name, value):
            raise Refused(
                f"{provider}: -M {name}=… looks like a key, and Inspect logs it; put keys into the environment"
            )
        if not _is_plain(value):
            raise Refused(
                f"{provider}: {name} is a {type(value).__name__}, which Inspect's caches don't see; "
                "give text, numbers, true or false; a steering goes into a file"
            )


def _is_plain(value: object) -> bool:
    match value:
        case None | bool() | int() | str():
            return True
        case float():
            return math.isfinite(value)
        case list() | tuple():
            return all(_is_plain(one) for one in value)
        case dict():
            return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    return False


LOCAL = (
    *("runner", "dtype", "device", "revision", "max_rows", "max_length", "kv_memory_mb"),
    *("template_arguments", "unsteered", "store"),
)
"""What `hook_steered` takes for a model in this process."""

SERVED = (
    *("runner", "served_as", "tokenizer", "revision", "max_rows", "max_length"),
    *("template_arguments", "unsteered", "store"),
)
"""What it takes for one on a vLLM server, which has loaded it already."""

RUNNERS = {"local": LOCAL, "vllm": SERVED}


@dataclass(frozen=True)
class Opening:
    """How `hook_steered` opens its model: who runs it, what that one is opened with, and whether requests without a
    spec are let through."""

    runner: str
    arguments: Mapping[str, Any]
    unsteered: bool


def hook_opening(arguments: Mapping[str, Any], base_url: str | None) -> Opening:
    """What `-M` and Inspect's base URL say of the model.

    A server's address is the base URL, else the environment's. Raises Refused for an argument that the runner doesn't
    take, for a value of the wrong kind, and where a base URL and the runner don't go together, SteerError for an
    address that is none.
    """
    check_arguments("hook_steered", arguments)
    runner = str(arguments.get("runner", "local"))
    if runner not in RUNNERS:
        raise Refused(f"runner={runner} is not there; hook_steered has runner=local and runner=vllm")
    for name in arguments:
        if name not in RUNNERS[runner]:
            raise Refused(
                f"hook_steered has no argument {name!r} under runner={runner}; -M takes {', '.join(RUNNERS[runner])}"
            )
    opening = _opening(arguments)
    if runner == "local" and base_url is not None:
        raise Refused(f"hook_steered runs in this process; leave the base URL {base_url} out, or add -M runner=vllm")
    if runner == "vllm":
        address = server_address(base_url)
        if address is None:
            raise Refused(
                "runner=vllm needs --model-base-url http://HOST:PORT, the address of a vLLM server, or VLLM_BASE_URL"
            )
        opening["base_url"] = checked_address(address)
    return Opening(runner, opening, is_true("unsteered", arguments.get("unsteered", False)))


def _opening(arguments: Mapping[str, Any]) -> dict[str, Any]:
    opening: dict[str, Any] = {}
    for name in ("dtype", "device", "revision", "served_as", "tokenizer"):
        if arguments.get(name) is not None:
            opening[name] = str(arguments[name])
    for name, called in (("max_rows", "rows"), ("max_length", "max_length"), ("kv_memory_mb", "kv_memory_mb")):
        if arguments.get(name) is not None:
            opening[called] = _whole(name, arguments[name])
    template = arguments.get("template_arguments")
    if template is not None:
        opening["template_arguments"] = _mapping(template)
    return opening


def is_true(name: str, value: object) -> bool:
    """A truth value as `-M` gives it: true, false, or their spelling. Raises Refused for anything else."""
    spelt = {"true": True, "false": False}.get(str(value).lower())
    if spelt is None:
        raise Refused(f"{name}={value!r}; it is true or false")
    return spelt


def _whole(name: str, value: object) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if number < 1:
        raise Refused(f"{name}={value!r}; it is a whole number from 1")
    return number


def _mapping(value: object) -> dict[str, object]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, dict):
        raise Refused("template_arguments is an object, such as '{\"enable_thinking\": false}'")
    return value
