"""From the records of one model to its findings. How, and from which sources: docs/statistics.md."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from model_adapters.errors import SteerError
from steer_tasks.analysis.called import Called, call
from steer_tasks.analysis.cells import Numbers, Pairs
from steer_tasks.analysis.clustered import LEVEL
from steer_tasks.analysis.draws import draw_variation
from steer_tasks.analysis.effects import effect, signal_change
from steer_tasks.analysis.equivalence import equivalence
from steer_tasks.analysis.excess import excess
from steer_tasks.analysis.findings import (
    DrawVariation,
    Effect,
    Equivalence,
    Excess,
    Findings,
    Mean,
    SignalChange,
    Target,
)
from steer_tasks.analysis.flips import holm
from steer_tasks.analysis.leaks import leaks
from steer_tasks.analysis.means import mean
from steer_tasks.analysis.outcomes import BUDGETS, SCALES
from steer_tasks.analysis.pairing import Pair, Pairing, paired, value_of
from steer_tasks.analysis.placebos import ArmKind, arm_kind, placebos_of
from steer_tasks.analysis.record import SCORES, Record
from steer_tasks.analysis.remarks import remarks


def conclude(
    records: Sequence[Record],
    *,
    control: str | None = None,
    target: Target = "random",
    budgets: Mapping[str, float] = BUDGETS,
    level: float = LEVEL,
) -> Findings:
    """What the records of one model show.

    - `control`: the arm that the others are compared with; by default the one that steers nothing.
    - `target`: `random`, behaviors like these, as a claim about a way of steering is a claim about behaviors that
      weren't tried; `fixed`, these behaviors under these very steerings. With one behavior it is `fixed`.
    - `budgets`: the loss that is put up with, by outcome, in its unit.
    - `level`: coverage of intervals; tests are at 1 - level.

    Raises SteerError for no records, for an outcome or level that doesn't exist, for a score off its scale, and as
    `paired` does.
    """
    _check(records, target, budgets, level)
    arms = list(dict.fromkeys(one.arm for one in records))
    pairing = paired(records, arms[0] if len(arms) == 1 else control)
    study = _Study(pairing, level)
    chosen: Target = target if len(study.behaviors) > 1 else "fixed"
    other: Target = "fixed" if chosen == "random" else "random"
    pooled, by_behavior = study.pooled(chosen), study.by_behavior()
    others = study.pooled(other) if len(study.behaviors) > 1 else ()
    findings = Findings(
        model=records[0].model,
        control=pairing.control,
        arms=pairing.arms,
        behaviors=study.behaviors,
        questions=len({one.question for one in pairing.records}),
        target=chosen,
        means=study.means(chosen),
        effects=pooled + by_behavior,
        other_target=_disagreeing(pooled, others),
        equivalence=study.equivalence(budgets, chosen),
        draws=study.draws(),
        excess=study.excess(chosen),
        leaks=leaks(pairing.records),
        unpaired=pairing.unpaired,
        remarks=(),
        signals=study.signals(chosen),
    )
    return replace(findings, remarks=(*pairing.remarks, *remarks(findings, pairing.records, target)))


@dataclass(frozen=True)
class _Compared:
    """One arm on one outcome: its pairs as arrays, all and by behavior, and how many answers have no pair."""

    arm: str
    outcome: str
    pairs: Pairs
    lost: Mapping[str | None, int]
    """By behavior; None holds all."""


class _Study:
    """The pairs of every arm and outcome, and what is made of them."""

    def __init__(self, pairing: Pairing, level: float) -> None:
        self._pairing, self._level, self._numbers = pairing, level, Numbers()
        self.behaviors = tuple(dict.fromkeys(one.behavior for one in pairing.records if one.behavior is not None))
        self._records: dict[str, list[Record]] = {arm: [] for arm in pairing.arms}
        for one in pairing.records:
            self._records[one.arm].append(one)
        self._outcomes = [
            outcome
            for outcome in SCORES
            if any(value_of(one, outcome) is not None or outcome in one.missing for one in pairing.records)
        ]
        self._kinds: dict[str, ArmKind] = {arm: arm_kind(held) for arm, held in self._records.items()}
        self._compared = [
            self._compare(arm, outcome, pairs) for arm, pairs in self._pairs().items() for outcome in self._outcomes
        ]

    def _pairs(self) -> dict[str, list[Pair]]:
        held: dict[str, list[Pair]] = {arm: [] for arm in self._pairing.arms[1:]}
        for pair in self._pairing.pairs:
            held[pair.treated.arm].append(pair)
        return held

    def _compare(self, arm: str, outcome: str, pairs: Sequence[Pair]) -> _Compared:
        lost: dict[str | None, int] = {None: 0}
        for one in self._pairing.unpaired:
            if one.arm == arm:
                lost[None] += one.count
                if one.behavior is not None:
                    lost[one.behavior] = lost.get(one.behavior, 0) + one.count
        return _Compared(arm, outcome, self._numbers.pairs(pairs, outcome), lost)

    def means(self, target: Target) -> tuple[Mean, ...]:
        return tuple(
            mean(arm, held, outcome, target, self._level)
            for arm, held in self._records.items()
            for outcome in self._outcomes
        )

    def pooled(self, target: Target) -> tuple[Effect, ...]:
        """Over all behaviors, p adjusted within arms × outcomes."""
        return _adjusted(
            effect(one.arm, one.outcome, None, target, one.pairs, one.lost[None], self._level) for one in self._compared
        )

    def by_behavior(self) -> tuple[Effect, ...]:
        """Of each behavior, p adjusted within arms × outcomes × behaviors."""
        return _adjusted(
            effect(one.arm, one.outcome, behavior, "fixed", one.pairs.at(here), one.lost.get(behavior, 0), self._level)
            for one in self._compared
            for behavior in self.behaviors
            for here in [one.pairs.arm.behavior == self._numbers.behavior(behavior)]
        )

    def equivalence(self, budgets: Mapping[str, float], target: Target) -> tuple[Equivalence, ...]:
        found = [
            equivalence(one.arm, one.outcome, budgets[one.outcome], one.pairs.scored, target, self._level)
            for one in self._compared
            if one.outcome in budgets
        ]
        return tuple(one for one in found if one is not None)

    def signals(self, target: Target) -> tuple[SignalChange, ...]:
        names = dict.fromkeys(name for one in self._pairing.records for name in one.signals)
        found = [
            signal_change(arm, name, self._numbers.pairs(pairs, name).scored, target, self._level)
            for arm, pairs in self._pairs().items()
            for name in names
        ]
        return tuple(one for one in found if one is not None)

    def draws(self) -> tuple[DrawVariation, ...]:
        found = [draw_variation(one.arm, one.outcome, one.pairs.scored) for one in self._compared]
        return tuple(one for one in found if one is not None and one.draws > 1)

    def excess(self, target: Target) -> tuple[Excess, ...]:
        at = {(one.arm, one.outcome): one.pairs for one in self._compared}
        empty = self._numbers.behavior(None)
        found = [
            excess(one.arm, placebos, one.outcome, target, one.pairs, others, self._level, empty)
            for one in self._compared
            for placebos in placebos_of(one.arm, self._kinds).values()
            for others in [[at[name, one.outcome] for name in placebos]]
        ]
        return tuple(one for one in found if one is not None)


def _adjusted(effects: Iterable[Effect | None]) -> tuple[Effect, ...]:
    held = [one for one in effects if one is not None]
    adjusted = holm({place: one.p for place, one in enumerate(held)})
    return tuple(replace(one, p_adjusted=adjusted[place]) for place, one in enumerate(held))


def _disagreeing(chosen: Sequence[Effect], others: Sequence[Effect]) -> tuple[Effect, ...]:
    said = {(one.arm, one.outcome): _conclusion(one) for one in chosen}
    return tuple(one for one in others if _conclusion(one) != said[one.arm, one.outcome])


def _conclusion(one: Effect) -> Called | None:
    return called if (called := call(one)) in ("more", "less") else None


def _check(records: Sequence[Record], target: Target, budgets: Mapping[str, float], level: float) -> None:
    if not records:
        raise SteerError("there are no records to conclude from; give logs that hold answers")
    for one in records:
        for outcome, scale in SCALES.items():
            score = value_of(one, outcome)
            if score is not None and not scale.worst <= score <= scale.best:
                raise SteerError(
                    f"{one.source}: {outcome} of arm {one.arm!r} is {score} for {one.question}; scores go from "
                    f"{scale.worst} to {scale.best}, or are missing"
                )
    if target not in ("fixed", "random"):
        raise SteerError(f"there is no target {target!r}; give fixed or random")
    if not 0.5 < level < 1:
        raise SteerError(f"level {level} isn't between 0.5 and 1; 0.95 is usual")
    for outcome, budget in budgets.items():
        if outcome not in SCALES:
            raise SteerError(f"a budget for {outcome!r}, which isn't scored; outcomes are {', '.join(SCALES)}")
        if not 0 < budget <= SCALES[outcome].span:
            raise SteerError(f"a budget of {budget} for {outcome}; give more than 0 and at most {SCALES[outcome].span}")
