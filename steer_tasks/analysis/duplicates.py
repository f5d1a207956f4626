"""Each answer once, and one steering under one name: what must hold before anything is paired."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

from model_adapters.errors import SteerError
from steer_tasks.analysis.record import SCORES, Record


def once_each(records: Sequence[Record]) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """The records with each answer once, in order of appearance, and remarks on what was found more than once.

    An answer that stands in two logs alike (a log given twice, a rescored copy) is counted once, with the scores of
    both; a failed attempt gives way to an answer. Raises SteerError for two different answers, or two different scores
    of one answer, under one arm, behavior, draw, question and sample index; and for answers under two fingerprints
    where arm, behavior and draw are one.
    """
    check_fingerprints(records)
    held: defaultdict[Hashable, list[Record]] = defaultdict(list)
    for record in records:
        held[_answer_key(record)].append(record)
    found, repeated, retried = [], 0, 0
    for same in held.values():
        answered = [one for one in same if not _is_failure(one)] or same[:1]
        retried += len(same) - len(answered) if len(answered) < len(same) and not _is_failure(answered[0]) else 0
        repeated += len(answered) - 1
        found.append(_joined(answered))
    remarks = []
    if repeated:
        remarks.append(f"{repeated} answers stand in the logs twice, alike; each is counted once")
    if retried:
        remarks.append(f"{retried} failed attempts have an answer in another log; the answer counts")
    return tuple(found), tuple(remarks)


def check_fingerprints(records: Iterable[Record]) -> None:
    """Raise SteerError, naming arm, fingerprints and logs, where one arm, behavior and draw ran under two steerings."""
    known: dict[Hashable, dict[str, Record]] = {}
    for record in records:
        if record.fingerprint is None:
            continue
        place = (record.model, record.question_set, record.protocol, record.arm, record.behavior, record.draw)
        under = known.setdefault(place, {})
        under.setdefault(record.fingerprint, record)
        if len(under) > 1:
            first, second = under.values()
            raise SteerError(
                f"{_named(record)}, draw {record.draw}, is mixed from two steerings: {first.fingerprint} in "
                f"{first.source} and {second.fingerprint} in {second.source}; leave one out, or name the arms apart"
            )


def _named(record: Record) -> str:
    return f"arm {record.arm!r} of {record.model}, behavior {record.behavior or 'none'}"


def _answer_key(record: Record) -> Hashable:
    asked = (record.model, record.question_set, record.protocol, record.behavior, record.question)
    return (*asked, record.arm, record.draw, record.sample_index)


def _is_failure(record: Record) -> bool:
    return record.completion is None and all(getattr(record, name) is None for name in SCORES)


def _joined(same: Sequence[Record]) -> Record:
    """One record of records of one answer, each score from the first that has it."""
    first = same[0]
    for other in same[1:]:
        if other.completion != first.completion:
            raise _differing(first, other, "different answers")
        for name in SCORES:
            mine, theirs = getattr(first, name), getattr(other, name)
            if None not in (mine, theirs) and mine != theirs:
                raise _differing(first, other, f"different scores ({name} {mine:g} and {theirs:g})")
        first = _filled(first, other)
    return first


def _filled(one: Record, other: Record) -> Record:
    """`one` with the scores, signals and proof that only `other` has."""
    names = (*SCORES, "proof", "measured_dose", "messages")
    taken = {name: getattr(other, name) for name in names if getattr(one, name) is None is not getattr(other, name)}
    signals = {**other.signals, **{name: value for name, value in one.signals.items() if value is not None}}
    if not taken and signals == one.signals:
        return one
    have = {*taken, *(name for name, value in signals.items() if value is not None)}
    missing = {name: why for name, why in {**other.missing, **one.missing}.items() if name not in have}
    return replace(one, **taken, signals=signals, missing=missing)


def _differing(one: Record, other: Record, what: str) -> SteerError:
    where = one.source if one.source == other.source else f"{one.source} and {other.source}"
    return SteerError(
        f"{_named(one)}: question {one.question}, sample {one.sample_index}, has two {what} in {where}; "
        "leave one of the logs out"
    )
