"""The open-ended prompts: ten for each behavior's own topics, and twenty that all behaviors have in common.

One text file each in `open_ended/`, one prompt a line. None of them is contrast or development material of a behavior,
so no method has seen them. Standard library only.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

COMMON = "common"

_FOLDER = Path(__file__).parent / "open_ended"


@dataclass(frozen=True)
class OpenPrompt:
    """One prompt; `id` is file and line, from 0: `common/0`, `funny/3`."""

    id: str
    text: str


def open_prompts(behavior: str) -> tuple[OpenPrompt, ...]:
    """The prompts for a behavior's slug: its own topics, then the common ones; for a free behavior these alone."""
    own = () if behavior == COMMON else _prompts(behavior)
    return own + _prompts(COMMON)


def open_ended_digest() -> str:
    """First 16 hexadecimal digits of SHA-256 over all ids and texts."""
    names = sorted(path.stem for path in _FOLDER.glob("*.txt"))
    content = [[one.id, one.text] for name in names for one in _prompts(name)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _prompts(name: str) -> tuple[OpenPrompt, ...]:
    path = _FOLDER / f"{name}.txt"
    if not path.is_file():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(OpenPrompt(f"{name}/{number}", line) for number, line in enumerate(lines))
