"""Simple prompting: one sentence in the system message."""

from dataclasses import dataclass
from typing import ClassVar

from model_adapters.behavior import Behavior
from model_adapters.method import Context
from model_adapters.steering import Placement, Steering, SystemPrompt

SENTENCE = "In everything you write, {behavior}."


@dataclass(frozen=True)
class SimplePrompt:
    """Asks for the behavior in the system message. `text` may hold `{behavior}`, the behavior's own text."""

    name: ClassVar[str] = "prompt"

    text: str = SENTENCE
    placement: Placement = "after"

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """One SystemPrompt."""
        return Steering((SystemPrompt(self.text.replace("{behavior}", behavior.text), self.placement),))
