"""Telling keys among model arguments, which hosts write into their results. Standard library only."""

import re

_NAME = re.compile(r"(^|_)(api_?key|key|token|secret|password|passwd|credentials?|auth|authorization|bearer)(_|$)")
_VALUE = re.compile(r"(sk|hf|ghp|gho|glpat|xoxb|AKIA)[-_]?[A-Za-z0-9_-]{16,}")


def looks_secret(name: str, value: object) -> bool:
    """Whether an argument is a key by its name (whole words: `api_key`, `token`) or by the form of its value."""
    return bool(_NAME.search(name.lower())) or (isinstance(value, str) and _VALUE.fullmatch(value) is not None)
