"""What a calibration did, as data: what was tried, what was chosen, and whether the other half confirmed it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

from steer_tasks.calibrate.cost import Cost
from steer_tasks.calibrate.limits import Bounded

Verdict = Literal["confirmed", "over budget", "no gain", "nothing within budget"]
"""`over budget` and `no gain` are of the confirming half."""


@dataclass(frozen=True)
class Point:
    """One size at one layer, measured on one half against the control.

    `gain` is of the objective; None where the trial was stopped. `stopped` names the loss that was surely over its
    budget after `asked` questions, or says `not finite` where the model's numbers overflowed and nothing was measured.
    `kl` is over all neutral prompts, in nats per token, None where the backend gives no distributions.
    """

    layer: int | None
    size: float
    fingerprint: str
    kl: float | None
    gain: Bounded | None
    losses: Mapping[str, Bounded]
    budgets: Mapping[str, float]
    stopped: str | None
    asked: int
    cost: Cost

    @property
    def excess(self) -> float:
        """How far the upper limit is over the budget, as a share of it, for the worst loss; at most 0 within all."""
        return max(self._ratio(name) for name in self.budgets)

    def _ratio(self, name: str) -> float:
        upper = self.losses[name].upper if name in self.losses else None
        return float("inf") if upper is None else upper / self.budgets[name] - 1

    @property
    def objective(self) -> float | None:
        """Mean gain; None where the trial was stopped."""
        return None if self.gain is None else self.gain.mean

    @property
    def over(self) -> tuple[str, ...]:
        """The losses whose upper limit isn't within the budget."""
        return tuple(name for name in self.budgets if self._ratio(name) > 0)


@dataclass(frozen=True)
class Trace:
    """The whole of one calibration. Nothing of it is content of the steering, so nothing enters the fingerprint."""

    verdict: Verdict
    method: str
    parameters: Mapping[str, Any]
    behavior: str
    draw: int
    size: str
    """What was searched: `dose`, or a `factor` on what the method finds."""
    range: tuple[float, float]
    objective: str
    budgets: Mapping[str, float]
    level: float
    power: float
    seed: int
    questions: Mapping[str, Any]
    selecting: Mapping[str, list[str]]
    confirming: Mapping[str, list[str]]
    model: Mapping[str, Any]
    protocol: Mapping[str, str]
    max_tokens: int
    judge: str | None
    rubrics: Mapping[str, str]
    missing_verdicts: Mapping[str, int]
    """Verdicts that are missing, by reason, over all of the search."""
    points: tuple[Point, ...]
    """In the order they were tried, on the selecting half."""
    selected: int | None
    """Place in `points` of the best one within the budgets."""
    confirmations: tuple[Point, ...]
    """On the confirming half, from small to large, up to the first that is over a budget."""
    chosen: float | None
    """The confirmed size; None unless the verdict is `confirmed`."""
    cost: Cost
    versions: Mapping[str, str | None]
    date: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = _form().dump_python(self, mode="json")
        return found


@cache
def _form() -> "TypeAdapter[Trace]":
    return TypeAdapter(Trace)


def read_trace(content: Mapping[str, Any]) -> Trace:
    """A trace as `Trace.as_dict` gave it. Raises pydantic's ValidationError for anything else."""
    return _form().validate_python(content)
