"""The demo's answers as records, so that `steer report` reads what `make demo` measured."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from judges.signals import text_signals
from model_adapters.backend import Completion, Likelihood, Messages, Proof, with_system_prompts
from model_adapters.behavior import Behavior
from model_adapters.identity import ModelIdentity
from model_adapters.steering import Steering
from steer_tasks.analysis.export import export_records
from steer_tasks.analysis.proof import doses
from steer_tasks.analysis.record import Log, Message, Record, Source
from steer_tasks.answers import is_answered, is_right, parse_answer
from steer_tasks.protocol import Protocol
from steer_tasks.questions import Question, QuestionSet

FOLDER = Path("logs") / "demo"
"""Where the records go, below the folder in which the demo is run."""

UNJUDGED = {"behavior_score": "the demo asks no judge", "coherence_score": "the demo asks no judge"}
"""Why a record has no such scores."""


def written_record(arm: str, steering: Steering, question: Question, messages: Messages, answer: Completion) -> Record:
    """An answer in words."""
    letter = parse_answer(answer.text)
    truncated = answer.stop_reason in ("max_tokens", "context_length")
    found = text_signals(answer.text, prompt=messages[-1].content, truncated=truncated, tagged=True)
    signals = {name: value for name, value in found.as_dict().items() if name != "reference_nll"}
    return _record(
        *(arm, steering, question, messages, [answer.proof]),
        completion=answer.text,
        accuracy=float(is_right(letter, question.letter)),
        answered=float(is_answered(letter)),
        signals=signals,
        missing={**UNJUDGED, **{name: why for name, why in found.reasons.items() if name in signals}},
        question_set="mmlu_171",
    )


def cloze_record(
    arm: str,
    steering: Steering,
    question: Question,
    messages: Messages,
    scored: Sequence[Likelihood],
    options: Mapping[str, float],
) -> Record:
    """A question answered by the likelihood of its options' texts."""
    return _record(
        *(arm, steering, question, messages, [one.proof for one in scored]),
        completion=None,
        accuracy=options["acc"],
        answered=None,
        signals={"margin": options["margin"]},
        missing={**UNJUDGED, "answered": "options are scored, nothing is written"},
        question_set="mmlu_171 cloze",
    )


def _record(
    arm: str,
    steering: Steering,
    question: Question,
    messages: Messages,
    proofs: Sequence[Proof],
    *,
    completion: str | None,
    accuracy: float,
    answered: float | None,
    signals: Mapping[str, float | None],
    missing: Mapping[str, str],
    question_set: str,
) -> Record:
    found: Mapping[str, Any] = steering.provenance
    sizes = found.get("parameters") or {}
    prompts = tuple(one.text for one in steering.system_prompts)
    return Record(
        source=str(FOLDER),
        run=proofs[0].identity,
        model="embedded",
        arm=arm,
        method=found.get("method", "control"),
        fingerprint=steering.fingerprint,
        source_fingerprint=found.get("source_fingerprint"),
        coefficient=sizes.get("coefficient"),
        dose=sizes.get("dose"),
        draw=found.get("draw", 0),
        sample_index=0,
        behavior=(found.get("behavior") or {}).get("slug"),
        question=question.id,
        subject=question.subject,
        messages=tuple(Message(one.role, one.content) for one in with_system_prompts(messages, steering)),
        completion=completion,
        proof=proofs[0].level,
        measured_dose=doses(proof.as_dict() for proof in proofs),
        accuracy=accuracy,
        answered=answered,
        behavior_score=None,
        coherence_score=None,
        signals=signals,
        missing=missing,
        question_set=question_set,
        protocol="isolated",
        prompts=prompts,
        prompted_by="arm" if prompts else None,
    )


def write_records(
    records: Sequence[Record], asked: QuestionSet, protocol: Protocol, behavior: Behavior, model: ModelIdentity
) -> Path:
    """Write the records, with where they come from, below `logs/demo`; returns the file."""
    source = Source(
        path=str(FOLDER),
        kind="records",
        model=f"{model.name} {model.dtype or ''}".strip(),
        task=f"make demo, behavior {behavior.slug}",
        questions=asked.provenance(),
        protocol=protocol.provenance(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        identity=model.as_dict(),
        names_arms=True,
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "records.parquet"
    export_records([Log(source, tuple(records))], path)
    return path
