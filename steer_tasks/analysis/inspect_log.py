"""Reads the Inspect logs of our tasks, some samples at a time. Imports inspect_ai."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalLog,
    EvalSample,
    read_eval_log,
    read_eval_log_sample_summaries,
    read_eval_log_samples_by_id,
)
from inspect_ai.scorer import Score

from model_adapters.errors import SteerError
from steer_tasks.analysis.arm_names import WORDING, ArmFacts
from steer_tasks.analysis.proof import doses, messages_of
from steer_tasks.analysis.record import Log, Record, Source
from steer_tasks.arms import NO_BEHAVIOR

TASKS = ("behavior", "coherence", "mmlu_171")
"""The tasks whose logs are read."""

SCORERS = {"accuracy": "accuracy", "answered": "answered", "behavior": "behavior_score", "coherence": "coherence_score"}
"""Scorers by the field of a record that they fill."""

_BATCH = 256
"""Samples held at once."""

_UNUSED = {"events", "events_data", "store", "attachments", "messages", "timelines", "model_usage", "role_usage"}
"""Parts of a sample that no record needs; the first is most of a log."""


@dataclass(frozen=True)
class _Run:
    """What a log's header says that its records share."""

    path: str
    model: str
    facts: ArmFacts
    arm: Mapping[str, Any]
    question_set: str | None
    protocol: str | None


def read_inspect(path: Path) -> Log:
    """The records of one log, a sample each. Raises SteerError for a log that can't be read or is of another task.

    A log that was cancelled or whose run was killed gives what it has; a remark says how much that is. A sample that
    failed is a record without scores, with the reason.
    """
    try:
        header = read_eval_log(str(path), header_only=True)
    except Exception as problem:  # what a broken file raises depends on its format and on Inspect's release
        raise _unreadable(path, problem) from problem
    task = header.eval.task.rpartition("/")[2]
    metadata = header.eval.metadata or {}
    if task not in TASKS or not {"arm", "questions", "protocol"} <= metadata.keys():
        raise SteerError(f"{path} is the log of the task {header.eval.task}; those of {', '.join(TASKS)} are read")
    run = _run(path, header, metadata)
    held: dict[str, str] = {}
    judges: dict[str, None] = {}
    rescored: dict[str, None] = {}
    identity: Mapping[str, Any] = {}
    records = []
    try:
        for sample in _samples(path, header):
            records.append(_record(run, sample, held, rescored))
            identity = identity or _report(sample).get("model") or {}
            judges |= dict.fromkeys(_judges(sample))
    except Exception as problem:
        raise _unreadable(path, problem) from problem
    remarks = [*_unfinished(header, len(records)), *rescored]
    if len(judges) > 1:
        remarks.append(f"several judges scored it: {', '.join(judges)}")
    source = _source(run, header, metadata, next(iter(judges), None), remarks)
    return Log(replace(source, identity=identity), tuple(records))


def _unreadable(path: Path, problem: Exception) -> SteerError:
    said = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
    return SteerError(f"{path} can't be read as an Inspect log ({said}); run `inspect log recover`, or leave it out")


def _run(path: Path, header: EvalLog, metadata: Mapping[str, Any]) -> _Run:
    arm, spec = metadata["arm"], header.eval
    frozen = arm.get("frozen") or {}
    given = spec.task_args or {}
    grid = metadata.get("grid") or {}
    parameters = dict(arm.get("parameters") or frozen.get("parameters") or {})
    # What a protocol sets says nothing about the arm.
    parameters = {key: value for key, value in parameters.items() if key not in WORDING or given.get(key) is not None}
    protocol = metadata["protocol"].get("name")
    facts = ArmFacts(
        method=arm.get("method") or frozen.get("method"),
        parameters=parameters,
        protocol=protocol,
        prompting=bool(given.get("prompting")),
        name=grid.get("arm"),
        swept=grid.get("swept"),
        file=arm.get("steering"),
    )
    return _Run(str(path), spec.model, facts, arm, metadata["questions"].get("name"), protocol)


def _source(run: _Run, header: EvalLog, metadata: Mapping[str, Any], judge: str | None, remarks: list[str]) -> Source:
    grid = metadata.get("grid") or {}
    versions = {"inspect-ai": (header.eval.packages or {}).get("inspect_ai"), **(metadata.get("versions") or {})}
    return Source(
        path=run.path,
        kind="inspect",
        model=header.eval.model,
        task=header.eval.task.rpartition("/")[2],
        questions=metadata["questions"],
        protocol=metadata["protocol"],
        judge=judge,
        rubrics=metadata.get("rubrics") or {},
        versions=versions,
        started=header.eval.created,
        remarks=tuple(remarks),
        names_arms=run.facts.name is not None,
        task_id=header.eval.task_id,
        grid=grid.get("name"),
        position=grid.get("position"),
    )


def _unfinished(header: EvalLog, read: int) -> list[str]:
    if header.status == "success":
        return []
    wanted = (header.eval.dataset.samples or 0) * (header.eval.config.epochs or 1)
    why = f" ({header.error.message.splitlines()[-1][:200]})" if header.error and header.error.message.strip() else ""
    return [f"the run ended as {header.status!r}{why}: {read} of {wanted} samples are in the log"]


def _samples(path: Path, header: EvalLog) -> Iterator[EvalSample]:
    """The samples one after the other; those of a JSON log all at once, as it can't be read in parts."""
    if path.suffix != ".eval":
        yield from read_eval_log(str(path)).samples or []
        return
    epochs, ids = header.eval.config.epochs or 1, header.eval.dataset.sample_ids
    keys = [(one, epoch) for one in ids or [] for epoch in range(1, epochs + 1)]
    if header.status != "success" or not keys:
        keys = [(one.id, one.epoch) for one in read_eval_log_sample_summaries(str(path))]
    for start in range(0, len(keys), _BATCH):
        yield from _batch(path, keys[start : start + _BATCH])


def _batch(path: Path, keys: list[tuple[int | str, int]]) -> list[EvalSample]:
    """The samples of these ids and epochs that are there; a killed run's journal may name one that isn't."""
    try:
        return read_eval_log_samples_by_id(str(path), keys, exclude_fields=_UNUSED)
    except IndexError:
        return [one for key in keys for one in _batch(path, [key])] if len(keys) > 1 else []


def _record(run: _Run, sample: EvalSample, held: dict[str, str], rescored: dict[str, None]) -> Record:
    """One sample as a record; `held` shares equal texts between records, `rescored` collects remarks."""
    about, steer = sample.metadata, _report(sample)
    steering, proof = about.get("steering") or {}, steer.get("proof") or {}
    missing: dict[str, str] = {}
    scores = {field: _score(sample, name, field, missing, rescored) for name, field in SCORERS.items()}
    signals, reasons = _signals(sample)
    identity = steer.get("model") or {}
    frozen = run.arm.get("frozen") or {}
    prompts = steering.get("prompts")
    return Record(
        source=run.path,
        run=steer.get("identity"),
        model=_model(run.model, identity),
        arm=run.facts.arm,
        method=run.facts.method,
        fingerprint=steer.get("fingerprint") or about.get("fingerprint"),
        source_fingerprint=steering.get("source_fingerprint"),
        coefficient=run.facts.number("coefficient"),
        dose=run.facts.number("dose"),
        draw=frozen.get("draw") or run.arm.get("draw") or 0,
        sample_index=sample.epoch - 1,
        behavior=_behavior(about),
        question=str(about.get("question_id", sample.id)),
        subject=about.get("subject") or None,
        messages=messages_of(steer.get("messages_sent"), held),
        completion=sample.output.completion if sample.output.choices else None,
        proof=proof.get("level"),
        measured_dose=doses([proof]),
        **scores,
        signals=signals,
        missing={**missing, **reasons},
        question_set=run.question_set,
        protocol=run.protocol,
        prompts=None if prompts is None else tuple(prompts),
        prompted_by=_prompted_by(run, prompts),
    )


def _report(sample: EvalSample) -> Mapping[str, Any]:
    """What our provider reported on the answer; empty where nothing was answered."""
    return (sample.output.metadata or {}).get("steer") or {}


def _model(named: str, identity: Mapping[str, Any]) -> str:
    """The model's own name, so that it is called alike in both harnesses; a stand-in keeps its provider's."""
    provider, _, name = named.partition("/")
    if provider.startswith("stand_in"):
        return named
    return str(identity.get("name") or (name if provider.endswith("_steered") else named))


def _behavior(about: Mapping[str, Any]) -> str | None:
    label = about.get("behavior")
    if label in (None, NO_BEHAVIOR):
        return None
    return str(about["behavior_text"] if str(label).startswith("free-") and "behavior_text" in about else label)


def _prompted_by(run: _Run, prompts: object) -> str | None:
    if not prompts:
        return None
    asks = run.facts.prompting or run.arm.get("prompting") is None
    return "arm" if asks else "protocol"


def _score(
    sample: EvalSample, name: str, field: str, missing: dict[str, str], rescored: dict[str, None]
) -> float | None:
    """A scorer's number, the latest where a sample was scored again; a reason in `missing` where there is none."""
    found = _named(sample, name)
    if len(found) > 1:
        rescored.setdefault(f"{name} was scored {len(found)} times; the last, {found[-1][0]}, counts")
    if not found:
        missing[field] = _why_unscored(sample, name)
        return None
    score = found[-1][1]
    value = score.value
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    missing[field] = _why_missing(score)
    return None


def _named(sample: EvalSample, name: str) -> list[tuple[str, Score]]:
    """The scores of one scorer, `coherence`, `coherence1` and so on, in the order in which they were made."""
    found = []
    for key, score in (sample.scores or {}).items():
        plain = key.rpartition("/")[2]
        rest = plain.removeprefix(name)
        if plain.startswith(name) and (not rest or rest.isdigit()):
            found.append((int(rest or 0), plain, score))
    return [(plain, score) for _, plain, score in sorted(found, key=lambda one: one[0])]


def _why_unscored(sample: EvalSample, name: str) -> str:
    if sample.error is not None:
        lines = sample.error.message.strip().splitlines() or ["error"]
        return f"the sample failed: {lines[-1][:200]}"
    if sample.limit is not None:
        return f"the sample was stopped by its limit ({sample.limit.type})"
    if name in ("behavior", "coherence"):
        return "no judge scored it"
    return "the task doesn't score it" if sample.scores else "the log was never scored"


def _why_missing(score: Score) -> str:
    about = score.metadata or {}
    parts = [str(part) for part in (score.reason, about.get("problem")) if part]
    return ": ".join(dict.fromkeys(parts)) or "the scorer gave no number"


def _signals(sample: EvalSample) -> tuple[dict[str, float | None], dict[str, str]]:
    found = _named(sample, "signals")
    if not found:
        return {}, {}
    score = found[-1][1]
    values = score.value if isinstance(score.value, dict) else {}
    given = (score.metadata or {}).get("reasons") or {}
    signals = {
        str(name): float(value) if isinstance(value, bool | int | float) and math.isfinite(value) else None
        for name, value in values.items()
    }
    return signals, {
        name: str(given.get(name, "the scorer gave no number")) for name, value in signals.items() if value is None
    }


def _judges(sample: EvalSample) -> list[str]:
    latest = [found[-1][1] for name in ("behavior", "coherence") if (found := _named(sample, name))]
    return [str(judge) for score in latest if (judge := (score.metadata or {}).get("judge"))]
