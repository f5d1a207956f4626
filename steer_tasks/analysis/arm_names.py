"""How arms are called: alike whichever harness ran them, with what was swept and the protocol, without the draw."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

from model_adapters.errors import SteerError
from model_adapters.methods import method_class
from model_adapters.steering import CONTROL
from steer_tasks.analysis.record import Log, Record

PLAIN_PROTOCOL = "isolated"
"""The protocol that goes without saying."""

WORDING = ("text", "placement")
"""Parameters of a prompt that protocols set; they are in a name only where they were given."""


@dataclass(frozen=True)
class ArmFacts:
    """What a log says of its arm."""

    method: str | None
    parameters: Mapping[str, Any]
    protocol: str | None = None
    prompting: bool = False
    """Whether the arm asks in words beside its method."""
    name: str | None = None
    """The name that a grid gave it."""
    swept: Mapping[str, Any] | None = None
    """What the grid sweeps over, the draw left out."""
    file: str | None = None
    """The steering's file, where no method is known."""

    @property
    def arm(self) -> str:
        """The arm's name."""
        base = self.name or self.method or (Path(self.file).stem if self.file else "unsteered")
        shown = dict(self.swept or {}) if self.name else changed(self.method, self.parameters)
        parts = [base, *(f"{key}={_shown(value)}" for key, value in shown.items())]
        parts += ["+ prompt"] if self.prompting and not self.name else []
        parts += [self.protocol] if self.protocol not in (None, PLAIN_PROTOCOL) else []
        return " ".join(map(str, parts))

    def number(self, name: str) -> float | None:
        """A parameter as a number, where it is one."""
        value = self.parameters.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def changed(method: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that differ from the method's own defaults; all that have a value where the method is unknown."""
    try:
        defaults = {one.name: one.default for one in fields(method_class(method))} if method else {}
    except SteerError:  # another package's method, which isn't installed here
        defaults = {}
    return {
        key: value for key, value in parameters.items() if value is not None and value != defaults.get(key, MISSING)
    }


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value.endswith(".json"):
        return Path(value).stem
    return str(value)


def with_shared_names(logs: Sequence[Log]) -> tuple[Log, ...]:
    """The logs with arms that no grid named called as a grid calls the same steering of the same model and protocol.

    An arm is renamed as a whole, where all its answers ran under steerings that one named arm ran under too.
    """
    named: defaultdict[tuple[Any, ...], set[str]] = defaultdict(set)
    places: defaultdict[str, set[tuple[Any, ...]]] = defaultdict(set)
    for log in logs:
        for record in log.records:
            if log.source.names_arms:
                named[_place(record)].add(record.arm)
            else:
                places[record.arm].add(_place(record))
    renamed = {}
    for arm, held in places.items():
        shared = set.intersection(*(named.get(place, set()) for place in held))
        if len(shared) == 1 and (other := shared.pop()) != arm:
            renamed[arm] = other
    if not renamed:
        return tuple(logs)
    return tuple(log if log.source.names_arms else _renamed(log, renamed) for log in logs)


def _renamed(log: Log, names: Mapping[str, str]) -> Log:
    used = {record.arm: names[record.arm] for record in log.records if record.arm in names}
    if not used:
        return log
    said = tuple(
        f"its arm {old!r} is called {new!r}, as another log calls the same steering" for old, new in used.items()
    )
    records = tuple(replace(one, arm=used.get(one.arm, one.arm)) for one in log.records)
    return Log(replace(log.source, remarks=(*log.source.remarks, *said)), records)


def _place(record: Record) -> tuple[Any, ...]:
    if record.fingerprint == CONTROL.fingerprint:
        return record.model, record.protocol, record.fingerprint
    return record.model, record.protocol, record.fingerprint, record.behavior, record.draw
