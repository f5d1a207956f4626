"""The prompt's placebo: a sentence of the same length that asks for nothing."""

from dataclasses import dataclass
from typing import ClassVar

from model_adapters.backend import Backend, Message, ScoresText
from model_adapters.behavior import Behavior
from model_adapters.method import Context
from model_adapters.methods.prompt import SENTENCE
from model_adapters.steering import CONTROL, Placement, Steering, SystemPrompt

OPENING = "In everything you write, go on as usual"
FILLERS = (" here", " today", " now", " once more", " as before", " and again", " with this", " from here on")
"""Words that ask for nothing; they fill up the sentence, in turn, until it is as long as the one it stands in for."""


@dataclass(frozen=True)
class NeutralPrompt:
    """A system prompt that asks for no behavior, as long as `prompt`'s sentence for the behavior.

    Length is in the model's tokens where the backend scores text, else in words; the provenance says which, and both
    lengths. `text` is the sentence it stands in for, with `{behavior}`. What a prompt does by merely being there, a
    steering prompt does too.
    """

    name: ClassVar[str] = "neutral_prompt"

    text: str = SENTENCE
    placement: Placement = "after"

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """One SystemPrompt, of equal length or, where no sentence has it, of the nearest."""
        wanted = await length(context.backend, self.text.replace("{behavior}", behavior.text))
        best, reached = OPENING + ".", await length(context.backend, OPENING + ".")
        text = OPENING
        for number in range(wanted):
            text += FILLERS[number % len(FILLERS)]
            found = await length(context.backend, text + ".")
            if abs(found - wanted) < abs(reached - wanted):
                best, reached = text + ".", found
            if found >= wanted:
                break
        unit = "tokens" if isinstance(context.backend, ScoresText) else "words"
        said = {"length": reached, "length_wanted": wanted, "length_in": unit}
        return Steering((SystemPrompt(best, self.placement),), said)


async def length(backend: Backend, text: str) -> int:
    """How long a text is in the backend's tokens, or in words where it scores none."""
    if not isinstance(backend, ScoresText):
        return len(text.split())
    return len((await backend.score((Message("user", "."),), text, CONTROL)).logprobs)
