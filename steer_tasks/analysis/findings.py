"""What the records of one model show, as plain data. Statistics fill it, figures and reports read it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Target = Literal["fixed", "random"]
"""What is inferred about: these named behaviors, or behaviors like these."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval. `low` and `high` are None where clusters are too few for one."""

    value: float
    low: float | None
    high: float | None
    level: float
    """Nominal coverage, 0.95."""
    stderr: float | None
    df: float | None
    method: str
    """How it was made, as a reader can look it up: `clustered by question, t`."""
    clusters: Mapping[str, int] = field(default_factory=dict)
    """How many clusters of each kind it rests on."""


@dataclass(frozen=True)
class Mean:
    """One arm's own level of one outcome."""

    arm: str
    outcome: str
    estimate: Estimate | None
    scored: int
    missing: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Missing scores by reason; the counts add to `missing`."""


@dataclass(frozen=True)
class Effect:
    """An arm minus the control on one outcome, paired by behavior and question."""

    arm: str
    outcome: str
    behavior: str | None
    """One behavior's effect, or None for all of them together."""
    target: Target
    pairs: int
    unpaired: int
    """Scored answers of the arm whose control is missing, or the other way round."""
    estimate: Estimate
    p: float | None
    p_adjusted: float | None
    """Holm within the declared family."""
    test: str
    """Name of the test `p` is of: `exact McNemar`, `sign flips of whole questions`."""
    detectable: float | None
    """Smallest true effect that this design finds with 80% power at its level, in the outcome's unit."""
    wrong_way: Estimate | None
    """Share of pairs that moved against the wanted direction."""
    wrong_way_control: Estimate | None
    """The same share between repeats of the control, where there are repeats."""
    bounds: tuple[float, float] | None
    """The effect if every missing score were at the worst, and at the best, end of its scale."""


@dataclass(frozen=True)
class SignalChange:
    """An arm minus the control on one judge-free signal, paired by behavior and question; no test is made of it."""

    arm: str
    name: str
    estimate: Estimate


@dataclass(frozen=True)
class Equivalence:
    """Whether an arm's loss of one outcome lies within a budget: one-sided, at `level`."""

    arm: str
    outcome: str
    budget: float
    loss: float
    upper: float | None
    """Upper confidence limit of the loss."""
    verdict: Literal["within", "beyond", "undecided", "not decidable"]
    """`not decidable`: the budget is below what this design can certify (`detectable`)."""
    detectable: float | None


@dataclass(frozen=True)
class DrawVariation:
    """How far an arm's effect depends on the draw of its steering."""

    arm: str
    outcome: str
    draws: int
    by_draw: Mapping[int, float]
    """Mean effect of each draw over its pairs."""
    sd_between: float | None
    """Standard deviation of true effects between draws of one behavior, sampling noise taken off; None for one draw."""


@dataclass(frozen=True)
class Excess:
    """An arm's effect beyond that of the placebo arms of its kind, over the placebos' draws."""

    arm: str
    placebos: tuple[str, ...]
    outcome: str
    estimate: Estimate
    p: float | None


@dataclass(frozen=True)
class Leak:
    """An arm whose messages carry another arm's prompt."""

    arm: str
    other: str
    answers: int
    of: int
    """How many of the arm's answers have known messages."""
    prompt: str
    """With `{behavior}` where the behavior's text stands."""
    asked: bool = False
    """Whether the arm's protocol asks for it, as `as_run` does to repeat the study's own leak."""


@dataclass(frozen=True)
class Unpaired:
    """Answers that can't be compared with the control, and why."""

    arm: str
    behavior: str | None
    count: int
    reason: str
    examples: tuple[str, ...]
    """Some of their questions."""


@dataclass(frozen=True)
class Findings:
    """Everything that is concluded about one model's arms."""

    model: str
    control: str
    arms: tuple[str, ...]
    """Control first, then in order of appearance."""
    behaviors: tuple[str, ...]
    questions: int
    target: Target
    means: tuple[Mean, ...]
    effects: tuple[Effect, ...]
    """For `target`: pooled ones first, then by behavior."""
    other_target: tuple[Effect, ...]
    """Pooled effects under the other target, where its conclusion differs."""
    equivalence: tuple[Equivalence, ...]
    draws: tuple[DrawVariation, ...]
    excess: tuple[Excess, ...]
    leaks: tuple[Leak, ...]
    unpaired: tuple[Unpaired, ...]
    remarks: tuple[str, ...]
    """What limits the conclusions, one sentence each."""
    signals: tuple[SignalChange, ...] = ()
