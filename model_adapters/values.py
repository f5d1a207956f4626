"""Frozen values that are compared by content: vectors, numbers and texts checked on the way in. numpy only."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from model_adapters.errors import SteerError

Positions = Literal["all", "prompt", "response"]
"""Tokens named by the prediction they change: `prompt` is all but the last prompt token, `response` is the last prompt
token and everything generated, `all` is both."""

Placement = Literal["after", "before", "replace", "separate"]
"""Where a SystemPrompt goes relative to the system message that is already there."""

Mode = Literal["nudge", "pin"]
"""How a feature is edited: `nudge` adds to its strength, `pin` sets it."""

Operator = Literal[">", "<", "==", ">=", "<=", "!="]
"""How a condition compares."""

Moment = Literal["token", "prompt"]
"""When a condition counts: at each `token` that meets it, or from the first token of the `prompt` that met it on."""

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]
"""One direction in the residual stream, `(d_model,)`, float32, read-only."""

VECTORS = frozenset({"vector", "encoder", "decoder", "direction"})
"""Fields that hold a Vector, in every kind of value."""

NUMBERS = frozenset({"coefficient", "fraction", "bias", "value", "factor"})
"""Fields that hold a finite number; `factor` may be None."""

NAMES = frozenset({"dictionary", "event"})
"""Fields that hold a text that is not empty, or None."""

WHOLE = frozenset({"layer", "index"})
"""Fields that hold a whole number from 0."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "positions": get_args(Positions),
    "placement": get_args(Placement),
    "mode": get_args(Mode),
    "operator": get_args(Operator),
    "moment": get_args(Moment),
}
"""Fields that hold one of a few words; `positions` may be None where its type says so."""


def _frozen_vector(owner: object, name: str, value: object) -> Vector:
    kind = type(owner).__name__
    try:
        with np.errstate(over="ignore"):
            vector = np.asarray(value).astype(np.float32, casting="same_kind")
    except (TypeError, ValueError) as problem:
        raise SteerError(f"{kind}.{name} is not a vector of real numbers; give floats of shape (d_model,)") from problem
    if vector.ndim != 1 or vector.size == 0:
        raise SteerError(f"{kind}.{name} has shape {vector.shape}; give one vector of shape (d_model,)")
    if not np.isfinite(vector).all():
        raise SteerError(f"{kind}.{name} holds NaN or infinity; prepare the steering again from finite activations")
    # Over immutable bytes, so that nobody can make it writeable again.
    return np.frombuffer(vector.tobytes(), dtype=np.float32)


class ByContent:
    """Equality and hash are those of the content, vectors' bytes included. Base of frozen dataclasses."""

    optional: ClassVar[frozenset[str]] = frozenset()
    """Fields that may be None: not said."""

    unhashed: ClassVar[frozenset[str]] = frozenset()
    """Fields of which only whether they are there is content."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and content(self) == content(other)

    def __hash__(self) -> int:
        return hash(json.dumps(content(self), sort_keys=True))

    def __post_init__(self) -> None:
        """Coerce every field to its stated type; refuse what can't be one."""
        for item in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, item.name, self._checked(item.name, getattr(self, item.name)))

    def _checked(self, name: str, value: Any) -> object:
        if value is None and name in self.optional:
            return None
        if name in VECTORS:
            return _frozen_vector(self, name, value)
        if name in WHOLE:
            return whole(type(self).__name__, name, value)
        if name in NUMBERS:
            return finite(type(self).__name__, name, value)
        if name == "rectified" and not isinstance(value, bool):
            raise SteerError(f"{type(self).__name__}.rectified is {value!r}; it is true or false")
        if name in NAMES and not (isinstance(value, str) and value):
            raise SteerError(f"{type(self).__name__}.{name} is {value!r}; it is a text")
        options = CHOICES.get(name)
        if options and value not in options:
            raise SteerError(f"{type(self).__name__}.{name} is {value!r}; it is one of {', '.join(options)}")
        return _text(value) if name == "text" else value


def _text(value: Any) -> str:
    if not (isinstance(value, str) and value.strip()):
        raise SteerError("SystemPrompt.text is empty; leave the intervention out instead")
    try:
        value.encode()
    except UnicodeEncodeError as problem:
        raise SteerError(f"SystemPrompt.text is not valid Unicode ({problem.reason}); give it as UTF-8") from problem
    return value


def whole(owner: str, name: str, value: Any) -> int:
    """`value` as a whole number from 0; else SteerError naming `owner` and `name`."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if isinstance(value, (bool, np.bool_)) or number != value or number < 0:
        plural = {"index": "indices"}.get(name, f"{name}s")
        raise SteerError(f"{owner}.{name} is {value!r}; {plural} are whole numbers from 0")
    return number


def finite(owner: str, name: str, value: Any) -> float:
    """`value` as a finite float; else SteerError naming `owner` and `name`."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as problem:
        raise SteerError(f"{owner}.{name} is {value!r}; it must be a finite number") from problem
    if not math.isfinite(number):
        raise SteerError(f"{owner}.{name} is {number}; it must be a finite number")
    return number + 0.0  # -0.0 and 0.0 are one content


def content(value: ByContent) -> dict[str, object]:
    """The canonical content of one value, as JSON holds it.

    Floats are hexadecimal text, vectors the SHA-256 of their little-endian bytes, so one changed bit shows.
    """
    out: dict[str, object] = {"kind": type(value).__name__}
    for item in fields(value):  # type: ignore[arg-type]
        held = getattr(value, item.name)
        if item.name in value.unhashed:
            held = held is not None
        out[item.name] = _canonical(held)
    return out


def _canonical(held: object) -> object:
    match held:
        case np.ndarray():
            return hashlib.sha256(held.astype("<f4").tobytes()).hexdigest()
        case ByContent():
            return content(held)
        case tuple():
            return [_canonical(one) for one in held]
        case float():
            return held.hex()
        case _:
            return held
