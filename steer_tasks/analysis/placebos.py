"""Which arms are placebos of which: they push as hard, towards nothing or the other way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steer_tasks.analysis.record import Record

PLACEBOS = ("random_vector", "random_features", "neutral_prompt")
"""Methods that steer towards nothing."""

WRONG_SIGN = "wrong sign"

FITTING: Mapping[str, tuple[str, ...]] = {
    "prompt": ("neutral_prompt",),
    "caa": ("random_vector",),
    "auto_steer": ("random_features", "random_vector"),
    "auto_steer_scaled": ("random_features", "random_vector"),
    "features": ("random_features", "random_vector"),
    "feature_search": ("random_features", "random_vector"),
}
"""Placebos by method. Any other method, `combined` among them, is held against all there are."""


@dataclass(frozen=True)
class ArmKind:
    """What tells placebos: method and size of the push; None where records don't say or don't agree."""

    method: str | None
    dose: float | None
    coefficient: float | None

    @property
    def push(self) -> tuple[str, float] | None:
        """The unit and the signed size: the dose, else the coefficient."""
        if self.dose is not None:
            return "dose", self.dose
        return None if self.coefficient is None else ("coefficient", self.coefficient)

    @property
    def turned(self) -> tuple[str, float] | None:
        """The push the other way round; None for no known one, and for one of no size."""
        return (self.push[0], -self.push[1]) if self.push and self.push[1] else None


def arm_kind(records: Sequence[Record]) -> ArmKind:
    """The kind of one arm's records."""
    methods, doses, coefficients = ({getattr(one, name) for one in records} for name in _FIELDS)
    method, dose, coefficient = (one.pop() if len(one) == 1 else None for one in (methods, doses, coefficients))
    return ArmKind(method, dose, coefficient)


def placebos_of(arm: str, kinds: Mapping[str, ArmKind]) -> dict[str, tuple[str, ...]]:
    """The placebo arms that fit `arm`, by kind of placebo: arms of a placebo method, and the arm's own wrong sign.

    A placebo whose push is known and another than the arm's doesn't fit. A placebo has none of its own.
    """
    own = kinds[arm]
    if own.method in PLACEBOS or (own.push is not None and own.push[1] < 0):
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for method in FITTING.get(own.method or "", PLACEBOS):
        pushes = {name: kind.push for name, kind in kinds.items() if kind.method == method}
        fitting = [name for name, push in pushes.items() if own.push is None or push in (None, own.push)]
        if fitting:
            found[method] = tuple(fitting)
    turned = [
        name for name, kind in kinds.items() if own.turned and (kind.method, kind.push) == (own.method, own.turned)
    ]
    return {**found, WRONG_SIGN: tuple(turned)} if turned else found


_FIELDS = ("method", "dose", "coefficient")
