"""Protocols by name: the package's own, with the study's texts where a clone of its repository is named, or a file.

Light to import: `model_adapters.backend` and PyYAML, no torch, no harness.
"""

import os
from difflib import get_close_matches
from pathlib import Path

from model_adapters.errors import SteerError
from steer_tasks.protocol import Protocol
from steer_tasks.protocol_file import read_protocol
from steer_tasks.study import STUDY, with_study_texts

_FOLDER = Path(__file__).parent / "protocols"


def protocol_names() -> tuple[str, ...]:
    """The package's own protocols."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_protocol(name_or_file: str | Path = "isolated") -> Protocol:
    """The protocol of that name, or in that YAML file.

    Where STEER_TASKS_STUDY names a clone of the study's repository, the package's own protocols take the study's texts
    from it. Raises SteerError for an unknown name, a file that lacks a key or has an unknown or mistyped one, and a
    clone that lacks a text.
    """
    name = str(name_or_file)
    if name.endswith((".yaml", ".yml")):
        return read_protocol(Path(name).expanduser())
    if name not in protocol_names():
        close = get_close_matches(name, protocol_names(), n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise SteerError(f"unknown protocol {name!r}; {guess}there are {', '.join(protocol_names())}, or a .yaml file")
    protocol = read_protocol(_FOLDER / f"{name}.yaml")
    clone = os.environ.get(STUDY)
    return with_study_texts(protocol, Path(clone).expanduser()) if clone else protocol
