"""How outcomes are called and numbers written, alike in figures, page and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steer_tasks.analysis.findings import Effect, Estimate


@dataclass(frozen=True)
class Outcome:
    """How one outcome is called, and how its numbers are written."""

    field: str
    """Its name in records and findings."""
    label: str
    unit: str
    """What one step of it is: `points` of a judge's scale, `share` of answers."""
    low: float | None
    high: float | None
    """Ends of its scale, None for a signal."""
    decimals: int
    """Of a difference; levels have three."""


OUTCOMES: Mapping[str, Outcome] = {
    one.field: one
    for one in (
        Outcome("behavior_score", "behavior", "points", 1, 5, 2),
        Outcome("coherence_score", "coherence", "points", 1, 5, 2),
        Outcome("accuracy", "accuracy", "share", 0, 1, 3),
        Outcome("answered", "answered", "share", 0, 1, 3),
    )
}
"""The four scores, in the order of every table."""

GAIN = "behavior_score"
COSTS = ("coherence_score", "accuracy", "answered")

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"


def outcome(field: str) -> Outcome:
    """One of the four scores, or a signal under its own name."""
    return OUTCOMES.get(field) or Outcome(field, field.replace("_", " "), "", None, None, 3)


def ordered(fields: Sequence[str]) -> tuple[str, ...]:
    """Outcomes without repeats, the four scores first, then signals as they come."""
    found = dict.fromkeys(fields)
    return (*(field for field in OUTCOMES if field in found), *(field for field in found if field not in OUTCOMES))


def level(value: float | None, decimals: int = 3) -> str:
    """A level, `3.067`; a dash where there is none."""
    return NONE if value is None else f"{value:.{decimals}f}".replace("-", MINUS)


def signed(value: float | None, decimals: int = 2) -> str:
    """A difference with its sign, `+0.68` or `−0.29`; zero has none."""
    if value is None:
        return NONE
    text = f"{abs(value):.{decimals}f}"
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def interval(estimate: Estimate, decimals: int = 2) -> str:
    """The interval of a difference, `[+0.45, +0.91]`; says so where there is none."""
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"[{signed(estimate.low, decimals)}, {signed(estimate.high, decimals)}]"


def level_interval(estimate: Estimate) -> str:
    """The interval of a level, `[2.94, 3.20]`."""
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"[{level(estimate.low, 2)}, {level(estimate.high, 2)}]"


def change(effect: Effect) -> str:
    """An effect as text: `+0.68 [+0.45, +0.91]`."""
    decimals = outcome(effect.outcome).decimals
    return f"{signed(effect.estimate.value, decimals)} {interval(effect.estimate, decimals)}"


def amount(value: float, field: str) -> str:
    """A size without a sign, in the decimals of its outcome's differences."""
    return f"{abs(value):.{outcome(field).decimals}f}"


def is_off_scale(value: float, field: str) -> bool:
    """Whether a size is larger than any difference of its outcome can be."""
    low, high = outcome(field).low, outcome(field).high
    return low is not None and high is not None and value > high - low


def detectable(value: float | None, field: str) -> str:
    """The smallest detectable change, `0.42`; `> 4` where it is larger than the scale, a dash where there is none."""
    if value is None:
        return NONE
    one = outcome(field)
    return f"> {(one.high or 0) - (one.low or 0):g}" if is_off_scale(value, field) else amount(value, field)


def p_value(p: float | None) -> str:
    """A p-value in three decimals, four where they would read 0.050; `< 0.001` below; a dash where there is none."""
    if p is None:
        return NONE
    text = f"{p:.3f}"
    return "< 0.001" if p < 0.001 else f"{p:.4f}" if text == "0.050" and p != 0.05 else text


def share(value: float | None) -> str:
    """A share in per cent, `12.3 %`."""
    return NONE if value is None else f"{100 * value:.1f} %"


def share_interval(estimate: Estimate) -> str:
    """A share with its interval, both in per cent: `12.3 % [8, 18]`."""
    if estimate.low is None or estimate.high is None:
        return share(estimate.value)
    return f"{share(estimate.value)} [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def percent(nominal: float) -> str:
    """A level of confidence, `95 %` or `97.5 %`."""
    return f"{100 * nominal:.4g} %"


def alpha(nominal: float) -> float:
    """What a p-value must lie below at a level of confidence: 0.05 at 0.95, exactly."""
    return round(1 - nominal, 12)


def clusters(counts: Mapping[str, int]) -> str:
    """What an estimate rests on: `181 questions, 10 behaviors`."""
    return ", ".join(counted(count, word.removesuffix("s")) for word, count in counts.items())


def counted(number: int, word: str) -> str:
    """A number and its noun, in the plural where it isn't one: `1 answer`, `2,394 answers`, `6 families`."""
    if number == 1:
        return f"1 {word}"
    plural = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{number:,} {plural}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """Words joined as prose: `a`, `a and b`, `a, b and c`; `last` stands before the last one."""
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
