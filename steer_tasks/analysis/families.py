"""Arms that differ in their dose or coefficient alone: what a dose–response is drawn through."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from steer_tasks.analysis.record import Record

Unit = Literal["dose", "coefficient"]

_SWEPT: Mapping[Unit, re.Pattern[str]] = {
    "dose": re.compile(r"[ ,]*\bdose=[^ ,]+"),
    "coefficient": re.compile(r"[ ,]*\bcoefficient=[^ ,]+"),
}


@dataclass(frozen=True)
class Family:
    """Arms of one method, each at its own dose or coefficient, weakest first."""

    name: str
    unit: Unit
    arms: tuple[tuple[float, str], ...]
    """Dose or coefficient, and the arm that has it."""


def families(records: Iterable[Record], arms: Sequence[str]) -> tuple[Family, ...]:
    """Arms grouped by method and by what is left of their name without the swept value, where two or more values are.

    An arm whose records disagree on the value belongs to none.
    """
    values: dict[tuple[Unit, str], set[float | None]] = defaultdict(set)
    methods: dict[str, set[str | None]] = defaultdict(set)
    for record in records:
        methods[record.arm].add(record.method)
        values["dose", record.arm].add(record.dose)
        values["coefficient", record.arm].add(record.coefficient)
    groups: dict[tuple[Unit, str, str | None], dict[float, str]] = defaultdict(dict)
    for arm in arms:
        for unit, pattern in _SWEPT.items():
            found = values[unit, arm]
            value = next(iter(found)) if len(found) == 1 else None
            if value is not None and len(methods[arm]) == 1:
                groups[unit, pattern.sub("", arm).strip(), next(iter(methods[arm]))].setdefault(value, arm)
                break
    return tuple(
        Family(name or str(method), unit, tuple(sorted(group.items())))
        for (unit, name, method), group in groups.items()
        if len(group) > 1
    )


def family_names(found: Iterable[Family]) -> dict[str, str]:
    """The family's name for each arm that has one."""
    return {arm: family.name for family in found for _, arm in family.arms}
