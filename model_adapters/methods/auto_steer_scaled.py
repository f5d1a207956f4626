"""Auto Steer with all its values set to one magnitude."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from model_adapters.behavior import Behavior
from model_adapters.errors import SteerError
from model_adapters.method import Context
from model_adapters.methods.auto_steer import AutoSteer
from model_adapters.steering import EditFeatures, Steering


@dataclass(frozen=True)
class AutoSteerScaled:
    """The features that `auto_steer` finds, every value set to `magnitude` with its sign kept.

    It shares that method's preparation, so a sweep of magnitudes edits the same features.
    """

    name: ClassVar[str] = "auto_steer_scaled"

    magnitude: float
    pairs: int = AutoSteer.pairs
    pool: int = AutoSteer.pool
    most: int = AutoSteer.most
    total: float = AutoSteer.total
    everywhere: float = AutoSteer.everywhere
    effect: bool = AutoSteer.effect

    def __post_init__(self) -> None:
        if not self.magnitude > 0:
            raise SteerError(f"auto_steer_scaled.magnitude is {self.magnitude}; it is above 0, the signs are kept")

    @property
    def search(self) -> AutoSteer:
        """The method whose search and preparation this one uses."""
        return AutoSteer(self.pairs, self.pool, self.most, self.total, self.everywhere, self.effect)

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """What the search finds, at the magnitude."""
        return self.sized(await self.search.prepare(behavior, context))

    def sized(self, found: Steering) -> Steering:
        """The found edits at the magnitude."""
        return Steering(tuple(map(self._sized, found.interventions)), {**found.provenance, "magnitude": self.magnitude})

    def _sized(self, one: object) -> EditFeatures:
        assert isinstance(one, EditFeatures)
        edits = (replace(edit, value=math.copysign(self.magnitude, edit.value)) for edit in one.edits if edit.value)
        return replace(one, edits=tuple(edits))
