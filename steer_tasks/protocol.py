"""How a question becomes messages, the same for every harness: the protocol and its texts. No files, no harness."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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

STUDY_DIGESTS = {
    "instruction": "ba6c1e34ecc4ab63",  # after the options, the two line breaks before it included
    "system": "904690cdc33da0d3",  # the control's
    "sentence": "97017744c9765fe4",  # for "be funny"
    "service": "cfc360b02344906c",  # the client's own default, in the package goodfire 0.3.4 and 0.3.5
}
"""First 16 hexadecimal digits of SHA-256 of the texts of arXiv:2602.04903, in its repository at commit 34d7fad. It has
no licence, so the texts themselves are not in this package."""


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
        return "word for word" if self._is_the_studys() else "reworded"

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over all texts and settings."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def provenance(self) -> dict[str, str]:
        """What every result records of its wording, ready for JSON."""
        return {"name": self.name, "wording": self.wording, "digest": self.digest}

    def _is_the_studys(self) -> bool:
        """Whether chain-of-thought texts, sentence and, where there is one, the service's message are the study's."""
        wording = self.forms["chain_of_thought"]
        said = {
            "instruction": f"\n\n{wording.instruction}",
            "system": wording.system,
            "sentence": self.prompting.replace("{behavior}", "be funny"),
            **({"service": self.service} if self.service else {}),
        }
        return all(text_digest(text) == STUDY_DIGESTS[name] for name, text in said.items())


def text_digest(text: str) -> str:
    """First 16 hexadecimal digits of SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
