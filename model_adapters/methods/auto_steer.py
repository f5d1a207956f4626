"""Auto Steer: edits of a dictionary's features that a service, or our own search, finds for a behavior."""

from dataclasses import dataclass
from typing import ClassVar

from model_adapters.auto_steer import AutoSteerOptions, find_edits
from model_adapters.backend import SuggestedEdits, SuggestsEdits
from model_adapters.behavior import Behavior
from model_adapters.errors import Refused
from model_adapters.method import Context
from model_adapters.steering import EditFeatures, Steering


@dataclass(frozen=True)
class AutoSteer:
    """At most `most` feature edits for a behavior.

    On an Ember service the service chooses, and the parameters are its own affair. On a local model our own search
    does (`model_adapters.auto_steer`, which says where each number comes from), over `dictionary=`. Every draw is
    another choice; it is prepared once and kept.
    """

    name: ClassVar[str] = "auto_steer"

    pairs: int = AutoSteerOptions.pairs
    pool: int = AutoSteerOptions.pool
    most: int = AutoSteerOptions.most
    total: float = AutoSteerOptions.total
    everywhere: float = AutoSteerOptions.everywhere
    effect: bool = AutoSteerOptions.effect

    def __post_init__(self) -> None:
        _ = self.options

    @property
    def options(self) -> AutoSteerOptions:
        """The terms of the local search."""
        return AutoSteerOptions(self.pairs, self.pool, self.most, self.total, self.everywhere, self.effect)

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """One EditFeatures. Raises Refused where nothing was found, and on a local model without a dictionary."""
        if isinstance(context.backend, SuggestsEdits):
            found = await context.backend.suggest_edits(behavior, context.draw)
        elif context.dictionary is not None:
            found = await find_edits(behavior, context.backend, context.dictionary, self.options, context.draw)
        else:
            raise Refused(
                f"method {self.name} needs a dictionary of features; give dictionary=… (`demo` for the embedded model)"
            )
        return edited(found, behavior)


def edited(found: SuggestedEdits, behavior: Behavior) -> Steering:
    """The steering of suggested edits. Raises Refused for none: that would be the control."""
    if not any(edit.value for edit in found.edits):
        raise Refused(f"no feature was found for {behavior.text!r}; try another draw, or name features with edits=…")
    return Steering((EditFeatures(found.edits, found.dictionary),), dict(found.provenance))
