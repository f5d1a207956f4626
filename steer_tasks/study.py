"""The wording of arXiv:2602.04903, read from a user's clone of its repository and told by digest.

That repository has no licence, so none of its texts are in this package, only their digests. No harness.
"""

import ast
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from judges.rubric import Rubrics, load_rubrics
from model_adapters.errors import SteerError
from steer_tasks.protocol import STUDY_DIGESTS, Protocol, text_digest

STUDY = "STEER_TASKS_STUDY"
"""The environment variable that names the clone."""

_MAY_HOLD = (".py", ".json", ".ipynb")


def rubrics_of(folder: str | None) -> Rubrics:
    """The rubrics in `folder`; else those of the clone that STEER_TASKS_STUDY names, else the package's own."""
    return load_rubrics(folder or os.environ.get(STUDY) or None)


def with_study_texts(protocol: Protocol, clone: Path) -> Protocol:
    """The protocol with the study's texts in its chain-of-thought form; the other forms keep this package's.

    Raises SteerError naming the text that is in no file of the clone. The service's message is also looked for in
    an installed goodfire package.
    """
    if not clone.is_dir():
        raise SteerError(f"{STUDY}={clone} is not a folder; name a clone of the study's repository")
    needed = {name: digest for name, digest in STUDY_DIGESTS.items() if name != "service" or protocol.service}
    found = _found(clone, needed)
    if missing := [name for name in needed if name not in found]:
        remedy = "pip install goodfire==0.3.5" if missing == ["service"] else "check out commit 34d7fad"
        raise SteerError(f"{STUDY}={clone} does not hold the study's {missing[0]}; {remedy}")
    wording = replace(
        protocol.forms["chain_of_thought"], instruction=found["instruction"].lstrip("\n"), system=found["system"]
    )
    return replace(
        protocol,
        prompting=found["sentence"],
        service=found["service"] if protocol.service else None,
        forms={**protocol.forms, "chain_of_thought": wording},
    )


def _found(clone: Path, needed: dict[str, str]) -> dict[str, str]:
    by_digest = {digest: name for name, digest in needed.items()}
    found: dict[str, str] = {}
    for path in _files(clone):
        for text in _texts(path):
            name = by_digest.get(text_digest(text.replace("{behavior}", "be funny")))
            if name:
                found.setdefault(name, text)
        if len(found) == len(needed):
            break
    return found


def _files(clone: Path) -> Iterator[Path]:
    yield from (path for path in sorted(clone.rglob("*")) if path.suffix in _MAY_HOLD and path.is_file())
    # Found, not imported: that package does work when it is.
    installed = importlib.util.find_spec("goodfire")
    for folder in (installed.submodule_search_locations or []) if installed else []:
        yield from sorted(Path(folder).rglob("*.py"))


def _texts(path: Path) -> Iterator[str]:
    """Every string in a file: constants of Python code, f-strings with one field as `{behavior}`, values of JSON."""
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            yield from _strings_of_code(content)
        else:
            yield from _strings_of_json(json.loads(content))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return


def _strings_of_code(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr) and sum(isinstance(one, ast.FormattedValue) for one in node.values) == 1:
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else "{behavior}" for one in node.values)


def _strings_of_json(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings_of_json(one)
