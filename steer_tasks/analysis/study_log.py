"""Reads the study's table as records."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from steer_tasks.analysis.record import Log, Message, Record, Source
from steer_tasks.analysis.study_table import PROMPTED, StudyTable, behavior_of, method_of, question_of, read_table

_TRUTHS: Mapping[str, float] = {
    **dict.fromkeys(("true", "1", "1.0", "correct", "yes"), 1.0),
    **dict.fromkeys(("false", "0", "0.0", "incorrect", "no"), 0.0),
}


def read_study(path: Path) -> Log:
    """The rows of one of the study's tables. Raises SteerError as `read_table` does.

    Its arms are called as the file spells them. Accuracy is the file's own `result`, by position; `steer report
    --rejoin` joins it by question.
    """
    table = read_table(path)
    remarks = [*table.remarks, "the messages are the caller's; what the service put before them isn't in the file"]
    if table.model == path.stem:
        remarks.append("the file doesn't name the model, so it is called by the file's name")
    source = Source(
        path=str(path),
        kind="study",
        model=table.model,
        task="study",
        protocol={"name": "study"},
        judge=table.judge,
        remarks=tuple(remarks),
    )
    slug = cache(behavior_of)
    return Log(source, tuple(_record(row, table, slug(row["query"])) for row in table.rows))


def _record(row: Mapping[str, str], table: StudyTable, behavior: str) -> Record:
    arm, system = row["steering_method"].strip(), row["system_prompt"]
    method = method_of(arm)
    prompted = method in PROMPTED
    missing: dict[str, str] = {}
    return Record(
        source=str(table.path),
        run=None,
        model=table.model,
        arm=arm,
        method=method,
        fingerprint=None,
        source_fingerprint=None,
        coefficient=None,
        dose=None,
        draw=0,
        sample_index=0,
        behavior=behavior,
        question=question_of(row["user_prompt"]),
        subject=row.get("subject") or None,
        messages=(*([Message("system", system)] if system else []), Message("user", row["user_prompt"])),
        completion=row["response"],
        proof=None,
        measured_dose=None,
        accuracy=_accuracy(row, missing),
        answered=_answered(row, missing),
        behavior_score=_score(row, "behavior", "behavior_score", missing),
        coherence_score=_score(row, "coherence", "coherence_score", missing),
        missing=missing,
        question_set="study",
        protocol="study",
        prompts=(system,) if prompted else None if method is None else (),
        prompted_by="arm" if prompted else None,
    )


def _score(row: Mapping[str, str], column: str, name: str, missing: dict[str, str]) -> float | None:
    cell = row[column].strip()
    if not cell or cell.casefold() == "nan":
        missing[name] = "the file has no score here"
        return None
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 1 <= value <= 5:
        missing[name] = f"the file has {cell[:40]!r} here, which is no score from 1 to 5"
        return None
    return value


def _accuracy(row: Mapping[str, str], missing: dict[str, str]) -> float | None:
    cell = row.get("result", "").strip()
    value = _TRUTHS.get(cell.casefold())
    if value is None:
        said = f"result is {cell[:40]!r} here, neither true nor false"
        missing["accuracy"] = said if "result" in row else "the file has no column result"
    return value


def _answered(row: Mapping[str, str], missing: dict[str, str]) -> float | None:
    if "predicted_answer" not in row:
        missing["answered"] = "the file has no column predicted_answer"
        return None
    return float(row["predicted_answer"].strip().upper() in list("ABCD"))
