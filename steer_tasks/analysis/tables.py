"""Tables of a report as plain text cells, the same for the page and for Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steer_tasks.analysis.findings import Effect, Findings, Mean
from steer_tasks.analysis.pooled import equivalence, mean, pooled
from steer_tasks.analysis.provenance import Proved
from steer_tasks.analysis.wording import (
    NONE,
    OUTCOMES,
    amount,
    change,
    detectable,
    interval,
    level,
    level_interval,
    listed,
    ordered,
    outcome,
    p_value,
    percent,
    share_interval,
    signed,
)


@dataclass(frozen=True)
class Row:
    """One row. `arm` has it marked in the arm's colour; `rule` sets it off from the row before."""

    cells: tuple[str, ...]
    arm: str | None = None
    rule: bool = False
    again: bool = False
    """Whether its first cell says what the row before said."""


@dataclass(frozen=True)
class Table:
    """A table with its heading. Columns from the second on are aligned right where `words` doesn't name them."""

    title: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    words: frozenset[int] = field(default_factory=frozenset)
    """Columns of words on one line, by number from 0; the first always is one."""
    long: frozenset[int] = field(default_factory=frozenset)
    """Columns of words that may be long."""


def levels(findings: Findings) -> Table:
    """Each arm's own level of each outcome that somebody has."""
    fields = ordered([one.outcome for one in findings.means if one.estimate is not None])
    rows = []
    for arm in findings.arms:
        found = [mean(findings, arm, field) for field in fields]
        cells = [_level_cell(one) for one in found]
        counted = [f"{one.scored}" + (f" ({one.missing} missing)" if one.missing else "") for one in found if one]
        told = counted[0] if len(set(counted)) == 1 else " / ".join(counted)
        rows.append(Row((arm, *cells, told or "0"), arm))
    means = [one.estimate for one in findings.means if one.estimate is not None]
    note = f"Means with {percent(means[0].level)} intervals, {means[0].method}." if means else ""
    return Table("Levels by arm", ("arm", *(outcome(field).label for field in fields), "scored"), tuple(rows), note)


def _level_cell(one: Mean | None) -> str:
    return (
        NONE if one is None or one.estimate is None else f"{level(one.estimate.value)} {level_interval(one.estimate)}"
    )


def effects(findings: Findings) -> Table:
    """Pooled effects of every arm against the control."""
    found = [one for one in findings.effects if one.behavior is None]
    rows, last = [], ""
    for one in sorted(found, key=lambda one: (findings.arms.index(one.arm), _place(one.outcome))):
        cells = (one.arm, outcome(one.outcome).label, *_effect_cells(findings, one))
        rows.append(Row(cells, one.arm, last not in ("", one.arm), last == one.arm))
        last = one.arm
    head = ("arm", "outcome", "change", "interval", "p", "adjusted p", "detectable", "wrong way", "budget", "pairs")
    target = "just these behaviors" if findings.target == "fixed" else "behaviors like these"
    levels_ = [one.estimate for one in found]
    note = f"Arm minus {findings.control}, for {target}"
    note += f"; {percent(levels_[0].level)} intervals, {levels_[0].method}" if levels_ else ""
    note += ". Adjusted p: Holm within the family of arms and outcomes. Detectable: the smallest true change that this "
    note += "design finds with 80 % power. Wrong way: share of pairs that moved against the wanted direction, with its "
    note += "interval; of the control, between its own repeats. Pairs: those with both scores, of all answers. "
    note += _tests(found)
    return Table("Changes against the control", head, tuple(rows), note, frozenset({1, 8}))


def _tests(found: Sequence[Effect]) -> str:
    """Which test the p-values are of: `Tests: exact McNemar (accuracy), …`."""
    outcomes: dict[str, dict[str, None]] = {}
    for one in found:
        outcomes.setdefault(one.test, {})[outcome(one.outcome).label] = None
    told = "; ".join(f"{test} ({listed(list(names))})" for test, names in outcomes.items())
    return f"Tests: {told}." if told else ""


def _place(name: str) -> tuple[int, str]:
    return (list(OUTCOMES).index(name) if name in OUTCOMES else len(OUTCOMES), name)


def _effect_cells(findings: Findings, one: Effect) -> tuple[str, ...]:
    decimals = outcome(one.outcome).decimals
    test = equivalence(findings, one.arm, one.outcome)
    wrong = NONE
    if one.wrong_way is not None:
        wrong = share_interval(one.wrong_way)
        if one.wrong_way_control is not None:
            wrong += f" (control {share_interval(one.wrong_way_control)})"
    return (
        signed(one.estimate.value, decimals),
        interval(one.estimate, decimals),
        p_value(one.p),
        p_value(one.p_adjusted),
        detectable(one.detectable, one.outcome),
        wrong,
        f"{test.verdict} {amount(test.budget, test.outcome)}" if test else NONE,
        f"{one.pairs}" + (f" of {one.pairs + one.unpaired}" if one.unpaired else ""),
    )


def by_behavior(findings: Findings) -> Table | None:
    """Effects on each behavior by itself; None where there are no two behaviors."""
    found = [one for one in findings.effects if one.behavior is not None]
    if len({one.behavior for one in found}) < 2:
        return None
    found.sort(key=lambda one: (findings.arms.index(one.arm), _place(one.outcome)))
    rows = []
    for place, one in enumerate(found):
        new = place > 0 and (found[place - 1].arm, found[place - 1].outcome) != (one.arm, one.outcome)
        cells = _effect_cells(findings, one)
        told = (one.behavior or "", outcome(one.outcome).label, *cells[:4], cells[7], one.test)
        rows.append(Row((one.arm, *told), one.arm, new))
    head = ("arm", "behavior", "outcome", "change", "interval", "p", "adjusted p", "pairs", "test")
    return Table("Changes by behavior", head, tuple(rows), words=frozenset({1, 2, 8}))


def other_target(findings: Findings) -> Table | None:
    """Where the other target concludes otherwise, both beside each other; None where nowhere."""
    rows = []
    for one in findings.other_target:
        own = pooled(findings, one.arm, one.outcome)
        if own is None:
            continue
        cells = (outcome(one.outcome).label, change(own), p_value(_p(own)), change(one), p_value(_p(one)))
        rows.append(Row((one.arm, *cells), one.arm))
    if not rows:
        return None
    fixed, random = "just these behaviors", "behaviors like these"
    names = (fixed, random) if findings.target == "fixed" else (random, fixed)
    note = "For just these behaviors only questions vary; for behaviors like these behaviors vary too."
    head = ("arm", "outcome", f"for {names[0]}", "p", f"for {names[1]}", "p")
    return Table("Where the target changes the conclusion", head, tuple(rows), note, frozenset({1}))


def _p(one: Effect) -> float | None:
    return one.p if one.p_adjusted is None else one.p_adjusted


def draws(findings: Findings) -> Table | None:
    """How far effects depend on the draw; None where no arm was drawn twice."""
    rows = [
        Row(
            (
                one.arm,
                outcome(one.outcome).label,
                str(one.draws),
                ", ".join(signed(value, outcome(one.outcome).decimals) for value in one.by_draw.values()),
                NONE if one.sd_between is None else amount(one.sd_between, one.outcome),
            ),
            one.arm,
        )
        for one in findings.draws
        if one.draws > 1
    ]
    if not rows:
        return None
    note = "Between draws: standard deviation of true effects between draws, sampling noise taken off."
    head = ("arm", "outcome", "draws", "change of each draw", "between draws")
    return Table("Draws", head, tuple(rows), note, frozenset({1}), frozenset({3}))


def excess(findings: Findings) -> Table | None:
    """Effects beyond those of placebos; None without any."""
    rows = []
    for one in findings.excess:
        decimals = outcome(one.outcome).decimals
        told = (signed(one.estimate.value, decimals), interval(one.estimate, decimals), p_value(one.p))
        rows.append(Row((one.arm, outcome(one.outcome).label, *told, listed(one.placebos)), one.arm))
    if not rows:
        return None
    note = "The arm's change minus that of its placebos, over the placebos' draws. p isn't adjusted."
    head = ("arm", "outcome", "beyond placebos", "interval", "p", "placebos")
    return Table("Beyond placebos", head, tuple(rows), note, frozenset({1}), frozenset({5}))


def missing(findings: Findings) -> Table | None:
    """Scores that are missing, why, and how far they could move the change; None where none is.

    An outcome that nobody has a score of isn't in it: that stands on top of the report.
    """
    rows = []
    scored = {one.outcome for one in findings.means if one.scored}
    for arm in findings.arms:
        for one in findings.means:
            if one.arm != arm or not one.missing or one.outcome not in scored:
                continue
            effect = pooled(findings, arm, one.outcome)
            decimals = outcome(one.outcome).decimals
            bounds = NONE
            if effect is not None and effect.bounds is not None:
                bounds = f"{signed(effect.bounds[0], decimals)} to {signed(effect.bounds[1], decimals)}"
            reasons = "; ".join(f"{reason} ({count})" for reason, count in one.reasons.items()) or NONE
            counted = f"{one.missing} of {one.missing + one.scored}"
            rows.append(Row((arm, outcome(one.outcome).label, counted, bounds, reasons), arm))
    if not rows:
        return None
    note = (
        "Bounds: the change if every missing score, of arm and control, lay at the worst and the best end of its "
        "scale. Answers without a pair are not in them."
    )
    head = ("arm", "outcome", "missing", "bounds of the change", "reasons")
    return Table("Missing scores", head, tuple(rows), note, frozenset({1}), frozenset({4}))


def without_scores(findings: Findings) -> tuple[str, ...]:
    """Outcomes that no arm has a score of."""
    fields = ordered([one.outcome for one in findings.means])
    scored = {one.outcome for one in findings.means if one.scored}
    return tuple(outcome(field).label for field in fields if field not in scored)


def unpaired(findings: Findings, asked: Mapping[str, str]) -> Table | None:
    """Answers that can't be compared; None where all can. `asked` has the texts of questions named by digest."""
    rows = tuple(
        Row(
            (
                one.arm,
                one.behavior or NONE,
                str(one.count),
                one.reason,
                "; ".join(_short(asked.get(name, name)) for name in one.examples),
            ),
            one.arm,
        )
        for one in findings.unpaired
    )
    head = ("arm", "behavior", "answers", "why", "for example")
    return Table("Answers without a pair", head, rows, words=frozenset({1}), long=frozenset({3, 4})) if rows else None


def _short(name: str) -> str:
    text = " ".join(name.split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def proofs(found: Sequence[Proved]) -> Table:
    """How each arm's steering was proved."""
    rows = []
    for one in found:
        more = f" and {len(one.fingerprints) - 2} more" if one.fingerprints[2:] else ""
        prints = ", ".join(one.fingerprints[:2]) + more
        rows.append(Row((one.arm, one.levels, one.asked, one.measured, str(one.answers), prints or NONE), one.arm))
    head = ("arm", "proof", "asked", "measured dose", "answers", "fingerprints")
    note = "Measured dose: mean ‖added‖ / ‖residual‖ over the touched tokens, its mean and range over answers."
    return Table("How the steering was proved", head, tuple(rows), note, frozenset({1, 5}))
