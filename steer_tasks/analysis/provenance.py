"""Where the numbers come from: what the logs say of themselves, and how the steering was proved."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from steer_tasks.analysis.record import Record, Source
from steer_tasks.analysis.wording import NONE, counted, level

PROOFS: Mapping[str, str] = {
    "measured": "measured in the forward passes: the planned tokens changed, by the planned amount",
    "probed": "a server was probed with and without the steering before its first answer",
    "acknowledged": "a service accepted the steering; what it did with it can't be seen",
    "sent": "a prompt only: the messages that were sent are recorded",
}
"""What each level of a proof means."""

UNKNOWN = "not recorded"


@dataclass(frozen=True)
class Proved:
    """How one arm's steering was proved."""

    arm: str
    answers: int
    levels: str
    asked: str
    measured: str
    fingerprints: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """One thing that logs say, with how many of them say it where they differ."""

    name: str
    values: tuple[str, ...]


def proved(records: Sequence[Record], arms: Sequence[str]) -> tuple[Proved, ...]:
    """A row for each arm."""
    held: dict[str, list[Record]] = {arm: [] for arm in arms}
    for record in records:
        held[record.arm].append(record)
    return tuple(_proved(arm, found) for arm, found in held.items())


def _proved(arm: str, records: Sequence[Record]) -> Proved:
    levels = Counter(record.proof or "no proof" for record in records)
    told = next(iter(levels)) if len(levels) == 1 else ", ".join(f"{word} {count}" for word, count in levels.items())
    doses = [record.measured_dose for record in records if record.measured_dose is not None]
    measured = f"{fmean(doses):.3f} ({min(doses):.3f} to {max(doses):.3f})" if doses else NONE
    asked = sorted({record.dose for record in records if record.dose is not None})
    coefficients = sorted({record.coefficient for record in records if record.coefficient is not None})
    said = [f"dose {level(one, 3).rstrip('0').rstrip('.')}" for one in asked]
    said += [f"coefficient {one:g}" for one in coefficients]
    prints = tuple(dict.fromkeys(record.fingerprint for record in records if record.fingerprint))
    return Proved(arm, len(records), told, ", ".join(said[:4]) or NONE, measured, prints)


def facts(sources: Sequence[Source]) -> tuple[Fact, ...]:
    """What the logs say of tasks, questions, wording, judge, rubrics and versions; equal values once."""
    found = [
        _fact("kind of log", [source.kind for source in sources]),
        _fact("task", [source.task for source in sources]),
        _fact("questions", [_joined(source.questions) for source in sources]),
        _fact("protocol", [_joined(source.protocol) for source in sources]),
        _fact("judge", [source.judge for source in sources]),
        _fact("rubrics", [_joined(source.rubrics) for source in sources]),
        _fact("versions", [_joined(source.versions) for source in sources]),
        _fact("begun", _span([source.started for source in sources if source.started])),
    ]
    unknown = [one.name for one in found if one.values == (UNKNOWN,)]
    known = [one for one in found if one.values != (UNKNOWN,)]
    return (*known, *([Fact(UNKNOWN, (", ".join(unknown),))] if unknown else []))


def _span(dates: Sequence[str]) -> list[str | None]:
    if not dates:
        return [None]
    first, last = min(dates), max(dates)
    return [first if first == last else f"{first} to {last}"]


def _fact(name: str, values: Sequence[str | None]) -> Fact:
    counts = Counter(value or UNKNOWN for value in values)
    if len(counts) == 1:
        return Fact(name, tuple(counts))
    return Fact(name, tuple(f"{value} ({counted(count, 'log')})" for value, count in counts.items()))


def _joined(held: Mapping[str, object]) -> str | None:
    told = [f"{key} {_plain(value)}" for key, value in held.items() if value not in (None, "", [], (), {})]
    return ", ".join(told) or None


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_plain(one)}" for key, one in value.items()) + ")"
    if isinstance(value, list | tuple):
        return " ".join(map(_plain, value))
    return str(value)
