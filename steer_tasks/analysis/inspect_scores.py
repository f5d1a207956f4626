"""Scores and signals in the samples of Inspect's logs, with reasons for what is missing. Imports inspect_ai."""

import math

from inspect_ai.log import EvalSample
from inspect_ai.scorer import CORRECT, INCORRECT, NOANSWER, PARTIAL, Score

from judges.signals import text_signals

SCORERS = {"accuracy": "accuracy", "answered": "answered", "behavior": "behavior_score", "coherence": "coherence_score"}
"""Scorers of our tasks by the field of a record that they fill."""

SHARES = {CORRECT: 1.0, PARTIAL: 0.5, INCORRECT: 0.0, NOANSWER: 0.0}
"""What Inspect's letters are worth, as its own `value_to_float` has it."""


def own_scores(sample: EvalSample, missing: dict[str, str], rescored: dict[str, None]) -> dict[str, float | None]:
    """The scores of one of our tasks by field, the latest where a sample was scored again.

    `missing` takes a reason for each that is None, `rescored` the remarks.
    """
    return {field: _score(sample, name, field, missing, rescored) for name, field in SCORERS.items()}


def foreign_scores(sample: EvalSample, missing: dict[str, str], remarks: dict[str, None]) -> dict[str, float | None]:
    """The scores of somebody else's task: its first scorer's share of right is the accuracy, if it is one.

    `missing` takes a reason for each that is None, `remarks` says which scorer counts.
    """
    found = dict.fromkeys(SCORERS.values())
    missing |= dict.fromkeys(found, "the task doesn't score it")
    missing |= {field: "no judge scored it" for field in ("behavior_score", "coherence_score")}
    if not sample.scores:
        missing["accuracy"] = _why_unscored(sample, "accuracy")
        return found
    (name, score), *others = sample.scores.items()
    beside = f"; not read: {', '.join(other for other, _ in others)}" if others else ""
    remarks.setdefault(f"its accuracy is the task's scorer {name}{beside}")
    share = SHARES.get(score.value) if isinstance(score.value, str) else _finite(score.value)
    if share is None or not 0 <= share <= 1:
        missing["accuracy"] = f"the scorer {name} gives {str(score.value)[:40]}, which is no share of right"
        return found
    del missing["accuracy"]
    return {**found, "accuracy": share}


def _finite(value: object) -> float | None:
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None


def _score(
    sample: EvalSample, name: str, field: str, missing: dict[str, str], rescored: dict[str, None]
) -> float | None:
    """A scorer's number, the latest where a sample was scored again; a reason in `missing` where there is none."""
    found = _named(sample, name)
    if len(found) > 1:
        rescored.setdefault(f"{name} was scored {len(found)} times; the last, {found[-1][0]}, counts")
    if not found:
        missing[field] = _why_unscored(sample, name)
        return None
    score = found[-1][1]
    if (number := _finite(score.value)) is None:
        missing[field] = _why_missing(score)
    return number


def _named(sample: EvalSample, name: str) -> list[tuple[str, Score]]:
    """The scores of one scorer, `coherence`, `coherence1` and so on, in the order in which they were made."""
    found = []
    for key, score in (sample.scores or {}).items():
        plain = key.rpartition("/")[2]
        rest = plain.removeprefix(name)
        if plain.startswith(name) and (not rest or rest.isdigit()):
            found.append((int(rest or 0), plain, score))
    return [(plain, score) for _, plain, score in sorted(found, key=lambda one: one[0])]


def _why_unscored(sample: EvalSample, name: str) -> str:
    if sample.error is not None:
        lines = sample.error.message.strip().splitlines() or ["error"]
        return f"the sample failed: {lines[-1][:200]}"
    if sample.limit is not None:
        return f"the sample was stopped by its limit ({sample.limit.type})"
    if name in ("behavior", "coherence"):
        return "no judge scored it"
    return "the task doesn't score it" if sample.scores else "the log was never scored"


def _why_missing(score: Score) -> str:
    about = score.metadata or {}
    parts = [str(part) for part in (score.reason, about.get("problem")) if part]
    return ": ".join(dict.fromkeys(parts)) or "the scorer gave no number"


def own_signals(sample: EvalSample) -> tuple[dict[str, float | None], dict[str, str]]:
    """The signals that our task's scorer took, and reasons for those that are None."""
    found = _named(sample, "signals")
    if not found:
        return {}, {}
    score = found[-1][1]
    values = score.value if isinstance(score.value, dict) else {}
    given = (score.metadata or {}).get("reasons") or {}
    signals = {str(name): _finite(value) for name, value in values.items()}
    return signals, {
        name: str(given.get(name, "the scorer gave no number")) for name, value in signals.items() if value is None
    }


def foreign_signals(sample: EvalSample) -> tuple[dict[str, float | None], dict[str, str]]:
    """The signals that can be read off an answer to somebody else's task, and reasons for those that are None."""
    if not sample.output.choices:
        return {}, {}
    asked = (
        sample.input
        if isinstance(sample.input, str)
        else next((message.text for message in reversed(sample.input) if message.role == "user"), "")
    )
    cut = sample.output.stop_reason in ("max_tokens", "model_length")
    found = text_signals(sample.output.completion, prompt=asked, truncated=cut, tagged=False)
    return found.as_dict(), dict(found.reasons)


def judges_of(sample: EvalSample) -> list[str]:
    """The judges whose scores count."""
    latest = [found[-1][1] for name in ("behavior", "coherence") if (found := _named(sample, name))]
    return [str(judge) for score in latest if (judge := (score.metadata or {}).get("judge"))]
