"""The methods: every module here that defines one, and every entry point of group `steer_tasks.methods`.

A module of this package is found by being here; another distribution adds `name = "package.module:Class"`.
"""

import math
import pkgutil
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import PurePath
from typing import Any, Union, cast

from model_adapters.errors import SteerError
from model_adapters.method import SteeringMethod

GROUP = "steer_tasks.methods"


@cache
def methods() -> Mapping[str, type]:
    """Every method's class by name. Raises SteerError when two claim one name."""
    found: dict[str, type] = {}
    for module in pkgutil.iter_modules(__path__):
        for made in vars(import_module(f"{__name__}.{module.name}")).values():
            if _is_method(made) and made.__module__ == f"{__name__}.{module.name}":
                _register(found, made.name, made)
    for point in entry_points(group=GROUP):
        made = _loaded(point)
        if found.get(point.name) is not made:
            _register(found, point.name, made)
    return found


def _loaded(point: EntryPoint) -> type:
    where = f"entry point {point.name} = {point.value}"
    try:
        made = point.load()
    except Exception as problem:
        raise SteerError(f"{where} can't be loaded ({problem}); repair or uninstall its distribution") from problem
    if not _is_method(made):
        raise SteerError(f"{where}: not a method; it must be a frozen dataclass with `name` and `prepare`")
    if made.name != point.name:
        raise SteerError(f"{where}: the method there is named {made.name!r}; give both the same name")
    return made


def _is_method(made: object) -> typing.TypeGuard[Any]:
    return isinstance(made, type) and is_dataclass(made) and hasattr(made, "name") and hasattr(made, "prepare")


def _register(found: dict[str, type], name: str, made: type) -> None:
    if name in found:
        first, second = found[name].__module__, made.__module__
        raise SteerError(f"method {name!r} is defined by {first} and by {second}; uninstall or rename one")
    found[name] = made


def method_names() -> tuple[str, ...]:
    """Names in alphabetical order."""
    return tuple(sorted(methods()))


def method_class(name: str) -> type:
    """The class of a method. Raises SteerError with the closest names."""
    if name not in methods():
        close = get_close_matches(name, method_names(), n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(method_names())}"
        raise SteerError(f"unknown method {name!r}; {hint}")
    return methods()[name]


def parameter_fields(made: type) -> tuple[Field[Any], ...]:
    """The parameters of a method's class, as dataclass fields."""
    return fields(made)


def parameters_of(method: SteeringMethod) -> dict[str, Any]:
    """Every parameter of a method with its value."""
    return {item.name: getattr(method, item.name) for item in fields(cast(Any, method))}


def build_method(name: str, parameters: Mapping[str, object] | None = None) -> SteeringMethod:
    """A method with its parameters, coerced from what command lines and YAML give to the fields' types.

    Raises SteerError for unknown names, values of the wrong type, NaN, and what `check_parameters` refuses.
    """
    made, given = method_class(name), dict(parameters or {})
    known = {item.name: item for item in fields(made)}
    for unknown in sorted(given.keys() - known.keys()):
        hint = f"it takes {', '.join(known)}" if known else "it takes none"
        raise SteerError(f"method {name} has no parameter {unknown!r}; {hint}")
    types_of = typing.get_type_hints(made)
    values = {key: _coerced(f"{name}.{key}", value, types_of[key]) for key, value in given.items()}
    for key, item in known.items():
        if key not in values and item.default is MISSING and item.default_factory is MISSING:
            raise SteerError(f"method {name} needs {key}=…")
    method = cast(SteeringMethod, made(**values))
    check_parameters(method)
    return method


def check_parameters(method: SteeringMethod) -> None:
    """Refuse parameters that contradict each other; those of the same name mean the same in every method.

    Raises SteerError for a negative `layer`, for both `coefficient` and `dose` or neither where there is such a
    parameter, and for either, a `layer` or `positions` beside `match`, which sets them.
    """
    name, values = method.name, parameters_of(method)
    layer = values.get("layer")
    if isinstance(layer, int) and layer < 0:
        raise SteerError(f"{name}.layer is {layer}; layers are counted from 0, the first block")
    sizes = [key for key in ("coefficient", "dose") if values.get(key) is not None]
    if values.get("match") is not None:
        defaults = {item.name: item.default for item in fields(cast(Any, method))}
        clash = [*sizes, *(key for key in ("layer", "positions") if values.get(key) != defaults.get(key))]
        if clash:
            raise SteerError(f"method {name}: match sets layers, positions and norms; leave {clash[0]} out")
        return
    if len(sizes) == 2:
        raise SteerError(f"method {name}: both coefficient and dose are given; give one")
    options = [key for key in ("dose", "coefficient", "match") if key in values]
    if not sizes and options not in ([], ["match"]):
        raise SteerError(f"method {name}: give one of {', '.join(f'{key}=…' for key in options)}")


def _coerced(where: str, value: object, kind: Any) -> object:
    options = typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if type(None) in options:
            return None
        raise SteerError(f"{where} can't be empty")
    kind = next(option for option in options if option is not type(None))
    kind = getattr(kind, "__supertype__", kind)
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise SteerError(f"{where} is {value!r}; it is one of {', '.join(map(str, typing.get_args(kind)))}")
        return value
    try:
        return _as_type(value, kind)
    except (TypeError, ValueError, OverflowError) as problem:
        raise SteerError(f"{where} is {value!r}; it must be {_named(kind)}") from problem


def _as_type(value: Any, kind: Any) -> object:
    if kind is bool:
        said = str(value).lower()
        return said == "true" if said in ("true", "false") else _fail()
    if isinstance(value, bool):
        return _fail()
    if kind is int:
        number = value if isinstance(value, int) else float(value)
        return int(number) if number == int(number) else _fail()
    if kind is float:
        return float(value) if math.isfinite(float(value)) else _fail()
    if kind is str:
        return str(value) if isinstance(value, (str, int, float, PurePath)) else _fail()
    return value


def _fail() -> object:
    raise ValueError


def _named(kind: Any) -> str:
    return {int: "a whole number", float: "a finite number", bool: "true or false"}.get(kind, "text")
