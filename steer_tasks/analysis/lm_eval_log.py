"""Reads what lm-eval writes with `--output_path` and `--log_samples`, and our proof file beside it. No host here."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import FIELD
from steer_tasks.analysis.arm_names import WORDING, ArmFacts, changed
from steer_tasks.analysis.lm_eval_proofs import Proofs, read_proofs
from steer_tasks.analysis.lm_eval_scores import scores_of, signals_of
from steer_tasks.analysis.proof import doses, messages_of
from steer_tasks.analysis.record import Log, Record, Source
from steer_tasks.arms import NO_BEHAVIOR


@dataclass(frozen=True)
class _Run:
    """What a results file says that its tasks share."""

    path: Path
    results: Mapping[str, Any]
    steer: Mapping[str, Any]
    model: str
    facts: ArmFacts
    behavior: str | None
    proof_path: Path | None


@dataclass(frozen=True)
class _Task:
    """One task of a run: its samples, and what its configuration says."""

    name: str
    config: Mapping[str, Any]
    path: Path

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self.config.get("metadata") or {}

    @property
    def question_set(self) -> str:
        """The questions' name, with the form where it isn't the chain of thought."""
        asked = self.config.get("dataset_kwargs") or {}
        name = (self.metadata.get("questions") or {}).get("name")
        if name is None:
            return self.name
        form = asked.get("form", "chain_of_thought")
        return str(name) if form == "chain_of_thought" else f"{name} {form}"


def read_lm_eval(path: Path) -> tuple[Log, ...]:
    """The records of a results file, a log for each of its tasks, from the samples files beside it.

    Answers are joined with their lines in the proof file by task, document, sample and prompt. What is missing there,
    or in the samples, is missing in the records with a reason. Raises SteerError for a file that can't be read.
    """
    results = _json(path)
    if not isinstance(results.get("configs"), dict) or not isinstance(results.get("config"), dict):
        raise SteerError(f"{path} has results and no configs, so it is none of lm-eval's; leave it out")
    run = _run(path, results)
    tasks = [_Task(name, config, _samples_path(path, name)) for name, config in results["configs"].items()]
    held: dict[str, str] = {}
    wanted = {task.name for task in tasks if task.path.is_file()}
    proofs = read_proofs(run.proof_path, run.steer.get("run"), wanted)
    return tuple(_log(run, task, proofs, held) for task in tasks)


def _json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise SteerError(f"{path} can't be read ({problem.strerror}); check it") from problem
    except (ValueError, RecursionError) as problem:
        raise SteerError(f"{path} isn't whole JSON ({problem}); a run that was killed leaves such a file") from problem
    if not isinstance(held, dict):
        raise SteerError(f"{path} holds {type(held).__name__} where lm-eval's results are an object")
    return held


def _samples_path(results: Path, task: str) -> Path:
    """The samples file of a task: of the same date, in the same folder."""
    date = results.stem.partition("_")[2] if results.name.startswith("results_") else results.stem.rpartition("_")[2]
    return results.parent / f"samples_{task}_{date}.jsonl"


def _run(path: Path, results: Mapping[str, Any]) -> _Run:
    config = results["config"]
    steer = config.get("steer") or {}
    found = steer.get("provenance") or {}
    parameters = dict(found.get("parameters") or {})
    parameters = {key: value for key, value in parameters.items() if key not in WORDING} | {
        key: value for key, value in changed(found.get("method"), parameters).items() if key in WORDING
    }
    named = (steer.get("model") or {}).get("name") or results.get("model_name") or config.get("model")
    arguments = config.get("model_args")
    given = arguments if isinstance(arguments, dict) else {}
    unsteered = f"unsteered {config.get('model')}"
    file = given.get("steering") or (unsteered if not steer else None)
    # The control's provenance may be that of a stored file; an empty steering is the control whatever it says.
    method = found.get("method") or ("control" if steer and not steer.get("interventions") else None)
    facts = ArmFacts(method=method, parameters=parameters, file=str(file) if file else None)
    proof = Path(steer["proof"]) if steer.get("proof") else None
    # A folder that was moved may have its proofs with it.
    if proof is not None and not proof.is_file() and (beside := path.parent / proof.name).is_file():
        proof = beside
    return _Run(path, results, steer, str(named), facts, _behavior(found, given), proof)


def _behavior(found: Mapping[str, Any], given: Mapping[str, Any]) -> str | None:
    """The behavior of a run: its steering's; for the control the one that it was named with, if any."""
    from steer_tasks.analysis.study_table import behavior_of

    held = found.get("behavior")
    if isinstance(held, dict) and held.get("slug") not in (None, NO_BEHAVIOR):
        return str(held["text"] if str(held["slug"]).startswith("free-") else held["slug"])
    named = given.get("behavior")
    return behavior_of(str(named)) if named else None


def _log(run: _Run, task: _Task, proofs: Proofs, held: dict[str, str]) -> Log:
    remarks = [] if run.steer else ["the model isn't one of ours, so nothing says what was steered"]
    if proofs.problem and run.steer:
        remarks.append(proofs.problem)
    records: list[Record] = []
    if task.path.is_file():
        chosen = None
        for sample in _lines(task.path, remarks):
            chosen = chosen or sample.get("filter")
            # A task may read its answers through several filters; the first is the one that it shows first.
            if sample.get("filter") == chosen:
                records += _records(run, task, proofs, sample, held)
    else:
        remarks.append(f"it has no samples file {task.path.name}; run lm-eval with --log_samples")
    unproved = sum(one.proof is None for one in records)
    if run.steer and not proofs.problem and unproved:
        remarks.append(f"{unproved} answers have no line in the proof file {run.proof_path}")
    return Log(_source(run, task, remarks), tuple(records))


def _source(run: _Run, task: _Task, remarks: Sequence[str]) -> Source:
    judged = task.metadata.get("judged") or {}
    date = run.results.get("date")
    versions = {
        **((run.steer.get("provenance") or {}).get("versions") or {}),
        "lm-eval": run.results.get("lm_eval_version"),
        "transformers": run.results.get("transformers_version"),
    }
    return Source(
        path=str(task.path if task.path.is_file() else run.path),
        kind="lm_eval",
        model=run.model,
        task=task.name,
        questions=task.metadata.get("questions") or {},
        protocol=task.metadata.get("protocol") or {},
        judge=judged.get("judge"),
        rubrics=(judged.get("rubrics") or {}) if judged.get("judge") else {},
        versions=versions,
        started=datetime.fromtimestamp(date, UTC).isoformat() if isinstance(date, int | float) else None,
        remarks=tuple(remarks),
        identity=run.steer.get("model") or {},
    )


def _lines(path: Path, remarks: list[str]) -> Iterator[dict[str, Any]]:
    """The samples of a file; lines that are not whole are counted in `remarks`."""
    broken = 0
    with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in file:
            try:
                sample = json.loads(line)
            except (ValueError, RecursionError):
                broken += bool(line.strip())
                continue
            if isinstance(sample, dict) and {"doc_id", "doc", "arguments", "resps"} <= sample.keys():
                yield sample
            else:
                broken += 1
    if broken:
        remarks.append(f"{broken} lines of the samples file are broken or of another kind; they are left out")


def _records(
    run: _Run, task: _Task, proofs: Proofs, sample: Mapping[str, Any], held: dict[str, str]
) -> Iterator[Record]:
    """A record for each answer to one document: repeats of a generation are one each."""
    document = sample["doc"] if isinstance(sample["doc"], dict) else {}
    generated = not isinstance(sample["resps"][0][0], list) if sample["resps"] and sample["resps"][0] else True
    repeats = len(sample["resps"][0]) if generated and sample["resps"] else 1
    for index in range(repeats):
        yield _record(run, task, proofs, sample, document, index, generated, held)


def _record(
    run: _Run,
    task: _Task,
    proofs: Proofs,
    sample: Mapping[str, Any],
    document: Mapping[str, Any],
    index: int,
    generated: bool,
    held: dict[str, str],
) -> Record:
    ours = FIELD in document
    lines = proofs.of(task.name, sample, index)
    text = str(sample["resps"][0][index]) if generated else None
    missing: dict[str, str] = {}
    scores = scores_of(sample, document, index, text, ours, missing)
    signals = signals_of(sample, index, generated, lines, proofs, missing)
    protocol = (task.metadata.get("protocol") or {}).get("name")
    prompts = [one.get("text", "") for one in run.steer.get("interventions") or () if one.get("kind") == "SystemPrompt"]
    arm = ArmFacts(run.facts.method, run.facts.parameters, protocol, file=run.facts.file)
    source = run.steer.get("provenance") or {}
    return Record(
        source=str(task.path),
        run=run.steer.get("run"),
        model=run.model,
        arm=arm.arm,
        method=run.facts.method,
        fingerprint=run.steer.get("fingerprint"),
        source_fingerprint=source.get("source_fingerprint"),
        coefficient=arm.number("coefficient"),
        dose=arm.number("dose"),
        draw=source.get("draw") or 0,
        sample_index=index,
        behavior=run.behavior,
        question=str(document["id"]) if ours else f"{task.name}/{str(sample.get('doc_hash', sample['doc_id']))[:16]}",
        subject=document.get("subject") if ours else None,
        messages=messages_of(lines[0].get("messages_sent"), held) if lines else None,
        completion=text,
        proof=lines[0]["proof"]["level"] if lines else None,
        measured_dose=doses(line["proof"] for line in lines),
        **scores,
        signals=signals,
        missing=missing,
        question_set=task.question_set,
        protocol=protocol,
        prompts=tuple(prompts) if run.steer else None,
        prompted_by="arm" if prompts else None,
    )
