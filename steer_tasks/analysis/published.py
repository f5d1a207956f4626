"""The paper's eight rows beside ours: where that is allowed, and what differs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.record import Record, Source
from steer_tasks.analysis.wording import listed

QUESTIONS = "mmlu_171"
STUDY = "study"
"""The question set of records of the study's tables, whose questions are known by their prompts alone."""
STUDY_COUNT = 171
SCALE = (1.0, 5.0)

_FILE = Path(__file__).parent / "paper_2602_04903.yaml"


@dataclass(frozen=True)
class PublishedRow:
    """One arm of one model, as published."""

    model: str
    arm: str
    method: str
    accuracy: float
    behavior_score: float
    coherence_score: float
    answers: int
    hits: int


@dataclass(frozen=True)
class Paper:
    """What was published, and what a reader must know of it."""

    source: str
    judge: str
    rows: tuple[PublishedRow, ...]
    caveats: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One thing that isn't alike: how theirs is, how ours is."""

    what: str
    theirs: str
    ours: str


@cache
def paper() -> Paper:
    """The published numbers, from the package's data file."""
    held: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    rows = tuple(PublishedRow(**row) for row in held["rows"])
    return Paper(held["source"], held["judge"], rows, tuple(held["caveats"]))


def refusals(sources: Sequence[Source], records: Sequence[Record]) -> tuple[str, ...]:
    """Why the published rows can't stand beside these records; empty where they can."""
    found = []
    if (asked := _asked(sources, records)) != [QUESTIONS]:
        found.append(f"the questions are {listed(asked) or 'not named'}, the study's are {QUESTIONS}")
    forms = {source.task for source in sources if source.task and source.task.endswith(("_mc", "_cloze"))}
    if forms:
        found.append(f"{listed(sorted(forms))} is scored by likelihood, the study's answers are written out")
    low, high = SCALE
    for field in ("behavior_score", "coherence_score"):
        values = [value for record in records if (value := getattr(record, field)) is not None]
        if any(not low <= value <= high for value in values):
            found.append(f"{field} runs from {min(values):g} to {max(values):g}, the study's from 1 to 5")
    return tuple(found)


def _asked(sources: Sequence[Source], records: Sequence[Record]) -> list[str]:
    """Names of the questions, as the records have them, else as their logs do."""
    names = {record.question_set for record in records}
    if None in names:
        names |= {_named(source) for source in sources}
    if STUDY in names:
        names |= {_study_questions(records)}
    return sorted(name for name in names - {None, STUDY} if name is not None)


def _named(source: Source) -> str:
    name = source.questions.get("name")
    return str(name) if name else f"those of {source.task or source.path}, without a name"


def _study_questions(records: Sequence[Record]) -> str:
    """What one of the study's tables asks: the 171 questions, if each prompt is one of them and none is wanting."""
    from steer_tasks.analysis.rejoin import question_in

    prompts = {record.messages[-1].content for record in records if record.question_set == STUDY and record.messages}
    known = {question_in(prompt) for prompt in prompts}
    return QUESTIONS if None not in known and len(known) == STUDY_COUNT else f"others ({len(prompts)} prompts)"


def differences(findings: Findings, sources: Sequence[Source], records: Sequence[Record]) -> tuple[Difference, ...]:
    """What differs in protocol between the study and these records."""
    protocols = sorted({str(source.protocol.get("name") or "not recorded") for source in sources})
    wordings = sorted({str(source.protocol.get("wording") or "not recorded") for source in sources})
    as_run = protocols == ["as_run"]
    judges = sorted({source.judge or "none" for source in sources})
    draws = sorted({len({record.draw for record in records if record.arm == arm}) for arm in findings.arms})
    leaks = [leak.arm for leak in findings.leaks]
    theirs = paper()
    return (
        Difference("model", listed(list(dict.fromkeys(row.model for row in theirs.rows))), findings.model),
        Difference("questions", "171", _counts(findings, sources)),
        Difference("behaviors", "14", str(len(findings.behaviors) or "none")),
        Difference("draws of a steering", "1", " to ".join(dict.fromkeys(str(one) for one in (draws[0], draws[-1])))),
        Difference("wording", "its own", listed(wordings)),
        Difference("protocol", "as_run", listed(protocols)),
        Difference("sampling", "temperature 0.6, top-p 0.9, seed 42", "the same" if as_run else _sampling(protocols)),
        Difference("prompt leaked into Auto Steer", "yes", f"yes: {listed(leaks)}" if leaks else "no"),
        Difference("matching of gold answers", "by place, six cells shifted", "by question"),
        Difference("judge", f"{theirs.judge}, temperature 0", listed(judges)),
    )


def _counts(findings: Findings, sources: Sequence[Source]) -> str:
    digests = sorted({str(one) for source in sources if (one := source.questions.get("digest"))})
    said = f", digest {listed([digest[:16] for digest in digests])}" if digests else ""
    return f"{findings.questions}{said}"


def _sampling(protocols: Sequence[str]) -> str:
    return "greedy" if list(protocols) == ["isolated"] else "by the protocol"
