"""Rows of multiple-choice questions, read from the formats in which MMLU is passed on.

Standard library only; pyarrow is imported inside the function that reads parquet.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_adapters.errors import SteerError

LETTERS = "ABCD"
LAYOUTS = "a .json, .jsonl or .parquet file, or a folder with all/dev-*.parquet, dev/<subject>_dev.csv or one of these"


@dataclass(frozen=True)
class Row:
    """One question as a source has it: four choices, `answer` their index from 0; `place` says where it stood."""

    subject: str
    question: str
    choices: tuple[str, ...]
    answer: int
    place: str


def read_rows(path: Path) -> tuple[list[Row], str]:
    """The rows of a file or folder, and the name of its layout; rows keep the order they have there.

    In a folder the first of these is read: `all/dev-*.parquet` or `dev-*.parquet`; `dev/<subject>_dev.csv` (also
    below `data/`, or in the folder itself); a single .json or .jsonl file. Whatever can't be read is a SteerError.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        return _read_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise SteerError(f"can't read the questions in {path} ({error}); give {LAYOUTS}") from error


def _read_folder(folder: Path) -> tuple[list[Row], str]:
    for below in ("all", "."):
        if found := sorted((folder / below).glob("dev-*.parquet")):
            rows = [row for path in found for row in parquet_rows(path)]
            return rows, "parquet"
    for below in ("dev", "data/dev", "."):
        if found := sorted((folder / below).glob("*_dev.csv")):
            return [row for path in found for row in csv_rows(path)], "original CSV"
    found = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".jsonl"))
    if len(found) == 1:
        return _read_file(found[0])
    problem = f"holds {len(found)} JSON files" if found else "holds no questions"
    raise SteerError(f"the folder {folder} {problem}; give {LAYOUTS}")


def _read_file(path: Path) -> tuple[list[Row], str]:
    match path.suffix.lower():
        case ".json":
            return json_rows(path.read_text("utf-8-sig"), str(path)), "JSON"
        case ".jsonl":
            return jsonl_rows(path.read_text("utf-8-sig"), str(path)), "JSON lines"
        case ".parquet":
            return parquet_rows(path), "parquet"
        case ".csv":
            raise SteerError(f"{path} is one subject's file; give the folder that holds all <subject>_dev.csv files")
        case _:
            if not path.exists():
                raise SteerError(f"there is no file or folder {path} with questions; give {LAYOUTS}")
            raise SteerError(f"{path} is in no known format of questions; give {LAYOUTS}")


def json_rows(text: str, name: str) -> list[Row]:
    """Rows of a JSON array of objects `{subject, question, choices, answer}`; `name` is what errors call the file."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SteerError(f"{name} isn't JSON ({error}); rows one a line belong into a .jsonl file") from error
    if not isinstance(found, list):
        raise SteerError(f"{name} holds {type(found).__name__} where a list of rows is expected")
    return [_row(item, f"row {number}", name) for number, item in enumerate(found, 1)]


def jsonl_rows(text: str, name: str) -> list[Row]:
    """Rows of JSON objects one a line; empty lines are passed over."""
    rows = []
    # Not splitlines(): that also breaks at characters which JSON leaves unescaped inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                item = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SteerError(f"line {number} of {name} isn't JSON ({error}); mend or restore it") from error
            rows.append(_row(item, f"line {number}", name))
    return rows


def parquet_rows(path: Path) -> list[Row]:
    """Rows of the hub's parquet: columns subject, question, choices (list of text), answer (index)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(path, columns=["subject", "question", "choices", "answer"]).to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        short = (str(error).strip() or "unreadable").splitlines()[0]
        raise SteerError(f"can't read {path} as parquet ({short}); fetch the file again") from error
    return [_row(item, f"row {number}", str(path)) for number, item in enumerate(found, 1)]


def csv_rows(path: Path) -> list[Row]:
    """Rows of one `<subject>_dev.csv` of the original distribution: question, four choices, letter; no header."""
    subject = path.name.removesuffix("_dev.csv")
    rows = []
    try:
        text = io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="")
        for number, cells in enumerate(csv.reader(text, strict=True), 1):
            if len(cells) != 6:
                raise SteerError(f"row {number} of {path} has {len(cells)} cells where 6 are expected; restore it")
            item = {"subject": subject, "question": cells[0], "choices": cells[1:5], "answer": cells[5]}
            rows.append(_row(item, f"row {number} of {path.name}", str(path)))
    except csv.Error as error:
        raise SteerError(f"{path} isn't well-formed CSV ({error}); restore it") from error
    return rows


def _row(item: object, place: str, name: str) -> Row:
    """The row an object stands for; what is wrong with it is a SteerError that names file, place and field."""

    def refused(problem: str) -> SteerError:
        return SteerError(f"{name}, {place}: {problem}; a row is {{subject, question, choices, answer}}")

    if not isinstance(item, Mapping):
        raise refused(f"{type(item).__name__} where an object is expected")
    if absent := [key for key in ("subject", "question", "choices", "answer") if key not in item]:
        raise refused(f"no {' and no '.join(absent)}")
    subject, question, choices, answer = (item[key] for key in ("subject", "question", "choices", "answer"))
    if not isinstance(subject, str) or not isinstance(question, str):
        raise refused("subject and question must be text")
    is_list = isinstance(choices, list | tuple) and all(isinstance(choice, str) for choice in choices)
    if not is_list or len(choices) != len(LETTERS):
        raise refused(f"choices must be a list of {len(LETTERS)} texts")
    index = LETTERS.find(answer.strip().upper()) if isinstance(answer, str) and len(answer.strip()) == 1 else answer
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(LETTERS):
        raise refused(f"answer {answer!r} is neither an index from 0 to {len(LETTERS) - 1} nor a letter A to D")
    return Row(subject, question, tuple(choices), index, place)
