"""When an intervention acts: comparisons of what directions and features read from the residual. numpy only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Union

from model_adapters.errors import SteerError
from model_adapters.values import ByContent, Operator, Vector, finite, whole


@dataclass(frozen=True, eq=False)
class Reading(ByContent):
    """What one direction reads at a token: `encoder · h + bias` of the output h of block `layer` (0-based).

    `rectified` takes the positive part, as a feature's activation is. h is read before any intervention at that layer.
    `encoder` is `(d_model,)`, float32; a dictionary's input bias is folded into `bias`.
    """

    layer: int
    encoder: Vector
    bias: float = 0.0
    rectified: bool = True


@dataclass(frozen=True, eq=False)
class Compare(ByContent):
    """A reading against a number, in the reading's own units, or against another reading."""

    left: Reading
    operator: Operator
    right: float | Reading

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.left, Reading):
            raise SteerError(f"Compare.left is {self.left!r}; it is a Reading")
        if not isinstance(self.right, Reading):
            object.__setattr__(self, "right", finite("Compare", "right", self.right))


@dataclass(frozen=True, eq=False)
class FeatureCompare(ByContent):
    """The same by a dictionary's indices: any feature on the left against a number, or any feature on the right.

    A number is in units of value: times `factor` it is in the dictionary's own. `dictionary` is the digest of the
    dictionary that the indices count in. What is None is as the service, or the dictionary at hand, has it.
    """

    left: tuple[int, ...]
    operator: Operator
    right: float | tuple[int, ...]
    dictionary: str | None = None
    layer: int | None = None
    factor: float | None = None

    optional: ClassVar[frozenset[str]] = frozenset({"dictionary", "layer", "factor"})

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "left", _indices("left", self.left))
        several = isinstance(self.right, (tuple, list))
        right = _indices("right", self.right) if several else finite("FeatureCompare", "right", self.right)
        object.__setattr__(self, "right", right)


def _indices(side: str, given: Any) -> tuple[int, ...]:
    if not isinstance(given, (tuple, list)) or not given:
        raise SteerError(f"FeatureCompare.{side} is {given!r}; give a tuple of at least one index")
    return tuple(whole("FeatureCompare", "index", one) for one in given)


@dataclass(frozen=True, eq=False)
class AllOf(ByContent):
    """Met where every one is."""

    conditions: "tuple[Condition, ...]"

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", _members(self))


@dataclass(frozen=True, eq=False)
class AnyOf(ByContent):
    """Met where at least one is."""

    conditions: "tuple[Condition, ...]"

    def __post_init__(self) -> None:
        object.__setattr__(self, "conditions", _members(self))


Condition = Union[Compare, FeatureCompare, AllOf, AnyOf]  # noqa: UP007 (forward references above)
CONDITIONS = (Compare, FeatureCompare, AllOf, AnyOf)
"""Every kind of Condition."""


def _members(group: AllOf | AnyOf) -> tuple[Condition, ...]:
    kind, given = type(group).__name__, group.conditions
    if not isinstance(given, (tuple, list)) or not given:
        raise SteerError(f"{kind} holds no conditions; give at least one")
    for one in given:
        if not isinstance(one, CONDITIONS):
            raise SteerError(f"{kind} holds {one!r}, which is not a condition")
    return tuple(given)


def leaves(condition: Condition) -> Iterator[Compare | FeatureCompare]:
    """The comparisons that a condition is made of."""
    if isinstance(condition, (AllOf, AnyOf)):
        for one in condition.conditions:
            yield from leaves(one)
    else:
        yield condition


def readings(condition: Condition) -> Iterator[Reading]:
    """Everything that is read to decide it; a FeatureCompare names nothing to read before it is resolved."""
    for leaf in leaves(condition):
        if isinstance(leaf, Compare):
            yield leaf.left
            if isinstance(leaf.right, Reading):
                yield leaf.right
