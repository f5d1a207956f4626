"""How a question becomes messages: protocols, read from YAML files, used alike by every harness.

Light to import: PyYAML and `model_adapters.backend`, no torch, no harness.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from typing import Protocol as Shape

import yaml

from model_adapters.backend import Message, Messages
from model_adapters.errors import SteerError

Form = Literal["chain_of_thought", "letter", "cloze"]
"""How a question is put: reasoning and a tagged letter, the letter alone, or the option's text."""

FORMS: tuple[Form, ...] = ("chain_of_thought", "letter", "cloze")
LETTERS = "ABCD"

_FOLDER = Path(__file__).parent / "protocols"


class Asked(Shape):
    """What a protocol needs of a question."""

    @property
    def question(self) -> str:
        """The question's text."""
        ...

    @property
    def choices(self) -> Sequence[str]:
        """The options' texts, in order."""
        ...


@dataclass(frozen=True)
class Wording:
    """The texts around a question in one form. `shows_options` False leaves the options out."""

    system: str
    instruction: str
    shows_options: bool


@dataclass(frozen=True)
class Protocol:
    """What every arm of an experiment is sent, apart from what the arm's steering adds.

    `wording` is `reworded` where the texts are this package's own. `prompting` is the sentence of the arm that asks
    for the behavior in words; it may hold `{behavior}`.
    """

    name: str
    wording: str
    prompting: str
    forms: Mapping[Form, Wording]

    def messages(self, asked: Asked, form: Form) -> Messages:
        """The system and the user message for a question; nothing of any arm is in them.

        The user message is the stripped question, one line per option (letter, full stop, space, text), a blank line,
        and the instruction: the layout of arXiv:2602.04903's code.
        """
        if form not in self.forms:
            raise SteerError(f"form {form!r} is unknown; there are {', '.join(self.forms)}")
        wording = self.forms[form]
        lines = [asked.question.strip()]
        if wording.shows_options:
            lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, asked.choices, strict=True)]
        user = "\n".join(lines) + "\n\n" + wording.instruction
        return (Message("system", wording.system), Message("user", user))

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over all texts."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def provenance(self) -> dict[str, str]:
        """What every result records of its wording, ready for JSON."""
        return {"name": self.name, "wording": self.wording, "digest": self.digest}


def protocol_names() -> tuple[str, ...]:
    """The package's own protocols."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_protocol(name_or_file: str | Path = "isolated") -> Protocol:
    """The protocol of that name, or in that YAML file.

    Raises SteerError for an unknown name, and for a file that lacks a key, or has an unknown or mistyped one.
    """
    name = str(name_or_file)
    if name.endswith((".yaml", ".yml")):
        return _read(Path(name).expanduser())
    if name not in protocol_names():
        close = get_close_matches(name, protocol_names(), n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise SteerError(f"unknown protocol {name!r}; {guess}there are {', '.join(protocol_names())}, or a .yaml file")
    return _read(_FOLDER / f"{name}.yaml")


def _read(path: Path) -> Protocol:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SteerError(f"protocol file {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        reason = " ".join(str(problem).split())
        raise SteerError(f"protocol file {path} can't be read ({reason}); give a YAML file in UTF-8") from problem
    texts = {"name": str, "wording": str, "prompting": str, "forms": dict}
    _check(content, texts, str(path))
    if set(content["forms"]) != set(FORMS):
        raise SteerError(f"{path}: forms are {', '.join(map(str, content['forms']))}; give {', '.join(FORMS)}")
    forms: dict[Form, Wording] = {}
    for form in FORMS:
        entry = content["forms"][form]
        _check(entry, {"system": str, "instruction": str, "shows_options": bool}, f"{path}: {form}")
        forms[form] = Wording(entry["system"], entry["instruction"], entry["shows_options"])
    return Protocol(content["name"], content["wording"], content["prompting"], forms)


def _check(content: Any, expected: Mapping[str, type], where: str) -> None:
    """Raise SteerError unless `content` is a mapping of exactly the expected keys and types, no text empty."""
    if not isinstance(content, dict):
        raise SteerError(f"{where} is not a mapping; give {', '.join(expected)}")
    if unknown := [str(key) for key in content if key not in expected]:
        raise SteerError(f"{where} has the unknown key {unknown[0]!r}; the keys are {', '.join(expected)}")
    for key, kind in expected.items():
        if not isinstance(content.get(key), kind) or content[key] == "":
            raise SteerError(f"{where}: {key!r} is missing or not a {kind.__name__}; write it")
