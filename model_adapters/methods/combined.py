"""Two steerings at once."""

from dataclasses import dataclass
from typing import ClassVar

from model_adapters.behavior import Behavior
from model_adapters.method import Context, SteeringFile
from model_adapters.steering import Steering


@dataclass(frozen=True)
class Combined:
    """The sum of two frozen steerings, in order: a prompt and a vector, say."""

    name: ClassVar[str] = "combined"
    needs_behavior: ClassVar[bool] = False

    first: SteeringFile
    second: SteeringFile

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """Both steerings' interventions. Raises SteerError where they can't be added."""
        return context.steerings["first"] + context.steerings["second"]
