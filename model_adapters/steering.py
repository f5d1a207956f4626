"""The frozen Steering, its algebra and its fingerprint. Standard library and numpy only.

The interventions it holds are defined in `interventions` and `conditions`, and can be imported from here.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from model_adapters.conditions import AllOf, AnyOf, Compare, Condition, FeatureCompare, Reading
from model_adapters.errors import SteerError
from model_adapters.interventions import (
    KINDS,
    AblateDirection,
    Act,
    AddVector,
    ClampFeature,
    EditFeatures,
    FeatureEdit,
    Intervention,
    SystemPrompt,
    When,
    acts,
    is_idle,
    needs_dictionary,
    scaled,
    sites,
    whens,
)
from model_adapters.values import VECTORS, Placement, Positions, Vector, content

__all__ = [
    "CONTROL",
    "KINDS",
    "VECTORS",
    "AblateDirection",
    "Act",
    "AddVector",
    "AllOf",
    "AnyOf",
    "ClampFeature",
    "Compare",
    "Condition",
    "EditFeatures",
    "FeatureCompare",
    "FeatureEdit",
    "Intervention",
    "Placement",
    "Positions",
    "Reading",
    "Steering",
    "SystemPrompt",
    "Vector",
    "When",
    "content",
    "is_idle",
]


def _check_together(interventions: Iterable[Intervention]) -> None:
    pinned: set[object] = set()
    replaced = False
    for one in interventions:
        for what, where in _pins(one):
            if what in pinned:
                raise SteerError(f"two clamps of the same feature {where}; keep one of them")
            pinned.add(what)
        if isinstance(one, SystemPrompt) and one.placement == "replace":
            if replaced:
                raise SteerError("two SystemPrompts replace the system message; keep one, or place the other after it")
            replaced = True


def _pins(one: Intervention) -> list[tuple[object, str]]:
    """The features that an intervention sets to a value, whatever guards it."""
    match one:
        case ClampFeature():
            return [(one.feature, f"at layer {one.layer}")]
        case EditFeatures():
            pinned = [edit.index for edit in one.edits if edit.mode == "pin"]
            return [((one.dictionary, one.layer, index), f"with index {index}") for index in pinned]
        case When():
            return [pin for inside in one.interventions for pin in _pins(inside)]
        case _:
            return []


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
        product = tuple(scaled(one, float(factor)) for one in self.interventions)
        return Steering(product, {**self.provenance, "scaled_by": float(factor)})

    def described(self, **provenance: Any) -> "Steering":
        """The same content with entries added to its provenance."""
        return Steering(self.interventions, {**self.provenance, **provenance})

    @property
    def system_prompts(self) -> tuple[SystemPrompt, ...]:
        """The interventions that act on messages."""
        return tuple(one for one in self.interventions if isinstance(one, SystemPrompt))

    @property
    def acts(self) -> tuple[tuple[Act, tuple[When, ...]], ...]:
        """What is done to the residual stream, each with the conditions around it, outermost first."""
        return tuple(pair for one in self.interventions for pair in acts(one))

    @property
    def on_residuals(self) -> tuple[Act, ...]:
        """What is done to the residual stream, with conditions or without."""
        return tuple(one for one, _ in self.acts)

    @property
    def events(self) -> tuple[tuple[When, ...], ...]:
        """The interrupts, each behind the conditions around it, outermost first."""
        return tuple(path for one in self.interventions for path in whens(one) if path[-1].event is not None)

    @property
    def sites(self) -> tuple[tuple[str, int, Vector], ...]:
        """Every vector that meets the residual, read or added: (`kind.field`, layer, vector)."""
        return tuple(site for one in self.interventions for site in sites(one))

    @property
    def needs_dictionary(self) -> bool:
        """Whether it names features by index, so that a dictionary must resolve it before a model can run it."""
        return any(needs_dictionary(one) for one in self.interventions)

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks whose output is changed, ascending."""
        return tuple(sorted({one.layer for one in self.on_residuals}))


CONTROL = Steering()
"""The empty steering."""
