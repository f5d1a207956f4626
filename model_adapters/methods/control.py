"""The control: nothing is done to the model."""

from dataclasses import dataclass
from typing import ClassVar

from model_adapters.behavior import Behavior
from model_adapters.method import Context
from model_adapters.steering import CONTROL, Steering


@dataclass(frozen=True)
class Control:
    """No steering; what every other arm is compared with."""

    name: ClassVar[str] = "control"
    needs_behavior: ClassVar[bool] = False

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """The empty steering."""
        return CONTROL
