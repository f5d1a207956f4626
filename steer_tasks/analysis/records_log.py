"""Reads what `export` wrote: the same logs again, whatever they were read from first."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steer_tasks.analysis.export import DESCRIBED, FORMAT_KEY, LOGS_KEY
from steer_tasks.analysis.record import Log
from steer_tasks.analysis.table import COLUMNS, FORMAT, NESTED, Kind, Row, broken, logs_of


def read_parquet(path: Path) -> tuple[Log, ...]:
    """The logs in an exported Parquet file. Raises SteerError for a broken one, or one of another format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as problem:
        raise broken(str(path), f"it can't be read as Parquet ({_short(problem)})") from problem
    about = table.schema.metadata or {}
    if about.get(FORMAT_KEY, b"").decode() != FORMAT:
        raise broken(str(path), f"it isn't of the format {FORMAT!r}")

    def rows() -> Iterator[Row]:
        for batch in table.to_batches(max_chunksize=1024):
            for row in batch.to_pylist():
                for name, kind in COLUMNS.items():
                    if kind in ("numbers", "texts") and row.get(name) is not None:
                        row[name] = dict(row[name])
                yield row

    return logs_of(_json(about.get(LOGS_KEY, b""), str(path)), rows(), str(path))


def read_json(path: Path) -> tuple[Log, ...]:
    """The logs in an exported JSON file."""
    held = _json(path.read_bytes(), str(path))
    if not isinstance(held, dict) or held.get("format") != FORMAT or not isinstance(held.get("records"), list):
        raise broken(str(path), f"it isn't of the format {FORMAT!r}")
    rows: list[Row] = held["records"]
    if not all(isinstance(row, dict) for row in rows):
        raise broken(str(path), "a record is no object")
    for row in rows:
        for name, kind in COLUMNS.items():
            if name in row:
                row[name] = _number_again(row[name], kind)
    return logs_of(held.get("logs"), rows, str(path))


def read_csv(path: Path) -> tuple[Log, ...]:
    """The logs in an exported CSV file."""
    import pyarrow as pa
    from pyarrow import csv

    names = [*COLUMNS, DESCRIBED]
    try:
        # Not the standard library's reader: to that, an empty text and no text are the same cell.
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1)),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except (pa.ArrowException, OSError) as problem:
        raise broken(str(path), f"it can't be read as CSV ({_short(problem)})") from problem
    described: list[Any] = []
    rows: list[Row] = []
    for place, cells in enumerate(table.to_pylist(), 1):
        where = f"{path}, row {place}"
        if (about := cells.pop(DESCRIBED, None)) is not None:
            described.append(_json(about, where))
        if cells.get("source") is not None:
            rows.append({name: _value(name, cell, where) for name, cell in cells.items()})
    return logs_of(described, rows, str(path))


def _value(name: str, cell: str | None, where: str) -> Any:
    kind = COLUMNS.get(name, "text")
    if cell is None or kind == "text":
        return cell
    try:
        if name in NESTED:
            return _number_again(json.loads(cell), kind)
        return int(cell) if kind == "whole" else float(cell)
    except ValueError as problem:
        raise broken(where, f"{name} is {cell[:60]!r}, not of the kind {kind}") from problem


def _number_again(value: Any, kind: Kind) -> Any:
    """A number that JSON could only hold as text (`nan`, `inf`) as a number."""
    match kind, value:
        case "number", "nan" | "inf" | "-inf":
            return float(value)
        case "numbers", dict():
            return {key: _number_again(held, "number") for key, held in value.items()}
        case _:
            return value


def _json(text: bytes | str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise broken(where, f"it isn't whole JSON ({_short(problem)})") from problem


def _short(problem: BaseException) -> str:
    return (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
