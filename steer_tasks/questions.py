"""The questions a steered model is asked: which of MMLU's, from where, each checked by a digest.

MMLU is by Hendrycks et al. 2021 (arXiv:2009.03300). Its development split has five rows for each of 57 subjects.
`mmlu_171` is the first three rows of each, the questions of arXiv:2602.04903; `mmlu_114` is the other two, for
calibration. No text is kept in this package. Light to import: no torch, no harness, no pyarrow.

How many lm-eval's own copy gives where there is neither a file nor the hub, counted over its release 0.4.13 by digest
(white space normalised; `tests/test_question_sources.py` counts again):

- of the 171, 168: 160 as published, 1 with a space more, 7 with edited words; missing are college_chemistry/1,
  college_chemistry/2 (its copy has a fifth choice and another answer) and human_aging/0;
- of the 114, 109: 105 as published, 4 with edited words; missing are abstract_algebra/4 (its copy carries a stray
  sentence), formal_logic/3, high_school_computer_science/4 (another answer), machine_learning/4 (a technical term
  replaced) and professional_accounting/3 (another year).
"""

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_adapters.errors import SteerError
from steer_tasks.question_digests import Known, committed, joint_digest, row_digest
from steer_tasks.question_rows import LETTERS, Row, read_rows
from steer_tasks.question_sources import Unavailable, hub_rows, lm_eval_rows

VARIABLE = "STEER_TASKS_MMLU"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """One multiple-choice question, its texts exactly as the source has them.

    `id` is `subject/index`, `index` the row within the subject in dataset order (0 to 4), `answer` the index of the
    right one of the four `choices`.
    """

    id: str
    subject: str
    index: int
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def letter(self) -> str:
        """The right answer's letter, A to D."""
        return LETTERS[self.answer]


@dataclass(frozen=True)
class QuestionSet:
    """Questions in dataset order, where they came from, and which of the set that source lacks.

    `digest` (16 hexadecimal digits) covers the questions that are here: equal for the same questions whatever their
    white space, order or source; different when one is missing or reworded.
    """

    name: str
    questions: tuple[Question, ...]
    source: str
    digest: str
    missing: tuple[str, ...]

    def provenance(self) -> dict[str, str | int | list[str]]:
        """What every result records of its questions, ready for JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "count": len(self.questions),
            "digest": self.digest,
            "missing": list(self.missing),
        }


def load_questions(name: str, source: str | Path | None = None) -> QuestionSet:
    """The set `mmlu_171` or `mmlu_114`, each question verified by digest.

    Sources in order: `source`, a file or folder (JSON rows, the hub's parquet, or the original CSV layout); the same
    in the environment variable STEER_TASKS_MMLU; the hub or its local cache; lm-eval's own copy, which lacks some:
    `missing` names them and one logged warning says so. A source that was given, or a hub's file, is taken whole or
    refused: SteerError when it can't be read, lacks a question of the set, or has one altered. Its order and further
    rows (other splits) don't matter.
    """
    wanted = committed().ids(name)
    given = source or os.environ.get(VARIABLE)
    if given:
        rows, layout = read_rows(Path(given).expanduser())
        return _select(name, wanted, rows, f"{given} ({layout})", whole=True)
    try:
        rows, described = hub_rows()
        return _select(name, wanted, rows, described, whole=True)
    except Unavailable as error:
        reason = str(error)
    return _from_lm_eval(name, wanted, reason)


def _from_lm_eval(name: str, wanted: Sequence[str], reason: str) -> QuestionSet:
    """What lm-eval's copy gives of a set, said in one line; `reason` is why the hub wasn't used."""
    remedy = f"give all with {VARIABLE}=<file or folder>"
    try:
        rows, described = lm_eval_rows()
    except Unavailable as error:
        raise SteerError(f"{name}: no questions ({reason}; {error}); {remedy}") from error
    found = _select(name, wanted, rows, described, whole=False)
    if not found.questions:
        raise SteerError(f"{name}: none of the questions is in {described} ({reason}); {remedy}")
    lacking = f"missing: {', '.join(found.missing)}" if found.missing else "none missing"
    _log.warning(
        "%s: %d of %d questions, from %s (%s); %s; %s",
        *(name, len(found.questions), len(wanted), found.source, reason, lacking, remedy),
    )
    return found


def _select(name: str, wanted: Sequence[str], rows: Sequence[Row], source: str, whole: bool) -> QuestionSet:
    """The wanted questions among `rows`; with `whole`, a SteerError that names those which are absent or altered."""
    table = committed()
    found: dict[str, tuple[Row, Known, str]] = {}
    strangers: list[Row] = []
    for row, position in zip(rows, _positions(rows), strict=True):
        digest = row_digest(row)
        known = table.known.get(digest)
        if known is None:
            strangers.append(row)
            continue
        # A repeated question is told apart by its place, so that an altered one isn't hidden by its twin.
        placed = f"{row.subject}/{position}"
        for id_ in (placed,) if placed in known.ids else known.ids:
            if id_ not in found or known.kind == "original":
                found[id_] = (row, known, digest)
    missing = tuple(id_ for id_ in wanted if id_ not in found)
    if missing and whole:
        raise SteerError(_refusal(name, missing, strangers, source))
    present = [id_ for id_ in wanted if id_ in found]
    reworded = sum(found[id_][1].kind == "wording" for id_ in present)
    digests = [(id_, found[id_][2] if found[id_][1].kind == "wording" else table.originals[id_]) for id_ in present]
    return QuestionSet(
        name=name,
        questions=tuple(_question(id_, found[id_][0]) for id_ in present),
        source=f"{source}, {reworded} of them reworded" if reworded else source,
        digest=joint_digest(digests),
        missing=missing,
    )


def _positions(rows: Sequence[Row]) -> list[int | None]:
    """Each row's place within its subject, from 0; None in a subject that hasn't the five rows of the split."""
    counts = Counter(row.subject for row in rows)
    seen: Counter[str] = Counter()
    positions: list[int | None] = []
    for row in rows:
        positions.append(seen[row.subject] if counts[row.subject] == 5 else None)
        seen[row.subject] += 1
    return positions


def _question(id_: str, row: Row) -> Question:
    subject, _, index = id_.rpartition("/")
    return Question(id_, subject, int(index), row.question, row.choices, row.answer)


def _refusal(name: str, missing: Sequence[str], strangers: Sequence[Row], source: str) -> str:
    """The line that says which questions a source lacks or has altered, at most three, and what to do."""
    by_subject = defaultdict(list)
    for row in strangers:
        by_subject[row.subject].append(row)
    said = []
    for id_ in missing[:3]:
        near = by_subject[id_.rpartition("/")[0]]
        altered = [row for row in near if _is_answer_altered(row, id_)]
        if altered:
            said.append(
                f"{id_} ({altered[0].place}) has the answer {LETTERS[altered[0].answer]}, not the published one"
            )
        # More strangers than a development split has rows are another split, not altered rows.
        elif near and len(near) <= 5:
            places = ", ".join(row.place for row in near)
            said.append(f"{id_} isn't there as published ({places}: altered)")
        else:
            said.append(f"{id_} isn't there")
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return (
        f"{name} from {source}: {'; '.join(said)}{more}. "
        f"Restore the rows from cais/mmlu (config all, split dev), or choose another source with {VARIABLE}"
    )


def _is_answer_altered(row: Row, id_: str) -> bool:
    """Whether a row is the question `id_` but for its answer."""
    others = (committed().known.get(row_digest(replace(row, answer=index))) for index in range(len(LETTERS)))
    return any(known is not None and id_ in known.ids for known in others)
