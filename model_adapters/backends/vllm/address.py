"""Where a vLLM server is: what was given, or what the environment says. Standard library only."""

import os
from urllib.parse import urlsplit

from model_adapters.errors import SteerError

ADDRESS = "VLLM_BASE_URL"
"""The variable with a server's address, where none is given; the name that Inspect's own provider reads."""


def server_address(given: str | None) -> str | None:
    """The address that was given, else the environment's; None where there is neither."""
    return given or os.environ.get(ADDRESS) or None


def checked_address(address: str) -> str:
    """The address without `/v1` and slashes at its end. Raises SteerError for what is none, and for one with a secret
    in it, which it doesn't show."""
    if "@" in address:
        raise SteerError("base_url holds a password, and hosts write it into their results; set VLLM_API_KEY")
    shown = address.partition("?")[0].partition("#")[0]
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that don't close, a port that is no number
        is_address = False
    if not is_address or shown != address:
        raise SteerError(f"base_url={shown!r} is not an address; give http://host:port of a vLLM server")
    return address.rstrip("/").removesuffix("/v1")
