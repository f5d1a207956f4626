"""Trials: a steering at a size against the control, on one half, given up early where a loss is surely too large."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_adapters.errors import NotFinite
from model_adapters.steering import CONTROL, Steering
from steer_tasks.calibrate.divergence import Divergence, Spoken, divergence
from steer_tasks.calibrate.limits import LEVEL, Bounded, bounded, losses
from steer_tasks.calibrate.material import Half, Material, halves
from steer_tasks.calibrate.measurement import Measuring, Scored, batches, merged
from steer_tasks.calibrate.outcomes import LOSSES, Outcome
from steer_tasks.calibrate.sized import Sized
from steer_tasks.calibrate.trace import Point

LOOKS = 3
"""Parts in which a half's questions are asked; after each but the last a hopeless size is given up."""

FEWEST = 8
"""Items below which nothing is given up."""

NOT_FINITE = "not finite"
"""Why a size is given up at which the model's numbers are NaN or infinite."""


@dataclass
class Trials:
    """Measures sizes. `spoken` are the control's answers that KL is read on, empty where there is no KL."""

    measuring: Measuring
    material: Material
    objective: Outcome
    budgets: Mapping[str, float]
    spoken: tuple[Spoken, ...] = ()
    _controls: dict[int, Scored] = field(default_factory=dict)

    async def control(self, half: Half) -> Scored:
        """The control's scores on a half; asked for once."""
        if id(half) not in self._controls:
            self._controls[id(half)] = await self.measuring.measure(CONTROL, half)
        return self._controls[id(half)]

    async def trial(self, sized: Sized, layer: int | None, size: float, half: Half, *, stops: bool = True) -> Point:
        """One size on one half. `stops` gives it up as soon as a loss is surely over its budget.

        Giving up can only reject a size, never let one pass, so it needs no correction for what is certified. So that
        a good size is seldom rejected by looking often, each look's limit is at 1 - (1 - `LEVEL`) / `LOOKS`.
        A size at which the model's numbers overflow has no score, and is over every budget.
        """
        control, steering = await self.control(half), sized.at(size)
        before = self.measuring.model.cost
        moved: Divergence | None = None
        bounds: dict[str, Bounded] = {}
        gain: Bounded | None = None
        try:
            moved = await divergence(self.measuring.model, steering, self.spoken) if self.spoken else None
            scores, asked, stopped = await self._asked(steering, half, moved, stops)
            bounds = self._losses(control, scores, moved, half)
            gain = None if stopped else self._gain(control, scores)
        except NotFinite:
            asked, stopped = 0, NOT_FINITE
        return Point(
            layer=layer,
            size=size,
            fingerprint=steering.fingerprint,
            kl=moved.mean if moved else None,
            gain=gain,
            losses=bounds,
            budgets=dict(self.budgets),
            stopped=stopped,
            asked=asked,
            cost=self.measuring.model.cost.since(before),
        )

    async def _asked(
        self, steering: Steering, half: Half, moved: Divergence | None, stops: bool
    ) -> tuple[Scored, int, str | None]:
        """Scores, number of questions asked, and the loss for which it was given up."""
        level = 1 - (1 - LEVEL) / LOOKS
        scores: Scored = {}
        asked = 0
        control = await self.control(half)
        parts = batches(half, LOOKS if stops else 1)
        for number, part in enumerate(parts, 1):
            scores = merged([scores, await self.measuring.measure(steering, part)])
            asked += len(part.questions)
            if stops and number < len(parts):
                for name, found in self._losses(control, scores, moved, half, level).items():
                    if found.items >= FEWEST and found.lower is not None and found.lower > self.budgets[name]:
                        return scores, asked, name
        return scores, asked, None

    def _losses(
        self, control: Scored, scores: Scored, moved: Divergence | None, half: Half, level: float = LEVEL
    ) -> dict[str, Bounded]:
        """Each loss that has a budget, with its limits at `level`."""
        found = {}
        for name in self.budgets:
            outcome = LOSSES[name]
            if outcome.source == "distributions":
                assert moved is not None
                shares = moved.shares(self._spoken_of(half))
                found[name] = bounded(losses(outcome, dict.fromkeys(shares, 0.0), shares), None, level)
            else:
                found[name] = bounded(losses(outcome, control[name], scores[name]), outcome.step, level)
        return found

    def _gain(self, control: Scored, scores: Scored) -> Bounded:
        name = self.objective.name
        return bounded(losses(self.objective, control[name], scores[name]).reversed(), self.objective.step)

    def _spoken_of(self, half: Half) -> list[str]:
        """The neutral prompts of a half, so that a KL budget is confirmed on others than it was selected on."""
        split = halves(self.spoken, f"{self.material.seed} neutral")
        return [one.id for one in split[0 if half is self.material.selecting else 1]]
