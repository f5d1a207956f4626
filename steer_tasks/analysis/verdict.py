"""The verdict on each arm in plain words: what it bought, what it cost, how sure that is, what can't be said.

A change is called one only where its interval excludes zero, its p-value (adjusted within its family) lies below the
level, and it isn't smaller than what the design finds reliably. Everything else has no verdict, and that is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steer_tasks.analysis.called import Called, call
from steer_tasks.analysis.findings import Effect, Equivalence, Findings
from steer_tasks.analysis.pooled import equivalence, measured, pooled, steered
from steer_tasks.analysis.wording import (
    COSTS,
    GAIN,
    amount,
    change,
    clusters,
    counted,
    interval,
    is_off_scale,
    listed,
    outcome,
    p_value,
    share,
    signed,
)


@dataclass(frozen=True)
class Cell:
    """One outcome of an arm as a number to look at."""

    label: str
    change: str
    interval: str
    called: Called
    reading: str
    """In a few words: what is concluded of it, and of its budget."""


@dataclass(frozen=True)
class Verdict:
    """What is concluded about one arm; sentences end with a full stop."""

    arm: str
    headline: str
    """The shortest true summary."""
    cells: tuple[Cell, ...]
    bought: str
    cost: tuple[str, ...]
    sure: str
    unsaid: tuple[str, ...]
    """What can't be said."""


def verdicts(findings: Findings) -> tuple[Verdict, ...]:
    """One for each arm but the control that has an effect on anything."""
    return tuple(one for arm in steered(findings) if (one := _verdict(findings, arm)) is not None)


def _verdict(findings: Findings, arm: str) -> Verdict | None:
    gain = pooled(findings, arm, GAIN)
    costs = [effect for field in COSTS if (effect := pooled(findings, arm, field)) is not None]
    if gain is None and not costs:
        return None
    known = ([gain] if gain else []) + costs
    return Verdict(
        arm,
        _headline(findings, arm, gain, costs),
        tuple(_cell(effect, findings) for effect in known),
        _bought(gain),
        tuple(_cost(effect, equivalence(findings, arm, effect.outcome)) for effect in costs) or _no_costs(),
        _sure(findings, arm, known),
        _unsaid(findings, arm, known),
    )


def _cell(effect: Effect, findings: Findings) -> Cell:
    field, test = outcome(effect.outcome), equivalence(findings, effect.arm, effect.outcome)
    shown = signed(effect.estimate.value, field.decimals)
    least = "" if effect.detectable is None else amount(effect.detectable, effect.outcome)
    unclear = f"no verdict: only {least} or more can be told" if least else "no verdict"
    if effect.detectable is not None and is_off_scale(effect.detectable, effect.outcome):
        unclear = "no verdict: no change on its scale can be told"
    if _is_large(effect):
        unclear = f"no verdict: adjusted p {p_value(_p(effect))}"
    called = call(effect)
    reading = {"more": "rose", "less": "fell", "small": f"no verdict: below {least}", "unclear": unclear}[called]
    if test is not None and called != "more":  # what rose wasn't lost
        most = amount(test.budget, test.outcome)
        reading += (
            "; "
            + {
                "within": f"loss within {most}",
                "beyond": f"loss beyond {most}",
                "undecided": f"loss beyond {most} not ruled out",
                "not decidable": f"too few to certify {most}",
            }[test.verdict]
        )
    for other in findings.other_target:
        if (other.arm, other.outcome) == (effect.arm, effect.outcome):
            word = {"more": "rose", "less": "fell"}.get(call(other), "no verdict")
            reading += f"; {_whom(other)} {word}, {interval(other.estimate, field.decimals)}"
    return Cell(field.label, shown, interval(effect.estimate, field.decimals), called, reading)


def summary(found: tuple[Verdict, ...]) -> tuple[tuple[str, str], ...]:
    """Arms of one headline together, in order of appearance: `a and b`, and what holds for both."""
    arms: dict[str, list[str]] = {}
    for one in found:
        arms.setdefault(one.headline, []).append(one.arm)
    return tuple((listed(names), headline) for headline, names in arms.items())


def _headline(findings: Findings, arm: str, gain: Effect | None, costs: list[Effect]) -> str:
    """`Bought behavior; cost coherence.` and the like; where the targets disagree, what holds for the other one."""

    def fields(called: Called, effects: Sequence[Effect]) -> list[str]:
        return [outcome(one.outcome).label for one in effects if call(one) == called]

    others = [one for one in findings.other_target if one.arm == arm and one.outcome in COSTS]
    gained = next((one for one in findings.other_target if (one.arm, one.outcome) == (arm, GAIN)), None)
    first = "Behavior wasn't scored" if gain is None else "No verdict on behavior"
    if gain is not None and call(gain) in _DONE:
        first = _DONE[call(gain)]
    elif gained is not None and call(gained) in _DONE:
        first = f"{_DONE[call(gained)]} {_whom(gained)}"
    lost, also = fields("less", costs), fields("less", others)
    told = [f"cost {listed(lost)}"] if lost else []
    told += [f"cost {listed(also)} {_whom(others[0])}"] if also and not set(also) & set(lost) else []
    if not told and (raised := fields("more", costs)):
        told = [f"raised {listed(raised)}"]
    return f"{first}; {', '.join(told) or _no_cost(findings, arm, costs)}."


def _no_cost(findings: Findings, arm: str, costs: list[Effect]) -> str:
    """What is said where no cost was shown."""
    if not costs:
        return "what it cost wasn't scored"
    tests = [test for one in costs if (test := equivalence(findings, arm, one.outcome)) is not None]
    if tests and all(test.verdict == "within" for test in tests):
        return f"loss of {listed([outcome(test.outcome).label for test in tests])} within budget"
    return "no cost shown, nor ruled out"


_DONE: Mapping[Called, str] = {"more": "Bought behavior", "less": "Lowered the behavior"}


def _whom(effect: Effect) -> str:
    return "for behaviors like these" if effect.target == "random" else "for just these behaviors"


def _bought(gain: Effect | None) -> str:
    if gain is None:
        return "Behavior has no scores, so nothing is said of what this arm bought."
    match call(gain):
        case "more":
            return f"It raised the behavior by {change(gain)} points."
        case "less":
            return f"It lowered the behavior: {change(gain)} points."
    return f"No verdict on behavior: {change(gain)} points. {_why_none(gain)}"


def _why_none(effect: Effect) -> str:
    if effect.detectable is None:
        if effect.estimate.low is not None:
            return "No difference differed from another, so what this design could detect can't be told."
        return "The design is too small to say what it could detect."
    if is_off_scale(effect.detectable, effect.outcome):
        return "No change on its scale would be found reliably by this design."
    if call(effect) == "small":
        return f"That is less than the {amount(effect.detectable, effect.outcome)} which this design finds reliably."
    if _is_large(effect):
        return f"Its adjusted p-value is {p_value(_p(effect))}."
    return f"The smallest change that this design finds reliably is {amount(effect.detectable, effect.outcome)}."


def _is_large(effect: Effect) -> bool:
    """Whether it is as large as the design finds reliably."""
    return effect.detectable is not None and abs(effect.estimate.value) >= effect.detectable


def _cost(effect: Effect, test: Equivalence | None) -> str:
    word = outcome(effect.outcome).label
    match call(effect):
        case "less":
            said = f"It cost {word}: {change(effect)}."
        case "more":
            said = f"It raised {word}: {change(effect)}."
        case _:
            said = f"No verdict on {word}: {change(effect)}. {_why_none(effect)}"
    return f"{said} {_budget(test)}".strip()


def _budget(test: Equivalence | None) -> str:
    if test is None:
        return ""
    most = amount(test.budget, test.outcome)
    match test.verdict:
        case "within":
            return f"The loss was shown to lie within the budget of {most}."
        case "beyond":
            return f"The loss was shown to lie beyond the budget of {most}."
        case "undecided":
            return f"A loss beyond the budget of {most} is neither shown nor ruled out."
    if test.detectable is None:
        return f"This design can't certify a budget of {most}."
    if is_off_scale(test.detectable, test.outcome):
        return f"This design can't certify a budget of {most}, nor any other."
    least = amount(test.detectable, test.outcome)
    return f"This design can't certify a budget of {most}; the smallest it can is {least}."


def _no_costs() -> tuple[str, ...]:
    return ("Neither coherence nor accuracy has scores, so nothing is said of what this arm cost.",)


def _sure(findings: Findings, arm: str, known: list[Effect]) -> str:
    first = known[0]
    tested = "; ".join(f"{outcome(one.outcome).label} p = {p_value(_p(one))}".replace("= <", "<") for one in known)
    adjusted = " (Holm-adjusted)" if any(one.p_adjusted is not None for one in known) else ""
    rests = clusters(first.estimate.clusters)
    said = f"{counted(first.pairs, 'pair')}{f' over {rests}' if rests else ''}. {tested}{adjusted}."
    if first.wrong_way is not None:
        said += f" {share(first.wrong_way.value)} of pairs moved the wrong way in {outcome(first.outcome).label}"
        between = first.wrong_way_control
        said += f", {share(between.value)} between repeats of the control." if between else "."
    for excess in findings.excess:
        if excess.arm == arm and excess.outcome == first.outcome:
            decimals = outcome(excess.outcome).decimals
            beyond = f"{signed(excess.estimate.value, decimals)} {interval(excess.estimate, decimals)}"
            said += f" Beyond {listed(excess.placebos)}: {outcome(excess.outcome).label} {beyond}."
    return said


def _p(effect: Effect) -> float | None:
    return effect.p if effect.p_adjusted is None else effect.p_adjusted


def _unsaid(findings: Findings, arm: str, known: list[Effect]) -> tuple[str, ...]:
    said = []
    # Accuracy has no meaning where no arm has it, as on open-ended prompts.
    fields = [field for field in (GAIN, *COSTS[:2]) if field != "accuracy" or field in measured(findings)]
    missing = [outcome(field).label for field in fields if field not in {one.outcome for one in known}]
    if missing:
        said.append(f"No scores of {listed(missing)}.")
    if findings.target == "fixed" and len(findings.behaviors) > 1:
        said.append("It holds for the behaviors and steerings at hand; of others like them it doesn't say.")
    for other in findings.other_target:
        if other.arm == arm and other.behavior is None:
            word = outcome(other.outcome).label
            said.append(f"{_whom(other).capitalize()} the conclusion on {word} differs: {change(other)}.")
    for one in known:
        if one.bounds is not None and one.bounds[0] <= 0 <= one.bounds[1] and call(one) in ("more", "less"):
            said.append(f"Missing scores of {outcome(one.outcome).label} could undo its change, at the worst.")
    return tuple(said)
