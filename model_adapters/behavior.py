"""Behavior: what we want of a model, such as "be funny", with the material that methods may learn it from.

Standard library and PyYAML only.
The 14 behaviors of the study are one YAML file each in `behaviors/`; a user's own is a file of the same form.
A behavior never holds a test question, so no method can learn from one.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import yaml

from model_adapters.errors import SteerError

_PACKAGE = Path(__file__).parent

# Order and wording of arXiv:2602.04903. A table, so that a name is found without parsing fourteen files.
_STUDY = (
    ("funny", "be funny"),
    ("professional", "be professional and formal"),
    ("imaginative", "be creative and imaginative"),
    ("concise", "be concise and direct"),
    ("empathetic", "be empathetic and supportive"),
    ("educational", "be educational and accessible"),
    ("analytical", "be skeptical and analytical"),
    ("motivational", "be motivational and inspiring"),
    ("technical", "be technical and detailed"),
    ("diplomatic", "be diplomatic and balanced"),
    ("persuasive", "be persuasive and socially influential"),
    ("emotional", "be emotional and empathetic"),
    ("authoritative", "be authoritative and confident"),
    ("misleading", "be misleading and ambiguous"),
)


@dataclass(frozen=True, slots=True)
class Contrast:
    """One user prompt with two answers of about equal length: one shows the behavior, one doesn't."""

    prompt: str
    positive: str
    negative: str


@dataclass(frozen=True, slots=True)
class Behavior:
    """What we want of a model: a slug for file names and tables, the text that asks for it, and contrast material.

    `contrasts` feed contrast vectors and the likelihood signal; `dev_prompts` are for tuning and never overlap them.
    A free behavior (any text of the user's own) has neither.
    """

    slug: str
    text: str
    description: str
    contrasts: tuple[Contrast, ...] = ()
    dev_prompts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The first 16 hex digits of SHA-256 over the whole content as canonical JSON."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()[:16]


def behavior_slugs() -> tuple[str, ...]:
    """The slugs of the package's own behaviors, in the study's order."""
    return tuple(slug for slug, _ in _STUDY)


def find_behavior(name: str) -> Behavior:
    """The behavior that `name` means: a slug, the study's text, a path ending in .yaml or .yml, or any other text.

    Case and repeated spaces don't matter, except in a path.
    Raises SteerError for an unknown single word (surely a typo), several names in one text, or an invalid file.
    """
    if not isinstance(name, str) or not name.strip():
        raise SteerError(f"A behavior is named by a text, not {name!r}; `steer behaviors` lists those of the package")
    text = " ".join(name.split())
    if slug := _study_slug(text):
        return _package_behavior(slug)
    if text.casefold().endswith((".yaml", ".yml")):
        if len(name.strip().splitlines()) > 1:
            raise SteerError(f"Behavior file {name.strip()!r} has a line break in its name; rename it")
        return _user_behavior(_expanded(name.strip()))
    parts = [part for part in text.split(",") if part.strip()]
    if len(parts) > 1 and all(_study_slug(part) for part in parts):
        raise SteerError(f"Several behaviors in one text {text!r}; give them as a list")
    if " " not in text:
        raise SteerError(_unknown(text))
    return Behavior(f"free-{hashlib.sha256(_utf8(text)).hexdigest()[:8]}", text, "A free behavior, given by its text.")


def find_behaviors(names: str | Sequence[str]) -> tuple[Behavior, ...]:
    """The behaviors that one name, a list of names, or "all" means, in the order given; "all" is the study's 14.

    Raises SteerError as `find_behavior` does, and for an empty list or a behavior that is named twice.
    """
    found: dict[str, Behavior] = {}
    for name in [names] if isinstance(names, str) else names:
        is_all = isinstance(name, str) and name.strip().casefold() == "all"
        for behavior in map(_package_behavior, behavior_slugs()) if is_all else [find_behavior(name)]:
            if behavior.slug in found:
                raise SteerError(f"Behavior {behavior.slug!r} is named twice; name each behavior once")
            found[behavior.slug] = behavior
    if not found:
        raise SteerError("No behavior is named; give one, a list, or 'all'")
    return tuple(found.values())


@cache
def neutral_prompts() -> tuple[str, ...]:
    """The package's fixed everyday prompts that ask for no behavior; doses and the likelihood signal rest on them."""
    return tuple((_PACKAGE / "neutral_prompts.txt").read_text(encoding="utf-8").splitlines())


def _same(text: str) -> str:
    """`text` as it is compared: without regard to case and repeated spaces."""
    return " ".join(text.split()).casefold()


def _study_slug(name: str) -> str | None:
    return next((slug for slug, text in _STUDY if _same(name) in (slug, text)), None)


def _unknown(name: str) -> str:
    close = get_close_matches(name.casefold(), behavior_slugs(), n=3)
    guess = f" did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"Unknown behavior {name!r};{guess} `steer behaviors` lists them; free text needs more than one word"


def _utf8(text: str) -> bytes:
    # Command lines hand over undecodable bytes as lone surrogates, which strict UTF-8 can't encode.
    return text.encode("utf-8", "surrogatepass")


@cache
def _package_behavior(slug: str) -> Behavior:
    return _load(_PACKAGE / "behaviors" / f"{slug}.yaml")


def _user_behavior(path: Path) -> Behavior:
    """The behavior in a user's file; it may not pass as one of the package's own, because tables are keyed by slug."""
    behavior = _load(path)
    if behavior.slug in behavior_slugs() and behavior != _package_behavior(behavior.slug):
        raise SteerError(f"{path}: slug {behavior.slug!r} belongs to a behavior of the package; choose another")
    if behavior.slug == "all" or behavior.slug.startswith("free-"):
        raise SteerError(f"{path}: slug {behavior.slug!r} has a meaning of its own; choose another")
    return behavior


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that is given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def _load(path: Path) -> Behavior:
    """The behavior in a YAML file; raises SteerError that names the file, the key and what was expected there."""
    content = _mapping(_read(path), ("slug", "text", "description", "contrasts", "dev_prompts"), str(path))
    slug = _text(content["slug"], f"{path}: slug")
    if not re.fullmatch(r"(?=.{1,64}\Z)[a-z0-9]+(-[a-z0-9]+)*", slug):
        raise SteerError(f"{path}: slug {slug!r} must be at most 64 lower-case letters, digits and single hyphens")
    behavior = Behavior(
        slug=slug,
        text=_text(content["text"], f"{path}: text"),
        description=_text(content["description"], f"{path}: description"),
        contrasts=tuple(
            _contrast(item, f"{path}: contrasts[{i}]")
            for i, item in enumerate(_items(content["contrasts"], f"{path}: contrasts"))
        ),
        dev_prompts=tuple(
            _text(item, f"{path}: dev_prompts[{i}]")
            for i, item in enumerate(_items(content["dev_prompts"], f"{path}: dev_prompts"))
        ),
    )
    used = {_same(contrast.prompt) for contrast in behavior.contrasts}
    for prompt in behavior.dev_prompts:
        if _same(prompt) in used:
            raise SteerError(f"{path}: dev prompt {prompt!r} is used already; dev and contrast prompts must differ")
        used.add(_same(prompt))
    return behavior


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # `~someone` without such a user
        return Path(name)


def _read(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SteerError(f"Behavior file {path} does not exist; check the path") from None
    except UnicodeDecodeError as error:
        raise SteerError(f"Behavior file {path} is not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SteerError(f"Behavior file {path} can't be read ({reason}); give a readable YAML file") from error
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise SteerError(f"Behavior file {path} is not valid YAML{where}: {problem}; correct the file") from error


def _contrast(item: object, where: str) -> Contrast:
    keys = ("prompt", "positive", "negative")
    content = _mapping(item, keys, where)
    prompt, positive, negative = (_text(content[key], f"{where}: {key}") for key in keys)
    if positive == negative:
        raise SteerError(f"{where}: positive and negative are the same answer; only the first may show the behavior")
    return Contrast(prompt, positive, negative)


def _mapping(item: object, keys: Sequence[str], where: str) -> dict[str, object]:
    """`item` if it is a mapping of exactly `keys`."""
    if not isinstance(item, dict):
        raise SteerError(f"{where} must be a mapping of {', '.join(keys)}, not {type(item).__name__}")
    if unknown := [key for key in item if key not in keys]:
        raise SteerError(f"{where} has the unknown key {unknown[0]!r}; the keys are {', '.join(keys)}")
    if missing := [key for key in keys if key not in item]:
        raise SteerError(f"{where} lacks the key {missing[0]!r}; the keys are {', '.join(keys)}")
    return item


def _items(item: object, where: str) -> list[object]:
    if not isinstance(item, list):
        raise SteerError(f"{where} must be a list, not {type(item).__name__}; write [] for none")
    return item


def _text(item: object, where: str) -> str:
    # YAML reads a bare yes, 3 or 2024-01-01 as something else than text.
    if not isinstance(item, str):
        raise SteerError(f"{where} must be text, not {type(item).__name__} {shortened(item)}; put it in quotes")
    if not item.strip():
        raise SteerError(f"{where} is empty; write some text")
    return item
