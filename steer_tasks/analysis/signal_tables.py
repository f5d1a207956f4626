"""Tables of the judge-free signals: each arm's mean, and its change against the control."""

from collections.abc import Sequence
from statistics import fmean

from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.record import Record
from steer_tasks.analysis.tables import Row, Table
from steer_tasks.analysis.wording import NONE, interval, level, outcome, percent, signed


def signals(records: Sequence[Record], arms: Sequence[str]) -> Table | None:
    """What answers show without a judge: mean of each signal by arm; None where no record has any."""
    names = tuple(dict.fromkeys(name for record in records for name in record.signals))
    held: dict[str, dict[str, list[float]]] = {arm: {name: [] for name in names} for arm in arms}
    for record in records:
        for name, value in record.signals.items():
            if value is not None:
                held[record.arm][name].append(value)
    names = tuple(name for name in names if any(found[name] for found in held.values()))
    if not names:
        return None
    rows = [
        Row((arm, *(level(fmean(values)) if (values := found[name]) else NONE for name in names)), arm)
        for arm, found in held.items()
    ]
    head = ("arm", *(outcome(name).label for name in names))
    return Table("Signals by arm", head, tuple(rows), "Means over answers.")


def signal_changes(findings: Findings) -> Table | None:
    """The change in each signal with its interval; None where no arm has one beside the control's."""
    if not findings.signals:
        return None
    rows, last = [], ""
    for one in findings.signals:
        cells = (one.arm, outcome(one.name).label, signed(one.estimate.value, 3), interval(one.estimate, 3))
        rows.append(Row(cells, one.arm, last not in ("", one.arm), last == one.arm))
        last = one.arm
    first = findings.signals[0].estimate
    note = f"Arm minus {findings.control}, paired as scores are; {percent(first.level)} intervals, for orientation: "
    note += "they belong to no family, and no verdict rests on them."
    return Table("Changes in signals", ("arm", "signal", "change", "interval"), tuple(rows), note, frozenset({1}))
