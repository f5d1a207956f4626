"""Rubrics: what a judge is asked about an answer, read from text files.

A set of rubrics is a folder: two templates, `coherence.md` and `behavior.md`, and one file of criteria for each
behavior in `criteria/`, `any.md` for those without. The layout of the repository of arXiv:2602.04903 is read too
(`study_rubrics.py`).
Standard library and `model_adapters` only.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from judges.study_rubrics import StudyFiles, find_study_files
from model_adapters.behavior import Behavior
from model_adapters.errors import SteerError

Quality = Literal["behavior", "coherence"]
"""What is judged; also the tag of the score in the judge's reply."""

_FOLDER = Path(__file__).parent / "rubrics"
_ANY = "any"
_COMMENT = re.compile(r"^[ \t]*<!--.*?-->[ \t]*\n?", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"\$(PROMPT|RESPONSE|STEERING_QUERY|CRITERIA|KEY)\b")
# The tags of every reply format that is read, so that none can be smuggled into a judge's view, or its quotation.
_REPLY_TAGS = re.compile(r"<(\s*/?\s*(?:behaviou?r|coherence|scores?|analysis|evaluation)\s*)>", re.IGNORECASE)


@dataclass(frozen=True)
class Rubric:
    """How one quality is judged. `criteria` are by slug or by the behavior's text; coherence has none.

    `wording` is `reworded` for this package's own texts, `word for word` for the study's, `given` for any other.
    """

    quality: Quality
    template: str
    criteria: Mapping[str, str] = field(default_factory=dict)
    wording: str = "reworded"

    @property
    def digest(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over the template and all criteria."""
        content = json.dumps([self.quality, self.template, dict(self.criteria)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def check(self, behavior: Behavior) -> None:
        """Raise SteerError where the behavior can't be judged, for want of criteria."""
        if self.quality == "behavior":
            self._criteria(behavior)

    def asked(self, *, prompt: str, response: str, behavior: Behavior | None = None) -> str:
        """The message to the judge about one answer.

        Prompt and answer are data: they are put in at once, so that a placeholder inside them stays as it is; tags of
        the reply format inside them get other brackets, so that not even a quotation of them reads as a score; and
        `$KEY`, which names the delimiters, is a digest of both texts, so that neither can close its own delimiter.
        """
        key = hashlib.sha256(f"{prompt}\0{response}".encode(errors="surrogatepass")).hexdigest()[:8]
        values = {"PROMPT": disarmed(prompt), "RESPONSE": disarmed(response), "KEY": key}
        if self.quality == "behavior":
            if behavior is None:
                raise SteerError("a behavior's rubric needs the behavior; name it")
            values |= {"STEERING_QUERY": behavior.text, "CRITERIA": self._criteria(behavior)}
        return _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), self.template)

    def _criteria(self, behavior: Behavior) -> str:
        for name in (behavior.slug, behavior.text.casefold(), _ANY):
            if name in self.criteria:
                return self.criteria[name]
        raise SteerError(
            f"the rubrics have no criteria for {behavior.slug!r} ({behavior.text}); "
            f"they have {', '.join(sorted(self.criteria)) or 'none'}: add a file criteria/{behavior.slug}.md"
        )


@dataclass(frozen=True)
class Rubrics:
    """A set: one rubric for each quality."""

    source: str
    behavior: Rubric
    coherence: Rubric

    def provenance(self) -> dict[str, str]:
        """What every result records of its rubrics, ready for JSON."""
        return {
            "source": self.source,
            "wording": self.coherence.wording,
            "behavior": self.behavior.digest,
            "coherence": self.coherence.digest,
        }


def disarmed(text: str) -> str:
    """`text` with single guillemets for the angle brackets of every tag that a judge's reply may hold."""
    return _REPLY_TAGS.sub("‹\\1›", text)


def load_rubrics(folder: str | Path | None = None) -> Rubrics:
    """The package's own rubrics, or those in a folder of either layout.

    Raises SteerError for a folder that is not there, is empty, or lacks a file or a placeholder.
    """
    if folder is None:
        return _own_layout(_FOLDER, "steer-tasks", "reworded")
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SteerError(f"rubrics={folder} is not a folder; give one with coherence.md, behavior.md and criteria/")
    if study := find_study_files(path):
        return _study_layout(study, str(path))
    return _own_layout(path, str(path), "given")


def _own_layout(folder: Path, source: str, wording: str) -> Rubrics:
    files = sorted((folder / "criteria").glob("*.md"))
    if not files:
        raise SteerError(f"rubrics {folder} hold no criteria; write criteria/<behavior>.md, or criteria/any.md for all")
    criteria = {path.stem: _text(path) for path in files}
    behavior, coherence = _text(folder / "behavior.md"), _text(folder / "coherence.md")
    _check(behavior, ("PROMPT", "RESPONSE", "STEERING_QUERY", "CRITERIA"), folder / "behavior.md")
    _check(coherence, ("PROMPT", "RESPONSE"), folder / "coherence.md")
    return Rubrics(source, Rubric("behavior", behavior, criteria, wording), Rubric("coherence", coherence, {}, wording))


def _study_layout(found: StudyFiles, source: str) -> Rubrics:
    return Rubrics(
        source,
        Rubric("behavior", found.behavior, found.criteria, found.wording),
        Rubric("coherence", found.coherence, {}, found.wording),
    )


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise SteerError(f"rubric {path} can't be read ({problem}); write it in UTF-8") from problem
    text = _COMMENT.sub("", text).strip()
    if not text:
        raise SteerError(f"rubric {path} is empty; write it")
    return text


def _check(template: str, needed: tuple[str, ...], path: Path) -> None:
    there = set(_PLACEHOLDER.findall(template))
    if missing := [name for name in needed if name not in there]:
        raise SteerError(f"rubric {path} lacks ${missing[0]}; write it where that text belongs")
