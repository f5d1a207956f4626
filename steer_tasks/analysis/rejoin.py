"""The study's multiple-choice tables scored again: gold answers joined by question instead of by place.

The study's code matched gold letters to answers by their place among the rows that survived, so that a lost row moves
the key of every row after it. Here a question is known from its prompt, by the digests of the 171 questions; no
question's text is needed.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from model_adapters.errors import SteerError
from steer_tasks.analysis.study_table import ANSWER_COLUMNS, StudyTable, behavior_of, missing_columns, read_table
from steer_tasks.answers import is_right
from steer_tasks.question_digests import committed, row_digest
from steer_tasks.question_rows import LETTERS, Row

QUESTIONS = "mmlu_171"
TRUE = ("true", "1", "1.0")

_OPTIONS = (
    # The first reading takes the last block of options, the second the first.
    re.compile(r"(.*)\nA\. (.*?)\nB\. (.*?)\nC\. (.*?)\nD\. (.*)", re.DOTALL),
    re.compile(r"(.*?)\nA\. (.*?)\nB\. (.*?)\nC\. (.*?)\nD\. (.*)", re.DOTALL),
)


@dataclass(frozen=True)
class Rejoined:
    """Accuracies of one arm on one behavior: as the file has them, by place, and by question.

    `unknown` rows have a prompt of no known question and count in neither `hits_by_question` nor `known`. `lost` are
    the questions without a row. `wrong_keys` counts the known rows whose gold letter is not their question's;
    `first_wrong` is the first such row, from 1, among those of the arm and behavior.
    """

    model: str
    arm: str
    behavior: str | None
    rows: int
    unknown: int
    hits_by_place: int
    hits_by_question: int
    wrong_keys: int
    first_wrong: int | None
    lost: tuple[str, ...]

    @property
    def known(self) -> int:
        """Rows whose question is known."""
        return self.rows - self.unknown

    @property
    def by_place(self) -> float:
        """Accuracy as the file has it."""
        return self.hits_by_place / self.rows

    @property
    def by_question(self) -> float | None:
        """Accuracy with each answer compared with its own question's; None where no question is known."""
        return self.hits_by_question / self.known if self.known else None


def rejoin(paths: Sequence[str | Path]) -> tuple[Rejoined, ...]:
    """Both accuracies of every arm and behavior of the study's tables in files and folders, in the order of the rows.

    Files of other kinds are passed over. Raises SteerError where no file has the columns of answers.
    """
    tables = list(_tables(paths))
    if not tables:
        raise SteerError(
            f"no table among {', '.join(map(str, paths))} has the columns {', '.join(ANSWER_COLUMNS)}; "
            "give the study's tables of multiple-choice answers"
        )
    return tuple(cell for table in tables for cell in _cells(table))


def by_arm(cells: Iterable[Rejoined]) -> tuple[Rejoined, ...]:
    """The arms' sums over their behaviors, `first_wrong` left out."""
    sums: dict[tuple[str, str], Rejoined] = {}
    for cell in cells:
        key = (cell.model, cell.arm)
        held = sums.get(key)
        if held is None:
            sums[key] = replace(cell, behavior=None, first_wrong=None)
            continue
        sums[key] = replace(
            held,
            rows=held.rows + cell.rows,
            unknown=held.unknown + cell.unknown,
            hits_by_place=held.hits_by_place + cell.hits_by_place,
            hits_by_question=held.hits_by_question + cell.hits_by_question,
            wrong_keys=held.wrong_keys + cell.wrong_keys,
            lost=held.lost + cell.lost,
        )
    return tuple(sums.values())


def _tables(paths: Sequence[str | Path]) -> Iterator[StudyTable]:
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.csv")) if path.is_dir() else [path]:
            if file.suffix == ".csv" and file.is_file() and not missing_columns(_header(file)):
                table = read_table(file)
                if table.has_answers:
                    yield table


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        return [name.strip('"') for name in opened.readline().strip().split(",")]


def _cells(table: StudyTable) -> Iterator[Rejoined]:
    cells: defaultdict[tuple[str, str], list[Mapping[str, str]]] = defaultdict(list)
    for row in table.rows:
        cells[row["steering_method"].strip(), row["query"]].append(row)
    for (arm, query), rows in cells.items():
        yield _cell(table.model, arm, behavior_of(query), rows)


def _cell(model: str, arm: str, behavior: str, rows: Sequence[Mapping[str, str]]) -> Rejoined:
    found = [question_in(row["user_prompt"]) for row in rows]
    pairs = [(row, asked) for row, asked in zip(rows, found, strict=True) if asked is not None]
    wrong = [
        place
        for place, (row, asked) in enumerate(zip(rows, found, strict=True), 1)
        if asked is not None and row["gold_answer"].strip().upper()[:1] != asked[1]
    ]
    seen = {asked[0] for _, asked in pairs}
    return Rejoined(
        model=model,
        arm=arm,
        behavior=behavior,
        rows=len(rows),
        unknown=len(rows) - len(pairs),
        hits_by_place=sum(row["result"].strip().casefold() in TRUE for row in rows),
        hits_by_question=sum(is_right(row["predicted_answer"].strip()[:1].upper(), asked[1]) for row, asked in pairs),
        wrong_keys=len(wrong),
        first_wrong=wrong[0] if wrong else None,
        lost=tuple(one for one in committed().ids(QUESTIONS) if one not in seen),
    )


@cache
def question_in(prompt: str) -> tuple[str, str] | None:
    """Id and right letter of the question that a user prompt asks, by digest; None for no question that is known.

    What stands around question and options (an instruction after a blank line) doesn't matter.
    """
    table = committed()
    subjects = sorted({one.rpartition("/")[0] for one in table.originals})
    for question, choices in _readings(prompt.strip()):
        for subject in subjects:
            for answer in range(len(LETTERS)):
                known = table.known.get(row_digest(Row(subject, question, choices, answer, "")))
                if known is not None:
                    return known.ids[0], LETTERS[answer]
    return None


def _readings(prompt: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Ways to read a prompt as a question and four options; the last option ends at any blank line or at the end."""
    for pattern in _OPTIONS:
        if found := pattern.match(prompt):
            question, *choices, last = found.groups()
            ends = [*(one.start() for one in re.finditer(r"\n\s*\n", last)), len(last)]
            for end in ends:
                yield question, (*choices, last[:end])
