"""Controller JSON of the Ember protocol, read as a Steering. Standard library and `steering` only.

A controller is what a client of that protocol sends with a question: feature edits, and scopes that hold further
edits behind a condition. What this module can't read it refuses: an edit that is dropped would answer unsteered.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model_adapters.controller_json import UNSUPPORTED
from model_adapters.errors import SteerError
from model_adapters.steering import (
    AllOf,
    AnyOf,
    Condition,
    EditFeatures,
    FeatureCompare,
    FeatureEdit,
    Steering,
    When,
)

MODES = ("nudge", "pin")
OPERATORS = (">", "<", "==", ">=", "<=", "!=")
DEEPEST = 16
"""How deep scopes and conditions may nest; beyond it a controller is refused, so that none exhausts the stack."""

_EDIT = r"([0-9]+)@([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?)"


def edits_of(text: str) -> EditFeatures:
    """Edits as typed, `551@0.6+983@-0.3`: nudges by index, those of one index summed. Raises SteerError."""
    if not re.fullmatch(rf"{_EDIT}(?:\+{_EDIT})*", text.strip()):
        raise SteerError(f"edits {text!r} can't be read; write INDEX@VALUE, joined by +, as in 551@0.6+983@-0.3")
    edits = _Edits()
    for index, value in re.findall(_EDIT, text):
        edits.add("nudge", int(index), float(value))
    interventions = edits.interventions()
    if not interventions:
        raise SteerError(f"edits {text!r} add up to nothing; leave them out for the control")
    return interventions[0]


def steering_of_file(path: str | Path) -> Steering:
    """The steering in a JSON file that holds a controller or a saved variant. Raises SteerError."""
    try:
        read = json.loads(Path(path).expanduser().read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise SteerError(f"{path} can't be read ({problem.strerror}); give a controller or variant file") from problem
    except (ValueError, RecursionError) as problem:
        raise SteerError(f"{path} is not JSON; give a controller or variant file") from problem
    try:
        return steering_of_variant(read)
    except SteerError as problem:
        raise SteerError(f"{path}: {problem}") from problem


def steering_of_variant(variant: Any) -> Steering:
    """The steering of a variant: the SDK's object, its saved layout `{base_model, edits, scopes}`, or a controller.

    An object is taken by its attributes `controller` (JSON or with a method `json`) and `base_model`. The base model
    goes into the provenance. Raises SteerError.
    """
    if not isinstance(variant, Mapping):
        if not hasattr(variant, "controller"):
            raise SteerError(f"{type(variant).__name__} is neither a variant nor a controller; give one of these")
        controller: Any = variant.controller
        plain = controller.json() if hasattr(controller, "json") else controller
        return _of_model(steering_of(plain), getattr(variant, "base_model", None))
    if "controller" in variant:
        model = variant.get("base_model", variant.get("model"))
        return _of_model(steering_of(variant["controller"]), model)
    if "edits" not in variant:
        return steering_of(variant)
    notes = _Notes()
    return _of_model(_steering(_saved(variant, "variant", notes, 0), notes), variant.get("base_model"))


def steering_of(controller: Mapping[str, Any]) -> Steering:
    """The steering that a controller means, in one normal form.

    At each level nudges of one index are summed and zero sums dropped; a pin removes earlier edits of its index,
    later nudges add to it. Scopes become `When`, an event becomes its interrupt, and a group of one condition that
    condition. Labels and ids go into the provenance. Raises SteerError for what can't be read or isn't understood.
    """
    notes = _Notes()
    return _steering(_level(controller, "controller", notes, 0), notes)


@dataclass
class _Edits:
    """The edits of one level, merged as they come."""

    pins: dict[int, float] = field(default_factory=dict)
    nudges: dict[int, float] = field(default_factory=dict)

    def add(self, mode: str, index: int, value: float) -> None:
        if mode == "pin":
            self.pins[index] = value
            self.nudges.pop(index, None)
        else:
            self.nudges[index] = self.nudges.get(index, 0.0) + value

    def interventions(self) -> tuple[EditFeatures, ...]:
        """One EditFeatures, and a second for nudges of pinned features, because an index stands once in each."""
        nudges = {index: value for index, value in self.nudges.items() if value != 0.0}
        first = [FeatureEdit(index, value, "pin") for index, value in self.pins.items()]
        first += [FeatureEdit(index, value) for index, value in nudges.items() if index not in self.pins]
        second = [FeatureEdit(index, value) for index, value in nudges.items() if index in self.pins]
        return tuple(EditFeatures(tuple(edits)) for edits in (first, second) if edits)


@dataclass
class _Notes:
    """Labels and ids of the features that were read, by index."""

    features: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, index: int, label: Any, name: Any) -> None:
        note = self.features.setdefault(index, {"index": index})
        note |= {key: value for key, value in (("label", label), ("uuid", name)) if isinstance(value, str)}


def _steering(interventions: tuple[Any, ...], notes: _Notes) -> Steering:
    return Steering(interventions, {"features": list(notes.features.values())} if notes.features else {})


def _of_model(steering: Steering, model: Any) -> Steering:
    return steering.described(base_model=model) if isinstance(model, str) else steering


def _level(given: Any, where: str, notes: _Notes, depth: int) -> tuple[Any, ...]:
    _bounded(depth, where)
    level = _mapping(given, where, ("interventions", "scopes"), ("name", *UNSUPPORTED))
    for key in UNSUPPORTED:
        if level.get(key) is not None:
            raise SteerError(f"{where}.{key} is {level[key]!r}; its meaning is not published, only null is taken")
    edits = _Edits()
    for number, one in enumerate(_items(level["interventions"], f"{where}.interventions")):
        here = f"{where}.interventions[{number}]"
        intervention = _mapping(one, here, ("mode", "value", "features"))
        mode = intervention["mode"]
        if mode not in MODES:
            raise SteerError(f"{here}.mode is {mode!r}; it is one of {', '.join(MODES)}")
        value = _number(intervention["value"], f"{here}.value")
        for index in _group(intervention["features"], f"{here}.features", notes):
            edits.add(mode, index, value)
    scopes = _items(level["scopes"], f"{where}.scopes")
    guarded = [_scope(one, f"{where}.scopes[{number}]", notes, depth) for number, one in enumerate(scopes)]
    return (*edits.interventions(), *(one for one in guarded if one is not None))


def _scope(given: Any, where: str, notes: _Notes, depth: int) -> When | None:
    scope = _mapping(given, where, ("conditionals", "controller"), ("is_active", "event_name"))
    if scope.get("is_active"):
        raise SteerError(f"{where}.is_active is {scope['is_active']!r}; whether a scope acts is found while generating")
    condition = _condition(scope["conditionals"], f"{where}.conditionals", notes, depth + 1)
    inside = _level(scope["controller"], f"{where}.controller", notes, depth + 1)
    return _when(condition, inside, scope.get("event_name"), where)


def _when(condition: Condition, inside: tuple[Any, ...], event: Any, where: str) -> When | None:
    if event is not None and not (isinstance(event, str) and event):
        raise SteerError(f"{where}.event_name is {event!r}; it is a text or null")
    return When(condition, inside, event=event) if inside or event is not None else None


def _condition(given: Any, where: str, notes: _Notes, depth: int) -> Condition:
    _bounded(depth, where)
    if isinstance(given, Mapping) and "conditionals" in given:
        group = _mapping(given, where, ("conditionals", "operator"))
        kinds: dict[Any, type[AllOf] | type[AnyOf]] = {"AND": AllOf, "OR": AnyOf}
        join = group["operator"]
        if not isinstance(join, str) or join not in kinds:
            raise SteerError(f"{where}.operator is {join!r}; it is AND or OR")
        members = _items(group["conditionals"], f"{where}.conditionals")
        read = [_condition(one, f"{where}.conditionals[{n}]", notes, depth + 1) for n, one in enumerate(members)]
        if not read:
            raise SteerError(f"{where}.conditionals is empty; give at least one condition")
        return read[0] if len(read) == 1 else kinds[join](tuple(read))
    leaf = _mapping(given, where, ("left_hand", "right_hand", "operator"))
    operator = leaf["operator"]
    if operator not in OPERATORS:
        raise SteerError(f"{where}.operator is {operator!r}; it is one of {' '.join(OPERATORS)}")
    left, right = _group(leaf["left_hand"], f"{where}.left_hand", notes), leaf["right_hand"]
    if isinstance(right, Mapping):
        return FeatureCompare(left, operator, _group(right, f"{where}.right_hand", notes))
    return FeatureCompare(left, operator, _number(right, f"{where}.right_hand"))


def _group(given: Any, where: str, notes: _Notes) -> tuple[int, ...]:
    """Indices of a group `{"features": […]}` or of one bare feature."""
    grouped = isinstance(given, Mapping) and "features" in given
    members = _items(given["features"], f"{where}.features") if grouped else [given]
    indices = []
    for number, one in enumerate(members):
        here = f"{where}.features[{number}]" if grouped else where
        if not isinstance(one, Mapping) or "index_in_sae" not in one:
            raise SteerError(f"{here} is not a feature with index_in_sae; give {{uuid, label, index_in_sae}}")
        index = _index(one["index_in_sae"], f"{here}.index_in_sae")
        notes.add(index, one.get("label"), one.get("uuid", one.get("id")))
        indices.append(index)
    if not indices:
        raise SteerError(f"{where}.features is empty; give at least one feature")
    return tuple(indices)


def _saved(given: Any, where: str, notes: _Notes, depth: int) -> tuple[Any, ...]:
    """What `{base_model, edits, scopes}` does; scopes there are `{condition, nested_variant[, event_name]}`."""
    _bounded(depth, where)
    variant = _mapping(given, where, ("edits",), ("base_model", "scopes"))
    edits = _Edits()
    for number, one in enumerate(_items(variant["edits"], f"{where}.edits")):
        here = f"{where}.edits[{number}]"
        edit = _mapping(one, here, ("index_in_sae", "value"), ("feature_id", "feature_label"))
        index = _index(edit["index_in_sae"], f"{here}.index_in_sae")
        notes.add(index, edit.get("feature_label"), edit.get("feature_id"))
        edits.add("nudge", index, _number(edit["value"], f"{here}.value"))
    guarded = []
    for number, one in enumerate(_items(variant.get("scopes", []), f"{where}.scopes")):
        here = f"{where}.scopes[{number}]"
        scope = _mapping(one, here, ("condition", "nested_variant"), ("event_name", "base_model"))
        condition = _condition(scope["condition"], f"{here}.condition", notes, depth + 1)
        inside = _saved(scope["nested_variant"], f"{here}.nested_variant", notes, depth + 1)
        guarded.append(_when(condition, inside, scope.get("event_name"), here))
    return (*edits.interventions(), *(one for one in guarded if one is not None))


def _bounded(depth: int, where: str) -> None:
    if depth > DEEPEST:
        raise SteerError(f"{where[:60]}… nests deeper than {DEEPEST} levels; flatten it")


def _mapping(given: Any, where: str, needed: tuple[str, ...], more: tuple[str, ...] = ()) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise SteerError(f"{where} is {type(given).__name__}, not an object with {', '.join(needed)}")
    if missing := [key for key in needed if key not in given]:
        raise SteerError(f"{where} lacks {missing[0]!r}; it needs {', '.join(needed)}")
    if unknown := [key for key in given if key not in needed and key not in more]:
        raise SteerError(f"{where} has {unknown[0]!r}, which isn't understood; leave it out")
    return given


def _items(given: Any, where: str) -> list[Any]:
    if not isinstance(given, list):
        raise SteerError(f"{where} is {type(given).__name__}; it is a list")
    return given


def _index(given: Any, where: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise SteerError(f"{where} is {given!r}; indices are whole numbers from 0")
    return given


def _number(given: Any, where: str) -> float:
    if not isinstance(given, (int, float)):
        raise SteerError(f"{where} is {given!r}; it is a number")
    try:
        value = float(given)
    except OverflowError:
        value = float("inf")
    if value - value != 0.0:
        raise SteerError(f"{where} is {value}; it must be a finite number")
    return value
