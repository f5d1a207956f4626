"""Methods, behaviors and steerings as text for a terminal. No torch here."""

import inspect
import typing
from dataclasses import MISSING, Field, fields
from typing import Any

import numpy as np

from model_adapters.behavior import behavior_slugs, find_behavior
from model_adapters.method import SteeringFile
from model_adapters.methods import method_names, methods
from model_adapters.steering import VECTORS, Intervention, Steering


def methods_text() -> str:
    """Every method with its first sentence and its parameters."""
    return "\n".join(_method_text(name, methods()[name]) for name in method_names())


def _method_text(name: str, made: type) -> str:
    lines = [f"{name:<14} {(inspect.getdoc(made) or '').splitlines()[0]}"]
    types_of = typing.get_type_hints(made)
    lines += [f"    {item.name}={_default(item)}  ({_type(types_of[item.name])})" for item in fields(made)]
    return "\n".join(lines)


def _default(item: Field[Any]) -> str:
    if item.default is MISSING:
        return "…"
    return "" if item.default is None else str(item.default)


def _type(kind: Any) -> str:
    parts = [option for option in (typing.get_args(kind) or (kind,)) if option is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(map(str, parts))
    names = ["FILE" if part is SteeringFile else getattr(part, "__name__", str(part)) for part in parts]
    optional = type(None) in typing.get_args(kind)
    return " | ".join(names) + (", optional" if optional else "")


def behaviors_text() -> str:
    """The package's behaviors: slug, text, and how much material each has."""
    lines = []
    for slug in behavior_slugs():
        one = find_behavior(slug)
        lines.append(f"{slug:<14} {one.text:<36} {len(one.contrasts)} contrasts, {len(one.dev_prompts)} dev prompts")
    return "\n".join(lines)


def steering_text(steering: Steering) -> str:
    """A steering line by line: fingerprint, interventions with their sizes, provenance."""
    lines = [f"fingerprint  {steering.fingerprint}"]
    done = [intervention_text(one) for one in steering.interventions] or ["nothing (control)"]
    lines += [f"does         {text}" for text in done]
    for key, value in steering.provenance.items():
        if isinstance(value, dict):
            shown = ", ".join(f"{name}={_brief(entry)}" for name, entry in value.items() if entry not in (None, {}, ""))
        else:
            shown = str(value)
        lines.append(f"{key:<12} {shown}")
    return "\n".join(lines)


def _brief(entry: object) -> object:
    """A value of provenance for one line; lists and mappings of values that are such themselves by their number."""
    held = list(entry.values()) if isinstance(entry, dict) else entry
    if isinstance(held, list) and any(isinstance(one, (list, dict)) for one in held):
        return f"({len(held)} entries)"
    return entry


def intervention_text(one: Intervention) -> str:
    """One intervention in a line; vectors by their width and norm."""
    parts = []
    for item in fields(one):
        value = getattr(one, item.name)
        if item.name in VECTORS:
            parts.append(f"‖{item.name}‖={np.linalg.norm(value):.4g} (width {value.size})")
        elif isinstance(value, float):
            parts.append(f"{item.name}={value:.6g}")
        else:
            parts.append(f"{item.name}={value!r}" if item.name == "text" else f"{item.name}={value}")
    return f"{type(one).__name__}: {', '.join(parts)}"
