"""Logs of every kind, recognised by what is in them: `read_logs`. Readers, and the packages they need, on first use."""

import csv
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from model_adapters.errors import SteerError
from steer_tasks.analysis import records_log
from steer_tasks.analysis.arm_names import with_shared_names
from steer_tasks.analysis.identities import with_identity_remarks
from steer_tasks.analysis.record import Log, Source
from steer_tasks.analysis.retries import without_retried
from steer_tasks.analysis.study_log import read_study
from steer_tasks.analysis.study_table import COLUMNS, missing_columns
from steer_tasks.analysis.table import FORMAT

KINDS = (
    "lm-eval output (results_*.json with its samples_*.jsonl), Inspect logs (.eval, .json), "
    "the study's table (.csv), or exported records (.parquet, .csv, .json)"
)
SUFFIXES = (".eval", ".json", ".jsonl", ".csv", ".parquet")
"""Files that are looked at in a folder; others are no logs."""

COMPANIONS = ("eval-set.json", "logs.json", "listing.json")
"""Files that Inspect writes beside its logs."""

_HEAD = 65536
"""Characters of a text file that say what it is."""


@dataclass(frozen=True)
class _Unknown:
    """Why a file isn't read as a log. `is_companion`: it belongs to a log, so nothing needs to be said."""

    reason: str
    is_companion: bool = False


_Reader = Callable[[Path], Sequence[Log]]


def read_logs(paths: Sequence[str | Path]) -> tuple[Log, ...]:
    """The logs in files and folders (looked through to the bottom), each once, in order of their paths; a grid's in the
    order of its cells.

    What a file is shows in its content. In a folder, a file that looks like a log and is none that is known becomes a
    log without records whose remark says so. Samples that a retry took over count once, and arms that ran under one
    steering are called alike. Raises SteerError, naming the path, for a path that isn't there, a file that is no log or
    can't be read, and a folder without logs.
    """
    found: dict[Path, tuple[Log, ...]] = {}
    beside = ""
    for path in map(_expanded, paths):
        if path.is_dir():
            inside = _in_folder(path)
            if not any(log.records or log.source.kind != "unknown" for logs in inside.values() for log in logs):
                raise SteerError(_nothing_in(path, inside))
            found |= {file: logs for file, logs in inside.items() if file not in found}
        elif path.is_file():
            reader = recognised(path)
            if not isinstance(reader, _Unknown):
                found.setdefault(path.resolve(), tuple(reader(path)))
            elif reader.is_companion:  # `steer report logs/*` names it with the log that it belongs to
                beside = f"{path} {reader.reason}"
            else:
                raise SteerError(f"{path} {reader.reason}; give {KINDS}")
        else:
            raise SteerError(f"there is no file or folder {path}; give {KINDS}")
    if not found:
        raise SteerError(f"{beside or 'no log is named'}; give {KINDS}")
    logs = without_retried(_as_in_their_grids([log for logs in found.values() for log in logs]))
    return with_identity_remarks(with_shared_names(logs))


def _as_in_their_grids(logs: Sequence[Log]) -> list[Log]:
    """The logs of a grid where its first one stands, in the order of its cells, so that its arms are shown in it."""
    first: dict[str, int] = {}
    for number, log in enumerate(logs):
        if log.source.grid is not None:
            first.setdefault(log.source.grid, number)
    places = [
        (number if log.source.grid is None else first[log.source.grid], log.source.position or 0)
        for number, log in enumerate(logs)
    ]
    return [logs[number] for number in sorted(range(len(logs)), key=places.__getitem__)]


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # `~someone` without such a user
        return Path(path)


def _in_folder(folder: Path) -> dict[Path, tuple[Log, ...]]:
    found: dict[Path, tuple[Log, ...]] = {}
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix not in SUFFIXES or not path.is_file():
            continue
        try:
            reader = recognised(path)
            if isinstance(reader, _Unknown):
                if not reader.is_companion:
                    found[path.resolve()] = (_left_out(path, reader.reason),)
                continue
            found[path.resolve()] = tuple(reader(path))
        except SteerError as problem:
            found[path.resolve()] = (_left_out(path, str(problem).removeprefix(f"{path} ")),)
    return found


def _left_out(path: Path, reason: str) -> Log:
    return Log(Source(str(path), "unknown", remarks=(f"left out: {reason}",)), ())


def _nothing_in(folder: Path, inside: Mapping[Path, tuple[Log, ...]]) -> str:
    said = [f"{Path(log.source.path).name} ({log.source.remarks[0]})" for logs in inside.values() for log in logs]
    more = f", and {len(said) - 3} more" if len(said) > 3 else ""
    held = f"; it holds {', '.join(said[:3])}{more}" if said else ""
    return f"the folder {folder} holds no logs{held}; give {KINDS}"


def recognised(path: Path) -> _Reader | _Unknown:
    """What reads a file, by its content; or why nothing does. Raises SteerError for a file that can't be opened."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == b"PK\x03\x04":
            return _zipped(path)
        if start == b"PAR1":
            return records_log.read_parquet
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
            head = text.read(_HEAD)
    except OSError as problem:
        raise SteerError(f"{path} can't be read ({problem.strerror}); check it") from problem
    if not head.strip():
        return _Unknown("is empty")
    return _object(path, head) if head.lstrip().startswith("{") else _table(head)


def _zipped(path: Path) -> _Reader | _Unknown:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except zipfile.BadZipFile:
        return _Unknown("is an archive that breaks off, as the log of a killed run; `inspect log recover` mends it")
    return _inspect if {"header.json", "_journal/start.json"} & names else _Unknown("is an archive of another kind")


def _object(path: Path, head: str) -> _Reader | _Unknown:
    """A file that begins as a JSON object: one log, or lines of samples or proofs."""
    keys = set(re.findall(r'"(\w+)"\s*:', head))
    if path.name in COMPANIONS:
        return _Unknown("is Inspect's list of logs", is_companion=True)
    if re.match(rf'\s*\{{\s*"format"\s*:\s*{re.escape(json.dumps(FORMAT))}', head):
        return lambda one: records_log.read_json(one)
    if re.match(r'\s*\{\s*"results"\s*:', head):
        return _lm_eval
    if re.match(r'\s*\{\s*"version"\s*:', head) and {"status", "eval"} <= keys:
        return _inspect
    if {"doc_id", "arguments", "resps"} <= keys:
        return _samples(path)
    if {"run", "prompt_sha256", "proof"} <= keys:
        return _Unknown("is a proof file; give the results that name it", is_companion=True)
    if '"format": "steer-tasks steering' in head:
        return _Unknown("is a steering", is_companion=True)
    return _Unknown("is JSON of no kind that is known")


def _samples(path: Path) -> _Unknown:
    if _results_of(path):
        return _Unknown("holds samples; give the results file beside it", is_companion=True)
    return _Unknown("holds lm-eval's samples without the results file that says which model and steering they are of")


def _results_of(samples: Path) -> list[Path]:
    date = samples.stem.rpartition("_")[2]
    return [path for path in samples.parent.glob(f"*_{date}.json") if path.suffix == ".json"]


def _table(head: str) -> _Reader | _Unknown:
    header = next(iter(csv.reader([head.splitlines()[0]])), [])
    if {"log", "source", "arm", "question", "described"} <= set(header):
        return records_log.read_csv
    lacking = missing_columns(header)
    if len(lacking) == len(COLUMNS):
        return _Unknown(f"is no table of records: it lacks the columns {', '.join(lacking)}")
    return lambda path: (read_study(path),)


def _inspect(path: Path) -> Sequence[Log]:
    from steer_tasks.analysis.inspect_log import read_inspect

    return (read_inspect(path),)


def _lm_eval(path: Path) -> Sequence[Log]:
    from steer_tasks.analysis.lm_eval_log import read_lm_eval

    return read_lm_eval(path)
