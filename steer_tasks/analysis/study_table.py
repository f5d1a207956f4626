"""The table of the study's repository (arXiv:2602.04903): its columns, its rows as they stand, its names for things."""

import csv
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_adapters.behavior import Behavior, behavior_slugs, find_behavior
from model_adapters.errors import SteerError

COLUMNS = (
    *("query", "steering_method", "system_prompt", "user_prompt", "response"),
    *("analysis", "steering_time", "behavior", "coherence"),
)
ANSWER_COLUMNS = ("predicted_answer", "gold_answer", "result")
"""Columns of the tables with multiple-choice answers."""

METHODS: Mapping[str, str] = {
    "control": "control",
    "simpleprompting": "prompt",
    "autosteer": "auto_steer",
    "combinedapproach": "combined",
    "combined": "combined",
    "agentic": "feature_search",
}
"""The study's arms as methods of ours, by their names without case and spaces."""

PROMPTED = ("prompt", "combined")
"""Methods whose arms are meant to ask for the behavior in the system message."""


@dataclass(frozen=True)
class StudyTable:
    """Rows as texts by column, in the file's order, and what could not be read."""

    path: Path
    rows: tuple[Mapping[str, str], ...]
    remarks: tuple[str, ...]

    @property
    def model(self) -> str:
        """What the file's name says of the model; the name itself where it says nothing."""
        named = re.search(r"_var_(.+?)_dt_", self.path.name)
        return named[1] if named else self.path.stem

    @property
    def judge(self) -> str | None:
        """What the file's name says of the judge."""
        named = re.match(r"eval_(.+?)_var_", self.path.name)
        return named[1] if named else None

    @property
    def has_answers(self) -> bool:
        """Whether it has the columns of multiple-choice answers."""
        return bool(self.rows) and all(name in self.rows[0] for name in ANSWER_COLUMNS)


def missing_columns(header: list[str]) -> list[str]:
    """The study's columns that a header lacks."""
    return [name for name in COLUMNS if name not in header]


def read_table(path: Path) -> StudyTable:
    """The table in a CSV file. Raises SteerError for one that can't be read, has other columns, or has no rows.

    A row with too few or too many cells, a last row that breaks off, and what follows a row that is no CSV are left
    out; remarks say so.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as problem:
        raise SteerError(f"can't read {path} ({problem.strerror}); check the path") from problem
    except UnicodeDecodeError as problem:
        raise SteerError(f"{path} isn't text in UTF-8; save it as that") from problem
    with _any_length(text):
        lines = list(_lines(text))
    first = lines.pop(0) if lines else []
    header = first if isinstance(first, list) else []
    if lacking := missing_columns(header):
        raise SteerError(
            f"{path} is no table of records: it lacks the columns {', '.join(lacking)}; "
            "give the study's table, or records that `steer report --export` wrote"
        )
    rows: list[Mapping[str, str]] = []
    odd, remarks = 0, []
    for cells in lines:
        if isinstance(cells, str):
            remarks.append(cells)
        elif len(cells) != len(header):
            odd += 1
        else:
            rows.append(dict(zip(header, cells, strict=True)))
    if odd:
        remarks.insert(0, f"{odd} rows have another number of cells than the header; they are left out")
    if not rows:
        said = f" ({'; '.join(remarks)})" if remarks else ""
        raise SteerError(f"{path} has a header and no rows{said}; give a table with answers")
    return StudyTable(path, tuple(rows), tuple(remarks))


def _lines(text: str) -> Iterator[list[str] | str]:
    """Rows of cells; at the end, where the rest can't be read, a sentence that says from where."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    read = 0
    try:
        for cells in reader:
            read = reader.line_num
            if cells:
                yield cells
    except csv.Error as problem:
        if "end of data" in str(problem):
            yield "the file breaks off inside a row, which is left out"
        else:
            yield f"the row of line {read + 1} is no CSV ({problem}); it and all that follow are left out"


@contextmanager
def _any_length(text: str) -> Iterator[None]:
    """Let cells be as long as the text: the limit is the csv module's own for all of a process, and put back."""
    before = csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def method_of(arm: str) -> str | None:
    """Our name for the method of one of the study's arms; None for an arm of another name."""
    return METHODS.get(re.sub(r"[\s_-]+", "", arm).casefold())


def behavior_of(query: str) -> str:
    """The slug of one of the 14 behaviors; any other text as it is."""
    text = " ".join(query.split())
    known: dict[str, Behavior] = {slug: find_behavior(slug) for slug in behavior_slugs()}
    slugs = {behavior.text.casefold(): slug for slug, behavior in known.items()} | {slug: slug for slug in known}
    return slugs.get(text.casefold(), text)


def question_of(prompt: str) -> str:
    """A question's name made from its user prompt: equal for prompts that differ in runs of white space only."""
    return hashlib.sha256(" ".join(prompt.split()).encode(errors="surrogatepass")).hexdigest()[:16]
