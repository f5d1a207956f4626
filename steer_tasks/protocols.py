"""How a question becomes messages: protocols, the same for every harness.

Light to import: `model_adapters.backend` and PyYAML, no torch, no harness.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal
from typing import Protocol as Shape

from model_adapters.backend import Message, Messages, Sampling
from model_adapters.errors import SteerError
from model_adapters.steering import Placement

Form = Literal["chain_of_thought", "letter", "cloze", "open_ended"]
"""How a question is put: reasoning and a tagged letter, the letter alone, the option's text, or a prompt as it is."""

FORMS: tuple[Form, ...] = ("chain_of_thought", "letter", "cloze", "open_ended")
LETTERS = "ABCD"
DEFAULT_ARM = "default"

_FOLDER = Path(__file__).parent / "protocols"


class Asked(Shape):
    """What a protocol needs of a question."""

    @property
    def question(self) -> str:
        """The question's text."""
        ...

    @property
    def choices(self) -> Sequence[str]:
        """The options' texts, in order; none for an open-ended prompt."""
        ...


@dataclass(frozen=True)
class Wording:
    """The texts around a question in one form. `shows_options` False leaves the options out."""

    system: str
    instruction: str
    shows_options: bool


@dataclass(frozen=True)
class ArmWording:
    """What one arm is sent: the task's system message or not, and whether its steering gets the prompting sentence."""

    task_system: bool
    sentence: bool


@dataclass(frozen=True)
class Protocol:
    """What every arm of an experiment is sent, apart from what the arm's method adds, and how its answers are sampled.

    `prompting` is the sentence that asks for the behavior in words, where it holds `{behavior}`; `placement` says how
    it stands to the system message. `service` is a system message before all others. `arms` are by method; what isn't
    named there is `default`.
    """

    name: str
    prompting: str
    placement: Placement
    service: str | None
    sampling: Sampling
    arms: Mapping[str, ArmWording]
    forms: Mapping[Form, Wording]

    def messages(self, asked: Asked, form: Form, method: str = DEFAULT_ARM) -> Messages:
        """The system messages and the user message for a question in the arm of a method; no behavior is in them.

        The user message is the stripped question, one line per option (letter, full stop, space, text), a blank line,
        and the instruction: the layout of arXiv:2602.04903's code.
        """
        if form not in self.forms:
            raise SteerError(f"form {form!r} is unknown; there are {', '.join(self.forms)}")
        wording = self.forms[form]
        lines = [asked.question.strip()]
        if wording.shows_options:
            lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, asked.choices, strict=True)]
        user = "\n".join(lines) + (f"\n\n{wording.instruction}" if wording.instruction else "")
        systems = [self.service] if self.service else []
        systems += [wording.system] if self.arm(method).task_system else []
        return (*(Message("system", text) for text in systems), Message("user", user))

    def arm(self, method: str) -> ArmWording:
        """What the arm of a method is sent."""
        return self.arms.get(method, self.arms[DEFAULT_ARM])

    @property
    def wording(self) -> str:
        """`word for word` if the chain-of-thought texts are the study's, by digest; else `reworded`."""
        from steer_tasks.study import is_word_for_word

        return "word for word" if is_word_for_word(self) else "reworded"

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over all texts and settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def provenance(self) -> dict[str, str]:
        """What every result records of its wording, ready for JSON."""
        return {"name": self.name, "wording": self.wording, "digest": self.digest}


def protocol_names() -> tuple[str, ...]:
    """The package's own protocols."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_protocol(name_or_file: str | Path = "isolated") -> Protocol:
    """The protocol of that name, or in that YAML file.

    Where STEER_TASKS_STUDY names a clone of the study's repository, the package's own protocols take the study's texts
    from it. Raises SteerError for an unknown name, a file that lacks a key or has an unknown or mistyped one, and a
    clone that lacks a text.
    """
    from steer_tasks.protocol_file import read_protocol
    from steer_tasks.study import STUDY, with_study_texts

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
