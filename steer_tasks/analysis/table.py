"""Records as rows of one typed table, and back: what `export` writes and `records_log` reads.

A row is a record; `log` numbers the log it belongs to, and the logs' own descriptions travel beside the rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Literal

from model_adapters.errors import SteerError
from steer_tasks.analysis.record import Log, Message, Record, Source

FORMAT = "steer-tasks records 1"

Kind = Literal["text", "whole", "number", "messages", "numbers", "texts", "list"]
"""What a column holds: one text, a whole number, a number, messages, numbers or texts by name, or a list of texts."""

_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("log", "draw", "sample_index"), "whole"),
    **dict.fromkeys(("coefficient", "dose", "measured_dose"), "number"),
    **dict.fromkeys(("accuracy", "answered", "behavior_score", "coherence_score"), "number"),
    "messages": "messages",
    "signals": "numbers",
    "missing": "texts",
    "prompts": "list",
}

_NAMES = ("log", *(one.name for one in fields(Record)))

COLUMNS: Mapping[str, Kind] = {name: _KINDS.get(name, "text") for name in _NAMES}
"""Every column of the table with its kind, in order: `log`, then the fields of a record."""

NESTED = tuple(name for name, kind in COLUMNS.items() if kind in ("messages", "numbers", "texts", "list"))
"""Columns that hold more than one value."""

NEVER_NONE = ("log", "source", "model", "arm", "draw", "sample_index", "question", "signals", "missing")

Row = dict[str, Any]


def row_of(number: int, record: Record) -> Row:
    """A record of log `number` as plain data."""
    row = {"log": number, **{name: getattr(record, name) for name in COLUMNS if name != "log"}}
    if record.messages is not None:
        row["messages"] = [{"role": one.role, "content": one.content} for one in record.messages]
    row["signals"], row["missing"] = dict(record.signals), dict(record.missing)
    row["prompts"] = None if record.prompts is None else list(record.prompts)
    return row


def rows_of(logs: Sequence[Log]) -> Iterable[Row]:
    """The rows of all records, log by log."""
    return (row_of(number, record) for number, log in enumerate(logs) for record in log.records)


def logs_of(described: object, rows: Iterable[Row], name: str) -> tuple[Log, ...]:
    """The logs that `described` (a list of descriptions) and rows make up; `name` is what errors call the file.

    Raises SteerError, with the row and the column, for what is no such table.
    """
    if not isinstance(described, list):
        raise broken(name, "its logs aren't described")
    sources = [_source(one, name) for one in described]
    held: list[list[Record]] = [[] for _ in sources]
    for place, row in enumerate(rows, 1):
        where = f"{name}, row {place}"
        _check(row, where)
        if not 0 <= row["log"] < len(sources):
            raise broken(where, f"log {row['log']} isn't described")
        held[row["log"]].append(_record(row))
    return tuple(Log(source, tuple(records)) for source, records in zip(sources, held, strict=True))


def broken(where: str, problem: str) -> SteerError:
    """The error for an export that can't be read."""
    return SteerError(f"{where}: {problem}; export the records again")


def described_of(source: Source) -> dict[str, object]:
    """A log's description as plain data."""
    return asdict(source)


def _source(held: object, name: str) -> Source:
    known = {one.name for one in fields(Source)}
    if not isinstance(held, dict) or not {"path", "kind"} <= held.keys() <= known:
        raise broken(name, "a log's description is not of this version")
    return Source(**{**held, "remarks": tuple(held.get("remarks", ()))})


def _check(row: Row, where: str) -> None:
    if lacking := [name for name in COLUMNS if name not in row]:
        raise broken(where, f"there is no {', no '.join(lacking)}")
    for name, kind in COLUMNS.items():
        if row[name] is None:
            if name in NEVER_NONE:
                raise broken(where, f"{name} is empty")
        elif not _fits(row[name], kind):
            raise broken(where, f"{name} is {str(row[name])[:60]!r}, not of the kind {kind}")


def _fits(value: Any, kind: Kind) -> bool:
    match kind:
        case "text":
            return isinstance(value, str)
        case "whole":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "messages":
            keys = {"role", "content"}
            return isinstance(value, list) and all(isinstance(one, dict) and one.keys() == keys for one in value)
        case "list":
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        case "numbers":
            return isinstance(value, dict) and all(one is None or _fits(one, "number") for one in value.values())
        case "texts":
            return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _record(row: Row) -> Record:
    held = {name: row[name] for name in COLUMNS if name != "log"}
    for name, kind in COLUMNS.items():
        if kind == "number" and held[name] is not None:
            held[name] = float(held[name])
    if held["messages"] is not None:
        held["messages"] = tuple(Message(one["role"], one["content"]) for one in held["messages"])
    if held["prompts"] is not None:
        held["prompts"] = tuple(held["prompts"])
    held["signals"] = {key: None if one is None else float(one) for key, one in held["signals"].items()}
    return Record(**held)
