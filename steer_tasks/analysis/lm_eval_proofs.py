"""The proof file of an lm-eval run, read for one run: its lines by task, document, sample and prompt."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, Any, int, str, int]
"""Task, document, sample index, the prompt's digest, and which of a document's requests it is."""


@dataclass(frozen=True)
class Proofs:
    """The latest line of each request; `problem` says why there is none, where the whole file is missing."""

    lines: Mapping[Key, Mapping[str, Any]] = field(default_factory=dict)
    problem: str | None = None

    def of(self, task: str, sample: Mapping[str, Any], index: int) -> list[Mapping[str, Any]]:
        """The lines of the requests of one sample, in their order; none unless all of them are there."""
        requests = list(sample["arguments"].values())
        found = [
            self.lines.get((task, sample["doc_id"], index, prompt_digest(request.get("arg_0")), place))
            for place, request in enumerate(requests)
        ]
        return [line for line in found if line is not None] if None not in found else []


def prompt_digest(prompt: object) -> str:
    """The digest by which the proof file names a prompt. A conversation, which lm-eval's log holds as a list, is named
    as its own text is."""
    text = f"JsonChatStr(prompt={prompt[0]!r})" if isinstance(prompt, list) and len(prompt) == 1 else str(prompt)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def read_proofs(path: Path | None, run: object, tasks: set[str]) -> Proofs:
    """The lines of a run's tasks in a proof file. A line that is broken is passed over, as a killed run leaves one."""
    if path is None:
        return Proofs(problem="the results name no proof file")
    lines: dict[Key, Mapping[str, Any]] = {}
    try:
        with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
            for text in file:
                line = _line(text)
                if line is not None and line["run"] == run and line["task"] in tasks:
                    lines[_key(line)] = line
    except OSError as problem:
        return Proofs(problem=f"the proof file {path} can't be read ({problem.strerror})")
    return Proofs(lines)


def _line(text: str) -> Mapping[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    needed = {"run", "task", "doc_id", "sample_index", "prompt_sha256", "proof", "idx"}
    is_whole = isinstance(line, dict) and needed <= line.keys() and isinstance(line["proof"], dict)
    return line if is_whole else None


def _key(line: Mapping[str, Any]) -> Key:
    return line["task"], line["doc_id"], line["sample_index"], line["prompt_sha256"], line["idx"]
