"""Reads Inspect logs of steered models, some samples at a time. Imports inspect_ai."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalLog,
    EvalSample,
    read_eval_log,
    read_eval_log_sample_summaries,
    read_eval_log_samples_by_id,
)

from model_adapters.errors import SteerError
from steer_tasks.analysis.arm_names import WORDING, ArmFacts
from steer_tasks.analysis.inspect_foreign import foreign_about, foreign_metadata
from steer_tasks.analysis.inspect_scores import foreign_scores, foreign_signals, judges_of, own_scores, own_signals
from steer_tasks.analysis.proof import doses, messages_of
from steer_tasks.analysis.record import Log, Record, Source
from steer_tasks.arms import NO_BEHAVIOR

TASKS = ("behavior", "coherence", "mmlu_171")
"""Our tasks; the logs of others are read where one of our providers answered."""

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
    about: Mapping[str, Any] | None = None
    """What stands for the samples' metadata in somebody else's task; None in ours."""


def read_inspect(path: Path) -> Log:
    """The records of one log, a sample each.

    A log that was cancelled or whose run was killed gives what it has; a remark says how much that is. A sample that
    failed is a record without scores, with the reason. Raises SteerError for a log that can't be read, and for one of
    somebody else's task on a model that isn't one of ours, or under several steerings.
    """
    try:
        header = read_eval_log(str(path), header_only=True)
    except Exception as problem:  # what a broken file raises depends on its format and on Inspect's release
        raise _unreadable(path, problem) from problem
    held: dict[str, str] = {}
    judges: dict[str, None] = {}
    remarked: dict[str, None] = {}
    identity: Mapping[str, Any] = {}
    records = []
    try:
        metadata, samples = _with_metadata(path, header, remarked)
        run = _run(path, header, metadata)
        for sample in samples:
            records.append(_record(run, sample, held, remarked))
            identity = identity or _report(sample).get("model") or {}
            judges |= dict.fromkeys(judges_of(sample))
    except SteerError:
        raise
    except Exception as problem:
        raise _unreadable(path, problem) from problem
    remarks = [*_unfinished(header, len(records)), *remarked]
    if len(judges) > 1:
        remarks.append(f"several judges scored it: {', '.join(judges)}")
    source = _source(run, header, metadata, next(iter(judges), None), remarks)
    return Log(replace(source, identity=identity), tuple(records))


def _is_ours(header: EvalLog, metadata: Mapping[str, Any]) -> bool:
    named = header.eval.task.rpartition("/")[2] in TASKS
    return named and {"arm", "questions", "protocol"} <= metadata.keys()


def _with_metadata(
    path: Path, header: EvalLog, remarked: dict[str, None]
) -> tuple[Mapping[str, Any], Iterator[EvalSample]]:
    """What the log says of its run, and its samples; of somebody else's task it is the first report that says it."""
    samples, metadata = _samples(path, header), header.eval.metadata or {}
    if _is_ours(header, metadata):
        return metadata, samples
    seen, steer = [], {}
    for sample in samples:
        seen.append(sample)
        if steer := _report(sample):
            break
    return foreign_metadata(path, header, steer, remarked), chain(seen, samples)


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
    about = foreign_about(arm) if not _is_ours(header, header.eval.metadata or {}) else None
    return _Run(str(path), spec.model, facts, arm, metadata["questions"].get("name"), protocol, about)


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


def _record(run: _Run, sample: EvalSample, held: dict[str, str], remarked: dict[str, None]) -> Record:
    """One sample as a record; `held` shares equal texts between records, `remarked` collects remarks."""
    about, steer = sample.metadata if run.about is None else run.about, _report(sample)
    steering, proof = about.get("steering") or {}, steer.get("proof") or {}
    missing: dict[str, str] = {}
    scores = (own_scores if run.about is None else foreign_scores)(sample, missing, remarked)
    signals, reasons = (own_signals if run.about is None else foreign_signals)(sample)
    identity = steer.get("model") or {}
    if run.about is not None and steer and steer["fingerprint"] != run.about["fingerprint"]:
        ran = f"{run.about['fingerprint']} and {steer['fingerprint']}"
        raise SteerError(f"{run.path} holds answers under the steerings {ran}; give each a run of its own")
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


def _report(sample: EvalSample) -> dict[str, Any]:
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
