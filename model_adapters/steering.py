"""What is done to a model: interventions, and the frozen Steering that holds them. Standard library and numpy only."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Union, get_args

import numpy as np

from model_adapters.errors import SteerError

Positions = Literal["all", "prompt", "response"]
"""Tokens named by the prediction they change: `prompt` is all but the last prompt token, `response` is the last prompt
token and everything generated, `all` is both."""

Placement = Literal["after", "before", "replace", "separate"]
"""Where a SystemPrompt goes relative to the system message that is already there."""

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]
"""One direction in the residual stream, `(d_model,)`, float32, read-only."""


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


class _ByContent:
    """Equality and hash of an intervention are those of its content, vectors' bytes included."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and content(self) == content(other)  # type: ignore[arg-type]

    def __hash__(self) -> int:
        return hash(json.dumps(content(self), sort_keys=True))  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        """Coerce every field to its stated type; refuse what can't be one."""
        for item in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, item.name, self._checked(item.name, getattr(self, item.name)))

    def _checked(self, name: str, value: Any) -> object:
        if name in VECTORS:
            return _frozen_vector(self, name, value)
        if name == "layer":
            return _layer(self, value)
        if name in ("coefficient", "fraction", "bias", "value"):
            return _finite(self, name, value)
        options = {"positions": get_args(Positions), "placement": get_args(Placement)}.get(name)
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


def _layer(owner: object, value: Any) -> int:
    try:
        layer = int(value)
    except (TypeError, ValueError, OverflowError):
        layer = -1
    if isinstance(value, (bool, np.bool_)) or layer != value or layer < 0:
        raise SteerError(f"{type(owner).__name__}.layer is {value!r}; layers are whole numbers from 0")
    return layer


def _finite(owner: object, name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as problem:
        raise SteerError(f"{type(owner).__name__}.{name} is {value!r}; it must be a finite number") from problem
    if not math.isfinite(number):
        raise SteerError(f"{type(owner).__name__}.{name} is {number}; it must be a finite number")
    return number + 0.0  # -0.0 and 0.0 are one content


@dataclass(frozen=True, eq=False)
class SystemPrompt(_ByContent):
    """A text put into the system message; `after` what is there (a blank line between) unless placed otherwise."""

    text: str
    placement: Placement = "after"


@dataclass(frozen=True, eq=False)
class AddVector(_ByContent):
    """Adds `coefficient * vector` to the output of block `layer` (0-based) at the chosen positions.

    `vector` is `(d_model,)`, float32; the product is taken in float32 and cast to the residual's dtype once.
    """

    layer: int
    vector: Vector
    coefficient: float = 1.0
    positions: Positions = "response"


@dataclass(frozen=True, eq=False)
class ClampFeature(_ByContent):
    """Sets one dictionary feature to `value` and leaves the rest of the residual h as it is.

    The feature's activation is f = relu(encoder · h + bias); what is added is (value - f) * decoder, so the part of
    h that the dictionary does not explain stays. `encoder` and `decoder` are `(d_model,)`, float32; a dictionary's
    input bias is folded into `bias`. `value` is in the dictionary's own units.
    """

    layer: int
    encoder: Vector
    bias: float
    decoder: Vector
    value: float
    positions: Positions = "response"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder.shape != self.decoder.shape:
            raise SteerError(f"ClampFeature: encoder {self.encoder.shape} and decoder {self.decoder.shape} differ")

    @property
    def feature(self) -> tuple[int, bytes, float, bytes]:
        """What is clamped, apart from to which value and where."""
        return self.layer, self.encoder.tobytes(), self.bias, self.decoder.tobytes()


@dataclass(frozen=True, eq=False)
class AblateDirection(_ByContent):
    """Removes `fraction` of the residual's component along `direction` (`(d_model,)`, any length but zero).

    h' = h - fraction * (h · u) u with u = direction / ‖direction‖ (directional ablation, arXiv:2406.11717,
    section 2.4).
    """

    layer: int
    direction: Vector
    fraction: float = 1.0
    positions: Positions = "response"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.fraction <= 1.0:
            raise SteerError(f"AblateDirection.fraction is {self.fraction}; it lies in [0, 1]")
        with np.errstate(over="ignore"):
            size = float(np.linalg.norm(self.direction))  # in float32, as backends take it
        if not 0.0 < size < math.inf:
            raise SteerError(f"AblateDirection.direction has length {size} in float32; give it a length near 1")


Intervention = Union[SystemPrompt, AddVector, ClampFeature, AblateDirection]  # noqa: UP007 (get_args below)
KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Intervention)}
VECTORS = frozenset({"vector", "encoder", "decoder", "direction"})
"""Fields that hold a Vector, in every kind of intervention."""


def content(intervention: Intervention) -> dict[str, object]:
    """The canonical content of one intervention.

    Floats are hexadecimal text, vectors the SHA-256 of their little-endian bytes, so one changed bit shows.
    """
    out: dict[str, object] = {"kind": type(intervention).__name__}
    for item in fields(intervention):
        value = getattr(intervention, item.name)
        if item.name in VECTORS:
            value = hashlib.sha256(value.astype("<f4").tobytes()).hexdigest()
        out[item.name] = value.hex() if isinstance(value, float) else value
    return out


def is_idle(intervention: Intervention) -> bool:
    """Whether an intervention changes nothing by its own numbers, so that leaving it out is the same bit for bit."""
    match intervention:
        case AddVector():
            return intervention.coefficient == 0.0 or not intervention.vector.any()
        case AblateDirection():
            return intervention.fraction == 0.0
        case _:
            return False


def _scaled(intervention: Intervention, factor: float) -> Intervention:
    match intervention:
        case AddVector():
            return replace(intervention, coefficient=intervention.coefficient * factor)
        case AblateDirection():
            if not 0.0 <= factor <= 1.0:
                raise SteerError(f"AblateDirection can't be scaled by {factor}; use a factor in [0, 1]")
            return replace(intervention, fraction=intervention.fraction * factor)
        case _:
            kind = type(intervention).__name__
            raise SteerError(f"{kind} can't be scaled, only AddVector and AblateDirection can; leave the {kind} out")


def _check_together(interventions: Iterable[Intervention]) -> None:
    clamped: set[tuple[int, bytes, float, bytes]] = set()
    replaced = False
    for one in interventions:
        if isinstance(one, ClampFeature):
            if one.feature in clamped:
                raise SteerError(f"two clamps of the same feature at layer {one.layer}; keep one of them")
            clamped.add(one.feature)
        elif isinstance(one, SystemPrompt) and one.placement == "replace":
            if replaced:
                raise SteerError("two SystemPrompts replace the system message; keep one, or place the other after it")
            replaced = True


@dataclass(frozen=True)
class Steering:
    """Everything that is done to a model in one experiment; empty is the control.

    `provenance` (behavior, method, draw, labels, ...) travels along but is not content: it enters neither equality
    nor the fingerprint. It holds only what JSON can.
    """

    interventions: tuple[Intervention, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    format: ClassVar[str] = "steer-tasks steering 1"

    def __post_init__(self) -> None:
        object.__setattr__(self, "interventions", tuple(self.interventions))
        object.__setattr__(self, "provenance", dict(self.provenance))
        for one in self.interventions:
            if type(one).__name__ not in KINDS:
                raise SteerError(f"{type(one).__name__} is not an intervention; there are {', '.join(KINDS)}")
        _check_together(self.interventions)

    def __bool__(self) -> bool:
        return bool(self.interventions)

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over the canonical content (format, then interventions in order)."""
        canonical = json.dumps([self.format, [content(one) for one in self.interventions]], sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def __add__(self, other: "Steering") -> "Steering":
        """Both, in order. Raises SteerError for two clamps of one feature and for two replacing system prompts."""
        if not isinstance(other, Steering):
            return NotImplemented
        parts = [dict(one.provenance) for one in (self, other) if one.provenance]
        return Steering(self.interventions + other.interventions, {"sum_of": parts} if parts else {})

    def scaled(self, factor: float) -> "Steering":
        """Every intervention times `factor`; `scaled(0)` runs as the control.

        Raises SteerError for kinds without a scale, and for a factor that is not a finite number.
        """
        if not math.isfinite(factor):
            raise SteerError(f"a steering can't be scaled by {factor}; use a finite factor")
        scaled = tuple(_scaled(one, float(factor)) for one in self.interventions)
        return Steering(scaled, {**self.provenance, "scaled_by": float(factor)})

    def described(self, **provenance: Any) -> "Steering":
        """The same content with entries added to its provenance."""
        return Steering(self.interventions, {**self.provenance, **provenance})

    @property
    def system_prompts(self) -> tuple[SystemPrompt, ...]:
        """The interventions that act on messages."""
        return tuple(one for one in self.interventions if isinstance(one, SystemPrompt))

    @property
    def on_residuals(self) -> tuple[AddVector | ClampFeature | AblateDirection, ...]:
        """The interventions that act on the residual stream."""
        return tuple(one for one in self.interventions if not isinstance(one, SystemPrompt))

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose output is changed, ascending."""
        return tuple(sorted({one.layer for one in self.on_residuals}))


CONTROL = Steering()
"""The empty steering."""
