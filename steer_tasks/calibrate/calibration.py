"""A calibration from plan to verdict: select on one half, confirm on the other. No torch; scipy through the search."""

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from model_adapters.backend import GivesDistributions
from model_adapters.features import Dictionary
from model_adapters.steering import Steering
from steer_tasks.analysis.detectable import POWER
from steer_tasks.calibrate.cost import Counted
from steer_tasks.calibrate.divergence import check_distributions, control_answers
from steer_tasks.calibrate.judging import Judging
from steer_tasks.calibrate.limits import LEVEL
from steer_tasks.calibrate.material import Half
from steer_tasks.calibrate.measurement import Measuring
from steer_tasks.calibrate.plan import Plan, check_detectable
from steer_tasks.calibrate.search import Search
from steer_tasks.calibrate.sized import Place, Sized, sized
from steer_tasks.calibrate.trace import Point, Trace, Verdict
from steer_tasks.calibrate.trials import Trials

CONFIRMED = 3
"""Most sizes that the confirming half is asked about."""

APART = 2 / 3
"""Largest ratio of one of them to the next."""

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]
"""Runs a coroutine in the one event loop of a calibration."""

Tell = Callable[[str, Point], None]
"""Is told each trial as it ends: on which half, and what came out."""


@dataclass
class Calibration:
    """One run of a plan on a model. `run` waits for coroutines, so that the search stays plain code."""

    plan: Plan
    model: Counted
    run: Run[Any]
    judging: Judging | None = None
    dictionary: Dictionary | None = None
    tell: Tell = lambda half, point: None
    points: list[Point] = field(default_factory=list)
    _sized: dict[int | None, Sized] = field(default_factory=dict)

    def calibrated(self) -> tuple[Trace, Steering | None]:
        """The trace, and the steering where it is confirmed. Raises Refused where the design can't answer."""
        measuring = Measuring(
            self.model, self.plan.protocol, self.plan.outcomes, self.plan.protocol.sampling, self.judging
        )
        measuring.check()
        if "kl" in self.plan.budgets:
            check_distributions(self.model.source)
        for layer in self.plan.layers:
            self.prepared(layer)
        spoken = self.run(control_answers(self.model)) if isinstance(self.model.source, GivesDistributions) else ()
        trials = Trials(measuring, self.plan.material, self.plan.objective, self.plan.budgets, spoken)
        best = self._selected(trials)
        if best is None:
            return self._trace("nothing within budget", None, ()), None
        confirmations = self._confirmed(trials, *best)
        selected = next(place for place, one in enumerate(self.points) if (one.layer, one.size) == best)
        trace = self._trace(verdict_of(confirmations), selected, confirmations)
        if trace.chosen is None:
            return trace, None
        return trace, self.prepared(best[0]).at(trace.chosen).described(calibration=trace.as_dict())

    def prepared(self, layer: int | None) -> Sized:
        """What the method finds at a layer; searched for once."""
        if layer not in self._sized:
            place = Place(layer, self.plan.draw, self.dictionary)
            found = self.run(sized(self.plan.method, self.plan.behavior, self.model.source, place))
            found.check(self.plan.range[1])
            self._sized[layer] = found
        return self._sized[layer]

    def _selected(self, trials: Trials) -> tuple[int | None, float] | None:
        """The best layer and size of the selecting half; the first trial is the pilot."""

        def trial(layer: int | None, size: float) -> Point:
            point = self._tried(trials, layer, size, self.plan.material.selecting)
            self.points.append(point)
            if len(self.points) == 1:
                check_detectable(point, self.plan.method.size)
            return point

        return Search(trial).run(self.plan.layers, *self.plan.range)

    def _confirmed(self, trials: Trials, layer: int | None, size: float) -> tuple[Point, ...]:
        """Trials on the confirming half from small to large, ending with `size` or the first over a budget."""
        found: list[Point] = []
        for one in to_confirm(self.points, layer, size):
            found.append(self._tried(trials, layer, one, self.plan.material.confirming))
            if found[-1].over:
                break
        return tuple(found)

    def _tried(self, trials: Trials, layer: int | None, size: float, half: Half) -> Point:
        selects = half is self.plan.material.selecting
        point: Point = self.run(trials.trial(self.prepared(layer), layer, size, half, stops=selects))
        self.tell("selecting" if selects else "confirming", point)
        return point

    def _trace(self, verdict: Verdict, selected: int | None, confirmations: tuple[Point, ...]) -> Trace:
        plan, judging = self.plan, self.judging
        return Trace(
            verdict=verdict,
            method=plan.method.name,
            parameters=dict(plan.method.parameters),
            behavior=plan.behavior.slug,
            draw=plan.draw,
            size=plan.method.size,
            range=plan.range,
            objective=plan.objective.name,
            budgets=dict(plan.budgets),
            level=LEVEL,
            power=POWER,
            seed=plan.material.seed,
            questions=dict(plan.material.questions),
            selecting=plan.material.selecting.ids(),
            confirming=plan.material.confirming.ids(),
            model=self.model.source.identity.as_dict(),
            protocol=plan.protocol.provenance(),
            max_tokens=plan.protocol.sampling.max_tokens,
            judge=plan.judge,
            rubrics=judging.rubrics.provenance() if judging else {},
            missing_verdicts=dict(judging.missing) if judging else {},
            points=tuple(self.points),
            selected=selected,
            confirmations=confirmations,
            chosen=kept(confirmations)[-1].size if verdict == "confirmed" else None,
            cost=self.model.cost,
            versions={name: _version(name) for name in ("steer-tasks", "torch", "transformers", "numpy", "scipy")},
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def to_confirm(points: Sequence[Point], layer: int | None, size: float) -> list[float]:
    """The sizes that are tried on the confirming half, ascending: the selected one, and up to two before it that are
    each at most two thirds of the next, as a foothold where it fails.

    This order is fixed before that half is asked anything, and the first failure ends it. So each size is tested at the
    full level, without a correction for their number (a fixed-sequence test; Maurer, Hothorn and Lehmacher 1995).
    """
    found = [size]
    for one in sorted((point.size for point in points if point.layer == layer and not point.excess > 0), reverse=True):
        if len(found) < CONFIRMED and one <= found[0] * APART:
            found.insert(0, one)
    return found


def kept(confirmations: Sequence[Point]) -> list[Point]:
    """Those before the first that is over a budget."""
    return [one for one in confirmations if not one.over]


def verdict_of(confirmations: Sequence[Point]) -> Verdict:
    """Of the largest size that the confirming half keeps within the budgets.

    Every budget must be kept, each by its own test at the level, so that a wrong "confirmed" is no likelier than one
    of them (an intersection-union test; Berger, Technometrics 24 (1982), 295). The gain's lower limit is above zero.
    """
    if not (within := kept(confirmations)):
        return "over budget"
    gain = within[-1].gain
    return "confirmed" if gain is not None and gain.lower is not None and gain.lower > 0 else "no gain"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
