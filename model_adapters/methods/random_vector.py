"""The placebo: random vectors as large as what they stand in for."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from model_adapters.backend import ReadsActivations
from model_adapters.behavior import Behavior
from model_adapters.errors import Refused
from model_adapters.method import Context, SteeringFile, capable
from model_adapters.steering import AddVector, Positions, Steering, Vector


@dataclass(frozen=True)
class RandomVector:
    """A random direction, uniform on the sphere; the draw seeds it.

    `match` takes layers, norms and positions from another steering, whose AddVectors are replaced one by one; without
    it `layer` (None is the middle), `positions` and `dose` say where and how much. Draws are independent.
    """

    name: ClassVar[str] = "random_vector"
    needs_behavior: ClassVar[bool] = False

    match: SteeringFile | None = None
    layer: int | None = None
    dose: float | None = None
    positions: Positions = "response"

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """One AddVector per matched one. Refused where the matched steering adds no vector."""
        if self.match is None:
            reader = capable(context.backend, ReadsActivations, self.name)
            layer = (reader.n_layers - 1) // 2 if self.layer is None else self.layer
            return Steering((AddVector(layer, unit_vector(reader.d_model, context.draw, 0), 1.0, self.positions),))
        matched = [one for one in context.steerings["match"].interventions if isinstance(one, AddVector)]
        if not matched:
            raise Refused(f"random_vector: {self.match} adds no vector, so there is no norm to match")
        return Steering(
            tuple(
                AddVector(
                    one.layer,
                    unit_vector(one.vector.size, context.draw, index) * _norm(one),
                    1.0,
                    one.positions,
                )
                for index, one in enumerate(matched)
            )
        )


def _norm(one: AddVector) -> float:
    return float(np.linalg.norm(one.vector.astype(np.float64) * one.coefficient))


def unit_vector(d_model: int, draw: int, index: int) -> Vector:
    """A direction uniform on the sphere, `(d_model,)`, float32: normal numbers over their norm, seeded by both."""
    numbers = np.random.default_rng(np.random.SeedSequence([draw, index])).standard_normal(d_model)
    unit: Vector = (numbers / np.linalg.norm(numbers)).astype(np.float32)
    return unit
