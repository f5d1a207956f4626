"""Auto Steer's placebo: random features of the dictionary, pushed as hard."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from model_adapters.behavior import Behavior
from model_adapters.errors import Refused
from model_adapters.method import Context
from model_adapters.methods.auto_steer import AutoSteer
from model_adapters.steering import EditFeatures, FeatureEdit, Steering


@dataclass(frozen=True)
class RandomFeatures:
    """`auto_steer`'s edits with every feature replaced by a random one, values kept; the draw seeds both.

    It shares that method's preparation. An equal value is an equally large push where the decoder's rows have unit
    norm, as in most published dictionaries; the proof measures the dose in any case. None of the found features is
    drawn, where there are enough others, and none twice.
    """

    name: ClassVar[str] = "random_features"

    pairs: int = AutoSteer.pairs
    pool: int = AutoSteer.pool
    most: int = AutoSteer.most
    total: float = AutoSteer.total
    everywhere: float = AutoSteer.everywhere
    effect: bool = AutoSteer.effect

    @property
    def search(self) -> AutoSteer:
        """The method whose search and preparation this one uses."""
        return AutoSteer(self.pairs, self.pool, self.most, self.total, self.everywhere, self.effect)

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """What the search finds, with other features."""
        return self.sized((await self.search.prepare(behavior, context)).described(draw=context.draw))

    def sized(self, found: Steering) -> Steering:
        """The found edits on random features. Raises Refused where the search didn't say how many there are."""
        count = found.provenance.get("n_features")
        if not isinstance(count, int):
            raise Refused(
                "random_features: this search didn't record how many features there are (services don't say); "
                "use a local model with dictionary=…, and redraw=true where the search is an older one"
            )
        generator = np.random.default_rng(np.random.SeedSequence([int(found.provenance.get("draw", 0)), 1]))
        changed = tuple(self._replaced(one, count, generator) for one in found.interventions)
        return Steering(changed, {**found.provenance, "labels": {}})

    def _replaced(self, one: object, count: int, generator: np.random.Generator) -> EditFeatures:
        assert isinstance(one, EditFeatures)
        taken = {edit.index for edit in one.edits}
        others = np.setdiff1d(np.arange(count), sorted(taken))
        among = others if len(others) >= len(one.edits) else np.arange(count)
        indices = generator.choice(among, size=len(one.edits), replace=False)
        edits: tuple[FeatureEdit, ...] = tuple(
            replace(edit, index=int(index)) for edit, index in zip(one.edits, indices, strict=True)
        )
        return replace(one, edits=edits)
