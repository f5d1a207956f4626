"""Reading a protocol's YAML file. PyYAML and `protocols` only."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from model_adapters.backend import Sampling
from model_adapters.errors import SteerError
from model_adapters.steering import Placement
from steer_tasks.protocol import DEFAULT_ARM, FORMS, ArmWording, Form, Protocol, Wording

_TOP: Mapping[str, Any] = {
    "name": str,
    "prompting": str,
    "placement": str,
    "sampling": dict,
    "arms": dict,
    "forms": dict,
}
_SAMPLING: Mapping[str, Any] = {"temperature": (int, float), "top_p": (int, float), "max_tokens": int}


def read_protocol(path: Path) -> Protocol:
    """The protocol in a file. Raises SteerError, naming file and key, for anything missing, unknown or mistyped."""
    content = _loaded(path)
    check_keys(content, _TOP, str(path), optional={"service": str})
    if content["placement"] not in get_args(Placement):
        raise SteerError(f"{path}: placement is {content['placement']!r}; give {', '.join(get_args(Placement))}")
    if "{behavior}" not in content["prompting"]:
        raise SteerError(f"{path}: 'prompting' has no {{behavior}}; write it where the behavior's text belongs")
    return Protocol(
        name=content["name"],
        prompting=content["prompting"],
        placement=content["placement"],
        service=content.get("service"),
        sampling=_sampling(content["sampling"], path),
        arms=_arms(content["arms"], path),
        forms=_forms(content["forms"], path),
    )


def _loaded(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SteerError(f"protocol file {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        reason = " ".join(str(problem).split())
        raise SteerError(f"protocol file {path} can't be read ({reason}); give a YAML file in UTF-8") from problem


def _sampling(given: dict[str, Any], path: Path) -> Sampling:
    where = f"{path}: sampling"
    check_keys({key: value for key, value in given.items() if key != "seed"}, _SAMPLING, where)
    seed = given.get("seed")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise SteerError(f"{where}: 'seed' is {seed!r}; give a whole number or null")
    try:
        return Sampling(int(given["max_tokens"]), float(given["temperature"]), float(given["top_p"]), seed=seed)
    except SteerError as problem:
        raise SteerError(f"{where}: {problem}") from None


def _arms(given: dict[str, Any], path: Path) -> dict[str, ArmWording]:
    if DEFAULT_ARM not in given:
        raise SteerError(f"{path}: arms lack {DEFAULT_ARM!r}; write what every other method is sent")
    arms = {}
    for name, entry in given.items():
        check_keys(entry, {"task_system": bool, "sentence": bool}, f"{path}: arms: {name}")
        arms[str(name)] = ArmWording(entry["task_system"], entry["sentence"])
    return arms


def _forms(given: dict[str, Any], path: Path) -> dict[Form, Wording]:
    if set(given) != set(FORMS):
        raise SteerError(f"{path}: forms are {', '.join(map(str, given))}; give {', '.join(FORMS)}")
    forms: dict[Form, Wording] = {}
    for form in FORMS:
        entry, where = given[form], f"{path}: {form}"
        if form == "open_ended":
            check_keys(entry, {"system": str}, where)
            forms[form] = Wording(entry["system"], "", False)
        else:
            check_keys(entry, {"system": str, "instruction": str, "shows_options": bool}, where)
            forms[form] = Wording(entry["system"], entry["instruction"], entry["shows_options"])
    return forms


def check_keys(
    content: Any, expected: Mapping[str, Any], where: str, optional: Mapping[str, Any] | None = None
) -> None:
    """Raise SteerError unless `content` is a mapping of exactly the expected keys and types, no text empty.

    Keys of `optional` may be missing or null.
    """
    known = {**expected, **(optional or {})}
    if not isinstance(content, dict):
        raise SteerError(f"{where} is not a mapping; give {', '.join(known)}")
    if unknown := [str(key) for key in content if key not in known]:
        raise SteerError(f"{where} has the unknown key {unknown[0]!r}; the keys are {', '.join(known)}")
    for key, kind in known.items():
        value = content.get(key)
        if key not in expected and value is None:
            continue
        mistyped = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
        if mistyped or value == "":
            name = " or ".join(one.__name__ for one in kind) if isinstance(kind, tuple) else kind.__name__
            raise SteerError(f"{where}: {key!r} is missing or not a {name}; write it")
