"""Grids: experiments as YAML files, read into cells. One cell is one Inspect task with all its arguments. No harness.

The schema, key by key, is in docs/grids.md.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from model_adapters.behavior import behavior_slugs, find_behaviors
from model_adapters.errors import SteerError
from steer_tasks.arm_parameters import ArmRequest
from steer_tasks.protocol_file import check_keys

_ARM_KEYS = frozenset(one.name for one in fields(ArmRequest)) - {"behavior"}
_OWN_KEYS = ("name", "draws", "sweep", "models", "protocols")
_QUESTIONS = ("mmlu_171", "mmlu_114", "open_ended")


@dataclass(frozen=True)
class GridModel:
    """A model of the grid: Inspect's name for it, its arguments (`-M`), arguments of every arm run on it, and the
    address of the server that runs it (`--model-base-url`)."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    arm: Mapping[str, Any] = field(default_factory=dict)
    base_url: str | None = None


@dataclass(frozen=True)
class Estimate:
    """What a dry run counts with: tokens per answer and per verdict, and prices in dollars per million tokens.

    A price is (input, output); None where it isn't known.
    """

    answer_tokens: int = 350
    judge_tokens: int = 120
    model_price: tuple[float, float] | None = None
    judge_price: tuple[float, float] | None = None


@dataclass(frozen=True)
class Cell:
    """One task of the grid: arm, draw and swept values in its name, every argument of the task in `arguments`.

    `swept` holds the values that the grid sweeps over, without the draw.
    """

    name: str
    arm: str
    swept: Mapping[str, Any]
    model: GridModel
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """An experiment: models × protocols × arms × draws × swept values, each over all behaviors."""

    name: str
    models: tuple[GridModel, ...]
    protocols: tuple[str, ...]
    behaviors: str | tuple[str, ...]
    questions: str
    questions_per_behavior: int
    judge: str | None
    judged: bool
    rubrics: str | None
    reference_model: str | None
    arms: tuple[Mapping[str, Any], ...]
    estimate: Estimate

    def cells(self) -> tuple[Cell, ...]:
        """All cells, model by model, protocol by protocol, arm by arm. Raises SteerError for two of one name."""
        found: dict[tuple[str, str], Cell] = {}
        for model, protocol, arm in itertools.product(self.models, self.protocols, self.arms):
            if model.name not in arm.get("models", [model.name]) or protocol not in arm.get("protocols", [protocol]):
                continue
            for cell in self._of_arm(model, protocol, arm):
                if (model.name, cell.name) in found:
                    raise SteerError(
                        f"grid {self.name}: two arms are called {cell.name!r}; give each a name of its own"
                    )
                found[model.name, cell.name] = cell
        return tuple(found.values())

    def _of_arm(self, model: GridModel, protocol: str, arm: Mapping[str, Any]) -> list[Cell]:
        sweep: Mapping[str, Sequence[Any]] = arm.get("sweep", {})
        draws: Sequence[int] = arm.get("draws", [arm.get("draw", 0)])
        cells = []
        for values in itertools.product(draws, *sweep.values()):
            swept = dict(zip(["draw", *sweep], values, strict=True))
            shown = {key: value for key, value in swept.items() if key != "draw" or len(draws) > 1}
            parts = [arm["name"], *(f"{key}={value}" for key, value in shown.items())]
            name = " ".join(parts + ([protocol] if len(self.protocols) > 1 else []))
            given = {key: value for key, value in arm.items() if key not in _OWN_KEYS}
            arguments = self._arguments(protocol, {**model.arm, **given, **swept})
            cells.append(Cell(name, arm["name"], dict(zip(sweep, values[1:], strict=True)), model, arguments))
        return cells

    def _arguments(self, protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every argument of the task, defaults too: Inspect tells `f()` from `f(default)`."""
        method = given.get("method", "control")
        takes_features = method in ("auto_steer", "auto_steer_scaled", "random_features", "feature_search", "features")
        kept = {key: value for key, value in given.items() if key != "dictionary" or takes_features}
        behaviors = self.behaviors if isinstance(self.behaviors, str) else list(self.behaviors)
        return {
            **{one.name: one.default for one in fields(ArmRequest)},
            "behavior": None if kept.get("steering") else behaviors,
            **kept,
            "questions": self.questions,
            "questions_per_behavior": self.questions_per_behavior,
            "protocol": protocol,
            # The judge is bound when scoring, so that another one never costs a generation.
            "judge": None,
            "rubrics": self.rubrics,
            "reference_model": self.reference_model,
        }


def load_grid(path: Path) -> Grid:
    """The grid in a YAML file. Raises SteerError, naming file and key, for anything missing, unknown or mistyped."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SteerError(f"grid file {path} does not exist; check the path") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        reason = " ".join(str(problem).split())
        raise SteerError(f"grid file {path} can't be read ({reason}); give a YAML file in UTF-8") from problem
    where = str(path)
    optional = {
        **{"protocols": list, "behaviors": (str, list), "questions": str, "questions_per_behavior": int},
        **{"judge": str, "judged": bool, "rubrics": str, "reference_model": str, "estimate": dict},
    }
    check_keys(content, {"name": str, "models": list, "arms": list}, where, optional)
    grid = Grid(
        name=content["name"],
        models=tuple(_model(entry, f"{where}: models") for entry in _filled(content["models"], f"{where}: models")),
        protocols=tuple(_texts(_or(content, "protocols", ["isolated"]), f"{where}: protocols")),
        behaviors=_behaviors(_or(content, "behaviors", "all"), where),
        questions=_question_set(_or(content, "questions", "mmlu_171"), where),
        questions_per_behavior=_count(_or(content, "questions_per_behavior", 0), f"{where}: questions_per_behavior"),
        judge=content.get("judge"),
        judged=bool(_or(content, "judged", False)),
        rubrics=content.get("rubrics"),
        reference_model=content.get("reference_model"),
        arms=tuple(_arm(entry, f"{where}: arms") for entry in _filled(content["arms"], f"{where}: arms")),
        estimate=_estimate(content.get("estimate") or {}, f"{where}: estimate"),
    )
    for arm in grid.arms:
        _check_known(arm, "models", [model.name for model in grid.models], where)
        _check_known(arm, "protocols", grid.protocols, where)
    if not grid.cells():
        raise SteerError(f"{where}: no arm runs on any model; check the arms' models and protocols")
    return grid


def _check_known(arm: Mapping[str, Any], key: str, known: Sequence[str], where: str) -> None:
    if unknown := [name for name in arm.get(key, []) if name not in known]:
        raise SteerError(
            f"{where}: arm {arm['name']!r} has {unknown[0]!r} among its {key}; the grid has {', '.join(known)}"
        )


def _or(content: Mapping[str, Any], key: str, default: Any) -> Any:
    return default if content.get(key) is None else content[key]


def _filled(entries: list[Any], where: str) -> list[Any]:
    if not entries:
        raise SteerError(f"{where} are empty; give at least one")
    return entries


def _texts(given: list[Any], where: str) -> list[str]:
    for one in _filled(given, where):
        if not isinstance(one, str) or not one:
            raise SteerError(f"{where}: {one!r} is not a text; write it")
    return given


def _count(given: Any, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise SteerError(f"{where} is {given!r}; give a whole number from 0")
    return given


def _behaviors(given: str | list[Any], where: str) -> str | tuple[str, ...]:
    find_behaviors(given)
    if given == "all":
        return behavior_slugs()
    return (given,) if isinstance(given, str) else tuple(given)


def _question_set(given: str, where: str) -> str:
    if given not in _QUESTIONS:
        raise SteerError(f"{where}: questions are {given!r}; give {', '.join(_QUESTIONS)}")
    return given


def _model(entry: Any, where: str) -> GridModel:
    if isinstance(entry, str):
        return GridModel(entry)
    check_keys(entry, {"name": str}, where, {"args": dict, "arm": dict, "base_url": str})
    arm = _arm_arguments(entry.get("arm") or {}, where)
    return GridModel(entry["name"], dict(entry.get("args") or {}), arm, entry.get("base_url"))


def _arm(entry: Any, where: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"]:
        raise SteerError(f"{where}: {entry!r} has no name; give each arm a name and a method or a steering")
    where = f"{where}: {entry['name']}"
    own = {key: value for key, value in entry.items() if key in _OWN_KEYS}
    types: dict[str, Any] = {"draws": list, "sweep": dict, "models": list, "protocols": list}
    check_keys(own, {"name": str}, where, types)
    if "draws" in entry and "draw" in entry:
        raise SteerError(f"{where} has both draw and draws; keep one")
    for draw in entry.get("draws") or []:
        _count(draw, f"{where}: draws")
    sweep = entry.get("sweep") or {}
    _arm_arguments(sweep, f"{where}: sweep")
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise SteerError(f"{where}: sweep of {key} is {values!r}; give a list of values")
    rest = _arm_arguments({key: value for key, value in entry.items() if key not in _OWN_KEYS}, where)
    return {key: value for key, value in {**own, **rest}.items() if value is not None}


def _arm_arguments(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    if unknown := [str(key) for key in given if key not in _ARM_KEYS]:
        known = ", ".join(sorted([*_ARM_KEYS, *_OWN_KEYS]))
        raise SteerError(f"{where} has the unknown key {unknown[0]!r}; the keys are {known}")
    return dict(given)


def _estimate(given: Mapping[str, Any], where: str) -> Estimate:
    prices: dict[str, Any] = {"model_price": list, "judge_price": list}
    check_keys(dict(given), {}, where, {"answer_tokens": int, "judge_tokens": int, **prices})
    pairs: dict[str, tuple[float, float]] = {}
    for key in prices:
        value = given.get(key)
        if value is None:
            continue
        numbers = [one for one in value if isinstance(one, (int, float)) and not isinstance(one, bool) and one >= 0]
        if len(value) != 2 or len(numbers) != 2:
            raise SteerError(f"{where}: {key} is {value!r}; give [input, output] in dollars per million tokens")
        pairs[key] = (float(numbers[0]), float(numbers[1]))
    return Estimate(
        _count(_or(given, "answer_tokens", Estimate.answer_tokens), f"{where}: answer_tokens"),
        _count(_or(given, "judge_tokens", Estimate.judge_tokens), f"{where}: judge_tokens"),
        pairs.get("model_price"),
        pairs.get("judge_price"),
    )
