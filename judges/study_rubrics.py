"""The rubrics of the repository of arXiv:2602.04903, read from a user's clone of it. Standard library only.

That repository has no licence, so nothing of it is in this package. Layout: `behavior_criteria.json` maps a behavior's
text to an object with `criteria_text`; `behavior_template.txt` and `coherence_template.txt` hold `$PROMPT`,
`$RESPONSE`, `$STEERING_QUERY` and `$CRITERIA`; the reply format that follows them is a string assigned to `xml_block`
in `rater_behavior.py` and `rater_coherence.py`.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model_adapters.errors import SteerError

CRITERIA, BEHAVIOR, COHERENCE = "behavior_criteria.json", "behavior_template.txt", "coherence_template.txt"

DIGESTS = {BEHAVIOR: "3a8c8687566088d9", COHERENCE: "c69e9f39c2eaf187", CRITERIA: "9bb7dbbf9e713f85"}
"""First 16 hexadecimal digits of SHA-256 of the files at commit 34d7fad."""

_RATERS = {BEHAVIOR: "rater_behavior.py", COHERENCE: "rater_coherence.py"}
_REPLY = (
    "Reply in this form, with nothing after it:\n"
    "<analysis>one to three sentences</analysis>\n<{tag}>one whole number from 1 to 5</{tag}>"
)


@dataclass(frozen=True)
class StudyFiles:
    """Both templates, reply format included, and the criteria by behavior's text in lower case."""

    behavior: str
    coherence: str
    criteria: Mapping[str, str]
    wording: str


def find_study_files(folder: Path) -> StudyFiles | None:
    """The set in `folder` or below it; None where it isn't of this layout. Raises SteerError for half a set."""
    found = {name: next(iter(sorted(folder.rglob(name))), None) for name in DIGESTS}
    paths = {name: path for name, path in found.items() if path is not None}
    if not paths:
        return None
    if missing := [name for name in DIGESTS if name not in paths]:
        raise SteerError(f"rubrics {folder}: {missing[0]} is missing beside {', '.join(paths)}; copy all three files")
    contents = {name: _bytes(path) for name, path in paths.items()}
    formats = {name: _reply_format(folder, rater) for name, rater in _RATERS.items()}
    same = all(hashlib.sha256(contents[name]).hexdigest().startswith(digest) for name, digest in DIGESTS.items())
    return StudyFiles(
        _joined(contents[BEHAVIOR], formats[BEHAVIOR], "behavior"),
        _joined(contents[COHERENCE], formats[COHERENCE], "coherence"),
        _criteria(contents[CRITERIA], paths[CRITERIA]),
        "word for word" if same and all(formats.values()) else "given",
    )


def _joined(template: bytes, reply_format: str | None, tag: str) -> str:
    return f"{template.decode().rstrip()}\n\n{reply_format or _REPLY.format(tag=tag)}"


def _criteria(content: bytes, path: Path) -> dict[str, str]:
    try:
        held = json.loads(content)
        criteria = {str(name).strip().casefold(): entry["criteria_text"] for name, entry in held.items()}
    except (ValueError, AttributeError, KeyError, TypeError) as problem:
        raise SteerError(f"rubric {path} isn't an object of criteria_text by behavior ({problem!r}); mend it") from None
    if not criteria or not all(isinstance(text, str) and text.strip() for text in criteria.values()):
        raise SteerError(f"rubric {path} has no criteria, or an empty one; write them")
    return criteria


def _reply_format(folder: Path, rater: str) -> str | None:
    """The string that the file's code assigns to `xml_block`; the code is parsed, never run."""
    for path in sorted(folder.rglob(rater)):
        try:
            tree = ast.parse(_bytes(path))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Assign) or "xml_block" not in map(ast.unparse, node.targets):
                continue
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                return node.value.value
    return None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise SteerError(f"rubric {path} can't be read ({problem}); check its permissions") from problem
