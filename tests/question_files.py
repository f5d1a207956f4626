"""Files of questions as users have them, written by tests, and how a refusal of them reads."""

import csv
import json
from pathlib import Path

import pytest

from model_adapters.errors import SteerError
from steer_tasks.question_rows import Row
from steer_tasks.questions import load_questions


def as_dict(row: Row) -> dict:
    return {"subject": row.subject, "question": row.question, "choices": list(row.choices), "answer": row.answer}


def refusal(*args) -> str:
    """The one line with which the questions are refused."""
    with pytest.raises(SteerError) as caught:
        load_questions(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_json(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps(rows), "utf-8")
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_csv(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    for row in rows:
        with (folder / f"{row['subject']}_dev.csv").open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow([row["question"], *row["choices"], "ABCD"[row["answer"]]])
    return folder
