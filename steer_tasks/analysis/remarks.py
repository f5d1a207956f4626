"""What limits the conclusions, one sentence each."""

from collections.abc import Iterator, Sequence

from steer_tasks.analysis.findings import Findings, Target
from steer_tasks.analysis.record import Record
from steer_tasks.analysis.wording import listed, outcome

FEW_BEHAVIORS = 4
"""Behaviors below which an interval for behaviors like these wasn't simulated."""

ENOUGH_BEHAVIORS = 12
"""Behaviors from which intervals hold what they say although effects are as skewed as published ones."""

FEW_QUESTIONS = 12
"""Questions below which an interval wasn't simulated."""

DRAWN = ("random_vector", "random_features", "auto_steer", "auto_steer_scaled", "feature_search")
"""Methods whose steering is another at every draw."""


def remarks(findings: Findings, records: Sequence[Record], asked: Target) -> tuple[str, ...]:
    """Of the findings, which rest on `records` and were asked for the target `asked`."""
    return (
        *_about_arms(findings),
        *_about_target(findings, asked),
        *_about_scores(findings),
        *_about_families(findings),
        *_about_draws(records),
    )


def _about_arms(findings: Findings) -> Iterator[str]:
    if len(findings.arms) == 1:
        yield f"{findings.control} is the only arm, so there is nothing to compare it with."
    if findings.questions < FEW_QUESTIONS:
        few = f"Few questions ({findings.questions})"
        yield f"{few}: intervals over fewer than {FEW_QUESTIONS} weren't tried in simulation."


def _about_target(findings: Findings, asked: Target) -> Iterator[str]:
    count = len(findings.behaviors)
    if asked == "random" and findings.target == "fixed":
        what = "There is one behavior" if count else "No answer belongs to a behavior"
        yield f"{what}, so nothing is said about others; conclusions are about these questions' kind only."
    elif findings.target == "random" and count < FEW_BEHAVIORS:
        yield (
            f"{count} behaviors say little about behaviors like these; intervals over fewer than {FEW_BEHAVIORS} "
            "weren't tried in simulation."
        )
    elif findings.target == "random" and count < ENOUGH_BEHAVIORS:
        yield (
            f"There are {count} behaviors; where a few carry an effect, intervals over so few hold less than they say "
            "(docs/statistics.md)."
        )
    for one in findings.effects:
        if one.behavior is None and one.target != findings.target:
            found = f"{one.arm} has answers under one behavior or none"
            yield f"{found}: its {_word(one.outcome)} is concluded for these questions alone."


def _about_scores(findings: Findings) -> Iterator[str]:
    scored = {one.outcome for one in findings.means if one.scored}
    if none := dict.fromkeys(_word(one.outcome) for one in findings.means if one.outcome not in scored):
        it = "it" if len(none) == 1 else "them"
        yield f"No answer has a score of {listed(list(none), 'or')}, so nothing is concluded from {it}."
    for field in dict.fromkeys(one.outcome for one in findings.means if one.outcome in scored):
        means = [one for one in findings.means if one.outcome == field]
        if silent := [one.arm for one in means if not one.scored]:
            yield f"No answer of {listed(silent, 'or')} has a score of {_word(field)}."
        unpaired = {one.arm for one in means if one.scored} - {findings.control}
        unpaired -= {one.arm for one in findings.effects if one.outcome == field}
        if unpaired:
            yield f"No {_word(field)} of {listed(sorted(unpaired), 'or')} has one of the control's beside it."
    yield from _without_error(findings)


def _without_error(findings: Findings) -> Iterator[str]:
    """Pooled effects without a standard error, and why: arms and outcomes of one reason in one sentence."""
    arms: dict[tuple[str, str], list[str]] = {}
    for one in findings.effects:
        if one.behavior is None and one.estimate.stderr is None:
            arms.setdefault((one.estimate.method, one.outcome), []).append(one.arm)
    words: dict[tuple[str, str], list[str]] = {}
    for (method, field), names in arms.items():
        words.setdefault((method, listed(names)), []).append(_word(field))
    for (method, whose), fields in words.items():
        yield f"The change in {listed(fields)} of {whose} has no standard error ({method})."


def _word(field: str) -> str:
    return outcome(field).label


def _about_families(findings: Findings) -> Iterator[str]:
    pooled = [one for one in findings.effects if one.behavior is None and one.p is not None]
    single = [one for one in findings.effects if one.behavior is not None and one.p is not None]
    if pooled:
        said = f"Adjusted p values are Holm's within a family of {len(pooled)} (arms × outcomes)"
        more = f", those of single behaviors within {len(single)} (arms × outcomes × behaviors)" if single else ""
        yield f"{said}{more}; intervals aren't adjusted."


def _about_draws(records: Sequence[Record]) -> Iterator[str]:
    draws: dict[str, set[int]] = {}
    for one in records:
        if one.method in DRAWN:
            draws.setdefault(one.arm, set()).add(one.draw)
    single = [arm for arm, held in draws.items() if len(held) == 1]
    if single:
        yield f"One draw only of {', '.join(single)}: how far another draw would differ isn't known."
