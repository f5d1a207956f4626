"""What calibration measures of a steering: losses that a budget may bound, objectives that it makes large.

Standard library only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from model_adapters.errors import SteerError

Source = Literal["letters", "answers", "texts", "distributions"]
"""What the model does for it: scores letters, writes answers, scores a behavior's texts, gives distributions."""


@dataclass(frozen=True)
class Outcome:
    """One number for each item: a question, a prompt or a contrast.

    `gain` is 1 where more is better, -1 where less is. `step` is the whole of what one item can lose at once where
    scores come in steps or are often exactly equal, None for a continuous one. A judged one lies on the judge's scale.
    """

    name: str
    source: Source
    gain: Literal[1, -1]
    step: float | None
    is_judged: bool
    unit: str
    about: str


LOSSES: Mapping[str, Outcome] = {
    one.name: one
    for one in (
        Outcome("accuracy", "answers", 1, 1.0, False, "share", "right answers to the questions, reasoned and tagged"),
        Outcome("letter", "letters", 1, 1.0, False, "share", "questions whose right letter is the likeliest"),
        Outcome("margin", "letters", 1, None, False, "nats", "log-probability, right letter minus best wrong one"),
        Outcome("coherence", "answers", 1, 1.0, True, "points", "a judge's 1 to 5"),
        Outcome("nll", "answers", -1, None, False, "nats/token", "the answers' under the unsteered model"),
        Outcome("repeated", "answers", -1, 1.0, False, "share", "repeated word 4-grams in the answers"),
        Outcome("kl", "distributions", -1, None, False, "nats/token", "KL(control ‖ steered), neutral prompts"),
    )
}
"""What can be lost, by name."""

OBJECTIVES: Mapping[str, Outcome] = {
    one.name: one
    for one in (
        Outcome("behavior", "answers", 1, 1.0, True, "points", "a judge's 1 to 5"),
        Outcome("llr", "texts", 1, None, False, "nats/token", "the behavior's own texts minus its neutral ones"),
    )
}
"""What can be made large, by name."""


def parse_budgets(text: str) -> dict[str, float]:
    """`margin:0.05,coherence:0.25` as a mapping, in the order given.

    Raises SteerError for a name that is no loss, one given twice, and a budget that is no finite number above 0.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, colon, value = (piece.strip() for piece in part.partition(":"))
        if name not in LOSSES:
            close = get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(LOSSES)}"
            raise SteerError(f"--budget: nothing called {name!r} can be lost; {hint}")
        if name in found:
            raise SteerError(f"--budget {name} is given twice; give it once")
        try:
            number = float(value) if colon else math.nan
        except ValueError:
            number = math.nan
        if not 0 < number < math.inf:
            raise SteerError(f"--budget {part.strip()}: write it as {name}:NUMBER, a finite number above 0")
        found[name] = number
    return found


def chosen_objective(name: str | None, judge: str | None) -> Outcome:
    """The objective: the one that is named, else `behavior` where there is a judge and `llr` where there is none."""
    name = name or ("behavior" if judge else "llr")
    if name not in OBJECTIVES:
        raise SteerError(f"--objective {name}: there are {' and '.join(OBJECTIVES)}")
    return OBJECTIVES[name]


def check_judged(objective: Outcome, budgets: Mapping[str, float], judge: str | None) -> None:
    """Raise SteerError for what only a judge can tell where there is none, and for a judge that has nothing to do."""
    judged = [f"--objective {objective.name}"] if objective.is_judged else []
    judged += [f"--budget {name}" for name in budgets if LOSSES[name].is_judged]
    if judged and judge is None:
        free = ", ".join(name for name, loss in LOSSES.items() if not loss.is_judged)
        raise SteerError(
            f"{' and '.join(judged)} can't be measured without a judge; add --judge PROVIDER/MODEL, or take "
            f"--objective llr and budgets among {free}"
        )
    if judge is not None and not judged:
        raise SteerError(f"--judge {judge} has nothing to judge; take --objective behavior or a budget for coherence")
