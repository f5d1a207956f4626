"""What is done to a model: the closed set of interventions. Standard library and numpy only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Union, get_args

import numpy as np

from model_adapters.conditions import CONDITIONS, Condition, FeatureCompare, leaves, readings
from model_adapters.errors import SteerError
from model_adapters.values import ByContent, Mode, Moment, Placement, Positions, Vector


@dataclass(frozen=True, eq=False)
class SystemPrompt(ByContent):
    """A text put into the system message; `after` what is there (a blank line between) unless placed otherwise."""

    text: str
    placement: Placement = "after"


@dataclass(frozen=True, eq=False)
class AddVector(ByContent):
    """Adds `coefficient * vector` to the output of block `layer` (0-based) at the chosen positions.

    `vector` is `(d_model,)`, float32; the product is taken in float32 and cast to the residual's dtype once.
    """

    layer: int
    vector: Vector
    coefficient: float = 1.0
    positions: Positions = "response"


@dataclass(frozen=True, eq=False)
class ClampFeature(ByContent):
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
class AblateDirection(ByContent):
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


@dataclass(frozen=True, eq=False)
class FeatureEdit(ByContent):
    """One feature of a dictionary, by index: `nudge` adds `value` to its strength, `pin` sets it.

    `value` is in units of the hosted service: times the dictionary's factor it is in the dictionary's own.
    """

    index: int
    value: float
    mode: Mode = "nudge"


@dataclass(frozen=True, eq=False)
class EditFeatures(ByContent):
    """Edits of a dictionary's features, by index; a service applies them, or `features.resolve` makes vectors of them.

    `dictionary` is the digest of the dictionary that the indices count in. What is None is as the service, or the
    dictionary at hand, has it: `layer`, `factor` (dictionary units per unit of value), `positions`.
    """

    edits: tuple[FeatureEdit, ...]
    dictionary: str | None = None
    layer: int | None = None
    factor: float | None = None
    positions: Positions | None = None

    optional: ClassVar[frozenset[str]] = frozenset({"dictionary", "layer", "factor", "positions"})

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = isinstance(self.edits, (tuple, list)) and len(self.edits) > 0
        if not (listed and all(isinstance(one, FeatureEdit) for one in self.edits)):
            raise SteerError("EditFeatures.edits must hold at least one FeatureEdit; the empty steering is the control")
        indices = [one.index for one in self.edits]
        if len(set(indices)) < len(indices):
            raise SteerError(f"EditFeatures edits a feature twice ({sorted(indices)}); merge the edits of each index")
        object.__setattr__(self, "edits", tuple(sorted(self.edits, key=lambda one: one.index)))


@dataclass(frozen=True, eq=False)
class When(ByContent):
    """Interventions that act only where a condition is met.

    `moment` `token`: at each token that meets it. `prompt`: from the first prompt token that met it on, to the end of
    the text. The first position of a text never meets a condition: its residual is unlike the others'. A condition
    that reads a layer above the one it guards acts from the next token. With an `event`, generation stops at the
    first token of the response that meets the condition, and the completion names the event; the name itself is not
    content, as services draw a fresh one for each request.
    """

    condition: Condition
    interventions: "tuple[Guarded, ...]"
    moment: Moment = "token"
    event: str | None = None

    optional: ClassVar[frozenset[str]] = frozenset({"event"})
    unhashed: ClassVar[frozenset[str]] = frozenset({"event"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.condition, CONDITIONS):
            raise SteerError(f"When.condition is {self.condition!r}, which is not a condition")
        if not isinstance(self.interventions, (tuple, list)):
            raise SteerError(f"When.interventions is {self.interventions!r}; it is a tuple of interventions")
        object.__setattr__(self, "interventions", tuple(self.interventions))
        for one in self.interventions:
            if not isinstance(one, get_args(Guarded)):
                raise SteerError(f"When can't guard {type(one).__name__}; it guards what acts on the residual")
        if not self.interventions and self.event is None:
            raise SteerError("When holds neither interventions nor an event; leave it out")


Guarded = Union[AddVector, ClampFeature, AblateDirection, EditFeatures, When]  # noqa: UP007 (get_args above)
Intervention = Union[SystemPrompt, Guarded]  # noqa: UP007 (get_args below)
Act = AddVector | ClampFeature | AblateDirection
"""What a backend with its own forward passes can do to the residual."""

KINDS: Mapping[str, type] = {kind.__name__: kind for kind in get_args(Intervention)}
"""Every kind of intervention, by its name."""


def is_idle(intervention: Intervention) -> bool:
    """Whether an intervention changes nothing by its own numbers, so that leaving it out is the same bit for bit."""
    match intervention:
        case AddVector():
            return intervention.coefficient == 0.0 or not intervention.vector.any()
        case AblateDirection():
            return intervention.fraction == 0.0
        case EditFeatures():
            return all(one.mode == "nudge" and one.value == 0.0 for one in intervention.edits)
        case When():
            return intervention.event is None and all(is_idle(one) for one in intervention.interventions)
        case _:
            return False


def scaled(intervention: Any, factor: float) -> Any:
    """The same kind of intervention times `factor`. Raises SteerError for what has no scale."""
    kind = type(intervention).__name__
    match intervention:
        case AddVector():
            return replace(intervention, coefficient=intervention.coefficient * factor)
        case AblateDirection():
            if not 0.0 <= factor <= 1.0:
                raise SteerError(f"AblateDirection can't be scaled by {factor}; use a factor in [0, 1]")
            return replace(intervention, fraction=intervention.fraction * factor)
        case EditFeatures() if all(one.mode == "nudge" for one in intervention.edits):
            edits = tuple(replace(one, value=one.value * factor) for one in intervention.edits)
            return replace(intervention, edits=edits)
        case EditFeatures():
            raise SteerError("a pin can't be scaled, only nudges can; give the pinned value itself")
        case When() if intervention.event is None:
            return replace(intervention, interventions=tuple(scaled(one, factor) for one in intervention.interventions))
        case _:
            raise SteerError(f"{kind} can't be scaled, only vectors, ablations and nudges can; leave the {kind} out")


def acts(intervention: Intervention, guards: tuple[When, ...] = ()) -> "list[tuple[Act, tuple[When, ...]]]":
    """What is done to the residual, each with the conditions around it, outermost first."""
    match intervention:
        case When():
            inside = (*guards, intervention)
            return [pair for one in intervention.interventions for pair in acts(one, inside)]
        case AddVector() | ClampFeature() | AblateDirection():
            return [(intervention, guards)]
        case _:
            return []


def whens(intervention: Intervention, guards: tuple[When, ...] = ()) -> "list[tuple[When, ...]]":
    """Every `When` inside, each behind those around it, outermost first."""
    if not isinstance(intervention, When):
        return []
    inside = (*guards, intervention)
    return [inside, *(found for one in intervention.interventions for found in whens(one, inside))]


def needs_dictionary(intervention: Intervention) -> bool:
    """Whether it names features by index, so that a dictionary must resolve it before a model can run it."""
    match intervention:
        case EditFeatures():
            return True
        case When():
            by_index = any(isinstance(leaf, FeatureCompare) for leaf in leaves(intervention.condition))
            return by_index or any(needs_dictionary(one) for one in intervention.interventions)
        case _:
            return False


def sites(intervention: Intervention) -> list[tuple[str, int, Vector]]:
    """Every vector that meets the residual: (`kind.field`, layer, vector). What a model must have room for."""
    found = []
    for one, _ in acts(intervention):
        kind = type(one).__name__
        for name in ("vector", "encoder", "decoder", "direction"):
            if hasattr(one, name):
                found.append((f"{kind}.{name}", one.layer, getattr(one, name)))
    for path in whens(intervention):
        found += [("Reading.encoder", one.layer, one.encoder) for one in readings(path[-1].condition)]
    return found
