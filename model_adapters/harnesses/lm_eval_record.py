"""What a run leaves beside lm-eval's own files: the proof file, and the mark on a response cache. No torch here."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from model_adapters.backend import Messages, Proof
from model_adapters.cache import cache_folder
from model_adapters.errors import SteerError
from model_adapters.identity import ModelIdentity
from model_adapters.steering import VECTORS, Steering
from model_adapters.values import ByContent

NO_LIKELIHOOD = "only hook_steered scores its answers under the unsteered model"

MARK = "__steer_tasks_run__"
"""The entry of a response cache that says whose answers it holds; lm-eval's own keys are SHA-256 digests."""


class ProofFile:
    """One JSON line per answered request, appended: what was sent, what came back, and its proof."""

    def __init__(self, run: str, path: str | None = None) -> None:
        self.run = run
        self.path = Path(path).expanduser() if path else cache_folder("proofs") / f"{run}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._mend()

    def _mend(self) -> None:
        """End a line that a killed run left open, so that the next one starts on its own."""
        if self.path.is_file() and (size := self.path.stat().st_size):
            with self.path.open("rb") as file:
                file.seek(size - 1)
                is_open = file.read(1) != b"\n"
            if is_open:
                self._append("\n")

    def write(self, instance: Any, sample_index: int, proof: Proof, sent: Messages | None, **answer: Any) -> None:
        """Append the line of one request of lm-eval; `answer` is what its kind of request gives.

        A generated answer whose model computes no likelihood says so.
        """
        if instance.request_type == "generate_until" and "reference_nll" not in answer:
            answer = {**answer, "reference_nll": None, "reference_reason": NO_LIKELIHOOD}
        document = instance.doc if isinstance(instance.doc, Mapping) else {}
        line = {
            "run": self.run,
            "task": instance.task_name,
            "doc_id": instance.doc_id,
            "idx": instance.idx,
            "sample_index": sample_index,
            "question": document.get("id"),
            "request_type": instance.request_type,
            "prompt_sha256": hashlib.sha256(str(instance.args[0]).encode(errors="surrogatepass")).hexdigest()[:16],
            "messages_sent": None if sent is None else [asdict(message) for message in sent],
            **answer,
            "proof": proof.as_dict(),
        }
        self._append(json.dumps(line, ensure_ascii=False) + "\n")

    def _append(self, text: str) -> None:
        # One write to a file opened for appending: lines of two processes don't mix, and a kill rarely splits one.
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, text.encode(errors="surrogatepass"))
        finally:
            os.close(handle)


def guard_cache(hook: Any, run: str, described: str) -> None:
    """Mark an empty response cache as this run's; raise SteerError for one that holds another run's answers.

    lm-eval keys cached answers by prompt and generation arguments alone, so another model or steering would be given
    these answers.
    """
    stored = getattr(hook, "dbdict", None)
    if stored is None:
        return
    held = stored.get(MARK)
    if held is None and len(stored) == 0:
        stored[MARK] = json.dumps({"run": run, "described": described})
        stored.commit()
        return
    known = json.loads(held) if isinstance(held, str) else {"run": None, "described": "a run that left no mark"}
    if known["run"] != run:
        raise SteerError(
            f"--use_cache holds the answers of run {known['run']} ({known['described']}), "
            f"this is run {run} ({described}); use another path"
        )


def run_described(identity: ModelIdentity, steering: Steering) -> str:
    """A run in a few words: model and steering."""
    return f"{identity.name} {identity.dtype or ''}, steering {steering.fingerprint}".replace(" ,", ",")


def run_info(identity: ModelIdentity, steering: Steering, proof: ProofFile) -> dict[str, Any]:
    """What lm-eval writes into its results about the run."""
    return {
        "run": proof.run,
        "fingerprint": steering.fingerprint,
        "interventions": [_intervention(one) for one in steering.interventions],
        "provenance": dict(steering.provenance),
        "model": identity.as_dict(),
        "proof": str(proof.path),
    }


def _intervention(one: Any) -> Any:
    """An intervention as JSON holds it, what is inside it too, without its vectors."""
    if isinstance(one, ByContent):
        held = {item.name: getattr(one, item.name) for item in fields(one) if item.name not in VECTORS}  # type: ignore[arg-type]
        return {"kind": type(one).__name__, **{name: _intervention(value) for name, value in held.items()}}
    return [_intervention(part) for part in one] if isinstance(one, tuple) else one
