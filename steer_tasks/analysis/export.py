"""Records to a file: Parquet, CSV or JSON by its suffix. `read_logs` reads each back to the same numbers."""

import json
import logging
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from model_adapters.errors import SteerError
from steer_tasks.analysis.plain_text import plain_log
from steer_tasks.analysis.record import Log
from steer_tasks.analysis.table import COLUMNS, FORMAT, NESTED, described_of, row_of, rows_of

SUFFIXES = (".parquet", ".csv", ".json")
"""What records are exported as."""

DESCRIBED = "described"
"""The column of a CSV in which the first row of each log describes it."""

FORMAT_KEY, LOGS_KEY = b"steer_tasks_format", b"steer_tasks_logs"
"""Where a Parquet file's metadata holds the format and the logs' descriptions."""

_log = logging.getLogger(__name__)


def export_records(logs: Sequence[Log], path: str | Path) -> None:
    """Write the records of the logs, and the logs' descriptions, to a .parquet, .csv or .json file.

    The file appears whole or not at all. JSON keeps every text as it is; Parquet and CSV are UTF-8, so that lone
    surrogates are written out, which is logged and noted in the logs' remarks. Raises SteerError for another suffix
    and for a place that can't be written.
    """
    path = Path(path).expanduser()
    writers: Mapping[str, Callable[[Sequence[Log], Path], None]] = {
        ".parquet": _write_parquet,
        ".csv": _write_csv,
        ".json": _write_json,
    }
    check_place(path)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            made = Path(folder) / path.name
            writers[path.suffix](logs, made)
            os.replace(made, path)
    except OSError as problem:
        raise SteerError(f"can't write {path} ({problem.strerror or problem}); give another place") from problem


def check_place(path: str | Path) -> None:
    """Raise SteerError for another suffix than `SUFFIXES`, and for a file that can't be there."""
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise SteerError(f"{path}: records are exported as {', '.join(SUFFIXES)}; give one of these suffixes")
    if not path.parent.is_dir():
        raise SteerError(f"can't write {path}: there is no folder {path.parent}; make it first")
    if path.is_dir():
        raise SteerError(f"can't write {path} (it is a folder); give another place")


def _plain(logs: Sequence[Log]) -> list[Log]:
    found = [plain_log(log) for log in logs]
    if changed := sum(count for _, count in found):
        _log.warning("%d records held lone surrogates, which are written out; JSON keeps them as they are", changed)
    return [log for log, _ in found]


def _write_parquet(logs: Sequence[Log], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
        "numbers": pa.map_(pa.string(), pa.float64()),
        "texts": pa.map_(pa.string(), pa.string()),
        "list": pa.list_(pa.string()),
    }
    logs = _plain(logs)
    rows = list(rows_of(logs))
    columns = {}
    for name, kind in COLUMNS.items():
        cells = [row[name] for row in rows]
        if kind in ("numbers", "texts"):
            cells = [list(cell.items()) for cell in cells]
        columns[name] = pa.array(cells, types[kind])
    about = json.dumps([described_of(log.source) for log in logs])
    table = pa.table(columns).replace_schema_metadata({FORMAT_KEY: FORMAT, LOGS_KEY: about})
    pq.write_table(table, path, compression="zstd")


def _write_csv(logs: Sequence[Log], path: Path) -> None:
    """Cells: nothing for None, texts in quotes, numbers as `repr` has them, what is nested as JSON in quotes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join([*COLUMNS, DESCRIBED]) + "\r\n")
        for number, log in enumerate(_plain(logs)):
            about: str | None = json.dumps(described_of(log.source))
            # A log without records still has a row, for its description.
            for row in (row_of(number, record) for record in log.records) if log.records else [{"log": number}]:
                cells = [_cell(_flat(name, row.get(name))) for name in COLUMNS]
                file.write(",".join([*cells, _cell(about)]) + "\r\n")
                about = None


def _flat(name: str, value: Any) -> Any:
    return json.dumps(as_json(value)) if name in NESTED and value is not None else value


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            doubled = value.replace('"', '""')
            return f'"{doubled}"'
        case _:
            return repr(value)


def _write_json(logs: Sequence[Log], path: Path) -> None:
    with path.open("w", encoding="ascii") as file:
        sources = [described_of(log.source) for log in logs]
        file.write(f'{{"format": {json.dumps(FORMAT)},\n"logs": {json.dumps(sources)},\n"records": [')
        for place, row in enumerate(rows_of(logs)):
            held = {name: as_json(value) for name, value in row.items()}
            file.write(("," if place else "") + "\n" + json.dumps(held, allow_nan=False))
        file.write("\n]}\n")


def as_json(value: Any) -> Any:
    """A value as JSON holds it: a number that isn't finite is its `repr`, `nan`, `inf` or `-inf`, as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: as_json(held) for key, held in value.items()}
    return value
