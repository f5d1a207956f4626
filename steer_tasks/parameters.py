"""Parameters as users type them: `NAME=VALUE` words of a command line, or what a host made of them. No harness."""

import json
from collections.abc import Mapping, Sequence

from model_adapters.errors import SteerError


def parameters(words: Sequence[str], where: str = "-p") -> dict[str, object]:
    """`NAME=VALUE` words as a mapping; `where` is what an error calls them.

    Raises SteerError for a word without name or `=` and for a repeated name.
    """
    found: dict[str, object] = {}
    for word in words:
        name, equals, value = str(word).partition("=")
        name = name.strip()
        if not equals or not name:
            raise SteerError(f"{where} {word}: write it as NAME=VALUE")
        if name in found:
            raise SteerError(f"{where} {name} is given twice; give it once")
        found[name] = value.strip()
    return found


def hosted_parameters(given: Mapping[str, object] | Sequence[str] | str | None) -> dict[str, object]:
    """The argument `parameters` of a task, which a host passes on as a mapping, a list of words, a JSON object, or one
    text of words with commas or semicolons between."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): value for name, value in given.items()}
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            return hosted_parameters(json.loads(given))
        except ValueError as problem:
            raise SteerError(f"parameters={given!r} isn't JSON ({problem}); write NAME=VALUE") from problem
    return parameters(given.replace(";", ",").split(",") if isinstance(given, str) else given, "parameters:")
