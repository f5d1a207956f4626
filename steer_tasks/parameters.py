"""`NAME=VALUE` words of a command line. Standard library only."""

from collections.abc import Sequence

from model_adapters.errors import SteerError


def parameters(pairs: Sequence[str]) -> dict[str, object]:
    """`NAME=VALUE` words as a mapping. Raises SteerError for a word without `=` and for a repeated name."""
    found: dict[str, object] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise SteerError(f"-p {pair}: write it as NAME=VALUE")
        if name in found:
            raise SteerError(f"-p {name} is given twice; give it once")
        found[name] = value
    return found
