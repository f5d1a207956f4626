"""What a calibration is asked to do, checked before a model is opened. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from model_adapters.behavior import Behavior
from model_adapters.errors import Refused, SteerError
from steer_tasks.calibrate.limits import LEVEL, least_budget
from steer_tasks.calibrate.material import Half, Material, load_material
from steer_tasks.calibrate.outcomes import LOSSES, Outcome, check_judged
from steer_tasks.calibrate.sized import RANGES, Method
from steer_tasks.calibrate.trace import Point
from steer_tasks.protocol import Protocol
from steer_tasks.protocols import load_protocol
from steer_tasks.study import rubrics_of

PAIRS = 4
"""Contrasts that `llr` needs at least: two in each half."""


@dataclass(frozen=True)
class Plan:
    """One calibration. `layers` holds None alone where the method chooses its own."""

    method: Method
    behavior: Behavior
    objective: Outcome
    budgets: Mapping[str, float]
    judge: str | None
    layers: tuple[int | None, ...]
    range: tuple[float, float]
    draw: int
    material: Material
    protocol: Protocol

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """The objective and the losses with budgets, KL apart, as it is measured by itself."""
        lost = [LOSSES[name] for name in self.budgets if LOSSES[name].source != "distributions"]
        return (self.objective, *lost)


def make_plan(
    method: Method,
    behavior: Behavior,
    objective: Outcome,
    budgets: Mapping[str, float],
    *,
    judge: str | None = None,
    layers: Sequence[int] = (),
    sizes: tuple[float, float] | None = None,
    draw: int = 0,
    seed: int = 0,
    questions: int | None = None,
    max_tokens: int | None = None,
) -> Plan:
    """The plan, its questions loaded. Raises SteerError for everything that can be known without a model."""
    check_judged(objective, budgets, judge)
    check_layers(method, layers)
    places: tuple[int | None, ...] = tuple(layers) or (None,)
    for layer in places:
        method.built(layer)
    if objective.name == "llr" and len(behavior.contrasts) < PAIRS:
        raise SteerError(
            f"--objective llr: behavior {behavior.slug} has {len(behavior.contrasts)} contrasts, at least {PAIRS} are "
            "needed; write them into a behavior file, or take --objective behavior with a judge"
        )
    if judge is not None and objective.name == "behavior":
        rubrics_of(None).behavior.check(behavior)
    protocol = load_protocol("isolated")
    if max_tokens is not None:
        protocol = replace(protocol, sampling=replace(protocol.sampling, max_tokens=max_tokens))
    material = load_material(behavior, seed=seed, questions=questions)
    check_certifiable(budgets, material.confirming)
    return Plan(
        method=method,
        behavior=behavior,
        objective=objective,
        budgets=dict(budgets),
        judge=judge,
        layers=places,
        range=sizes or RANGES[method.size],
        draw=draw,
        material=material,
        protocol=protocol,
    )


def check_layers(method: Method, layers: Sequence[int]) -> None:
    """Raise SteerError for layers of a method that has none to choose, and for a layer that is given twice."""
    if not layers:
        return
    if not method.has_layer:
        raise SteerError(f"--layers: method {method.name} has no layer to choose; leave --layers out")
    if method.parameters.get("layer") is not None:
        raise SteerError("--layers and -p layer are both given; give one")
    if len(set(layers)) < len(layers):
        raise SteerError(f"--layers {','.join(map(str, layers))}: a layer is given twice")


def check_certifiable(budgets: Mapping[str, float], half: Half) -> None:
    """Raise Refused for a budget that a half's items can't certify even if not one of its scores changes: the best that
    a pilot could show."""
    for name, budget in budgets.items():
        loss = LOSSES[name]
        if loss.step is None:
            continue
        items = len(half.questions) + (len(half.prompts) if name in ("coherence", "repeated") else 0)
        least = least_budget(loss.step, items)
        if budget < least:
            raise Refused(
                f"--budget {name}:{budget:g}: {items} items of the confirming half can't certify less than "
                f"{at_least(least)} {loss.unit} (one-sided, {LEVEL:.0%}, 80% power), even if not one "
                "score changes; give at least that, or ask more questions"
            )


def check_detectable(pilot: Point, size: str) -> None:
    """Raise Refused for a budget below what the pilot's variance lets this design certify.

    The pilot is the first trial, at the least size. Larger ones vary more, so no trial is certified for less. A loss
    that is surely over its budget is left to the search, which says so; so is a pilot that was given up, which saw only
    some of the items.
    """
    if pilot.stopped is not None:
        return
    for name, budget in pilot.budgets.items():
        found, loss = pilot.losses[name], LOSSES[name]
        if found.detectable is None or found.lower is None or found.lower > budget:
            continue
        if budget < found.detectable:
            raise Refused(
                f"--budget {name}:{budget:g}: the least loss that {found.items} items can certify is "
                f"{at_least(found.detectable)} {loss.unit}, by how their scores vary at {size} {pilot.size:g} (the "
                "pilot; one-sided 95% limits, 80% power); give at least that, ask more questions, or begin at a "
                "smaller size with --doses"
            )


def at_least(number: float) -> str:
    """A number above 0 in three digits, rounded up, so that who gives it back gives enough."""
    unit = 10.0 ** (math.floor(math.log10(number)) - 2)
    return f"{math.ceil(number / unit) * unit:.3g}"
