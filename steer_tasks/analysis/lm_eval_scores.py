"""Scores and signals in lm-eval's samples and in the proof file, with reasons for what is missing."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from judges.signals import SIGNALS
from steer_tasks.analysis.lm_eval_proofs import Proofs
from steer_tasks.answers import is_answered, is_right, parse_answer

RIGHT = ("acc", "exact_match")
"""lm-eval's own scores that are an accuracy; of several the first."""

JUDGED = {"behavior": "behavior_score", "coherence": "coherence_score"}
"""Scores by a judge, by the field of a record that they fill."""


def scores_of(
    sample: Mapping[str, Any],
    document: Mapping[str, Any],
    index: int,
    text: str | None,
    ours: bool,
    missing: dict[str, str],
) -> dict[str, float | None]:
    """The scores of one answer: lm-eval's own for the first, and what its text says for the repeats of our tasks."""
    letter = document.get("letter")
    if index == 0:
        right = next((sample[name] for name in RIGHT if name in sample), None)
        scores = {"accuracy": _number(right), "answered": _number(sample.get("answered"))}
    elif ours and text is not None and isinstance(letter, str):
        said = parse_answer(text)
        scores = {"accuracy": float(is_right(said, letter)), "answered": float(is_answered(said))}
    else:
        scores = {"accuracy": None, "answered": None}
    first = "lm-eval scores the first of repeated answers only"
    for name, value in scores.items():
        if value is None:
            missing[name] = first if index else "the task has no such score"
    for quality, field in JUDGED.items():
        scores[field] = _number(sample.get(quality)) if index == 0 else None
        if scores[field] is None:
            missing[field] = first if index else _why_unjudged(sample, quality)
    return scores


def _why_unjudged(sample: Mapping[str, Any], quality: str) -> str:
    if quality not in sample:
        return "no judge scored it"
    try:
        verdict = json.loads(sample["filtered_resps"][0])[quality]
        parts = [str(part) for part in (verdict.get("reason"), verdict.get("problem")) if part]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        parts = []
    return ": ".join(parts) or "the judge gave no score"


def signals_of(
    sample: Mapping[str, Any],
    index: int,
    generated: bool,
    lines: Sequence[Mapping[str, Any]],
    proofs: Proofs,
    missing: dict[str, str],
) -> dict[str, float | None]:
    """The signals that the samples and the proof file hold; of likelihoods the margin is one."""
    if not generated:
        margin = _number(sample.get("margin"))
        return {} if margin is None else {"margin": margin}
    known = [name for name in SIGNALS if name in sample] if index == 0 else []
    signals: dict[str, float | None] = {name: _number(sample[name]) for name in known}
    missing |= {name: "the answer has too little text for it" for name, value in signals.items() if value is None}
    if not lines:
        missing["reference_nll"] = proofs.problem or "the answer has no line in the proof file"
        return {**signals, "reference_nll": None}
    line = lines[0]
    signals["reference_nll"] = _number(line.get("reference_nll"))
    if signals["reference_nll"] is None:
        missing["reference_nll"] = str(line.get("reference_reason") or "the proof file doesn't say why")
    if line.get("stop_reason") not in (None, "unknown"):
        signals["truncated"] = float(line["stop_reason"] in ("max_tokens", "context_length"))
    return signals


def _number(value: object) -> float | None:
    """A finite number; None for whatever else stands there."""
    return float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None
