"""Preparation: a method's search runs once per key, its result is stored, and later runs find it again. No torch."""

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

from model_adapters.backend import Backend
from model_adapters.behavior import Behavior
from model_adapters.cache import cache_folder
from model_adapters.dose import residual_norms, with_dose
from model_adapters.errors import Refused, SteerError, SteeringFileError
from model_adapters.features import Dictionary, resolve
from model_adapters.identity import package_version
from model_adapters.lock import locked
from model_adapters.method import Context, SharesSearch, SteeringFile, SteeringMethod
from model_adapters.methods import check_parameters, parameters_of
from model_adapters.steering import Steering
from model_adapters.steering_file import load_steering, save_steering

SIZES = ("coefficient", "dose")
"""Parameters that are applied after the search, so that a sweep shares one preparation."""

NO_BEHAVIOR = Behavior(slug="none", text="no behavior", description="", contrasts=(), dev_prompts=())


@dataclass(frozen=True)
class Prepared:
    """A frozen steering and the file it is stored in."""

    steering: Steering
    path: Path


def store(steering: Steering) -> Path:
    """Keep a steering in the cache folder under its fingerprint; returns the path of its JSON file.

    What is there already stays, provenance included; what is there and broken is replaced.
    """
    path = cache_folder("steerings") / f"{steering.fingerprint}.json"
    try:
        load_steering(path)
    except SteeringFileError:
        save_steering(steering, path)
    return path


def preparation_key(
    method: SteeringMethod,
    behavior: Behavior,
    backend: Backend,
    *,
    draw: int = 0,
    writer: Backend | None = None,
    steerings: Mapping[str, Steering] | None = None,
    dictionary: Dictionary | None = None,
) -> str:
    """SHA-256 over everything the method's search depends on, so that a changed input is a new preparation."""
    model = backend.identity
    searched = {key: value for key, value in parameters_of(method).items() if key not in SIZES}
    searched |= {key: steering.fingerprint for key, steering in (steerings or {}).items()}
    depends = {
        "method": method.name,
        "defined_by": type(method).__module__,
        "package": package_version(),
        "parameters": searched,
        "behavior": behavior.digest,
        "model": [model.model_digest or model.name, model.revision, model.dtype, model.template_digest, model.url],
        "template_arguments": dict(model.arguments),
        "dictionary": dictionary.digest if dictionary is not None else model.dictionary_digest,
        "writer": writer.identity.digest if writer else None,
        "draw": draw,
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


async def prepare(
    method: SteeringMethod,
    behavior: Behavior | None,
    backend: Backend,
    *,
    draw: int = 0,
    redraw: bool = False,
    writer: Backend | None = None,
    dictionary: Dictionary | None = None,
) -> Prepared:
    """The steering of a method for a behavior on a backend's model: found again where it was prepared before.

    `redraw` searches again and replaces what was stored. `dictionary` is for methods that choose features; what they
    find by index is stored so, and made vectors where the backend can't take indices. Raises SteerError for parameters
    that contradict each other and where the method needs a behavior and has none, Refused where the backend can't run
    what was found.
    """
    check_parameters(method)
    if isinstance(draw, bool) or not isinstance(draw, int) or draw < 0:
        raise SteerError(f"draw is {draw!r}; draws are whole numbers from 0")
    if behavior is None and getattr(method, "needs_behavior", True):
        raise SteerError(f"method {method.name} needs behavior=…; `steer behaviors` lists them, other text works too")
    behavior = behavior or NO_BEHAVIOR
    searcher = getattr(method, "search", method)
    steerings = named_steerings(searcher)
    if getattr(searcher, "is_immediate", False):
        searched = await _searched(searcher, behavior, backend, draw, writer, dictionary, steerings)
    else:
        key = preparation_key(
            searcher, behavior, backend, draw=draw, writer=writer, steerings=steerings, dictionary=dictionary
        )
        path = cache_folder("preparations") / f"{key}.json"
        async with locked(path.with_suffix(".lock")):
            stored = None if redraw else _stored(path)
            searched = stored or await _searched(searcher, behavior, backend, draw, writer, dictionary, steerings)
            if stored is None:
                save_steering(searched, path)
    if searcher is not method:
        searched = cast(SharesSearch, method).sized(searched).described(method=method.name)
    if searched.needs_dictionary and dictionary is not None and backend.refusals(searched):
        searched = resolve(searched, dictionary)
    # Before a dose is measured: that costs answers.
    _refuse(searched, backend)
    steering = await _sized(searched, method, backend)
    return Prepared(steering, store(steering))


async def _searched(
    method: SteeringMethod,
    behavior: Behavior,
    backend: Backend,
    draw: int,
    writer: Backend | None,
    dictionary: Dictionary | None,
    steerings: Mapping[str, Steering],
) -> Steering:
    context = Context(backend, writer=writer, dictionary=dictionary, steerings=steerings, draw=draw)
    found = (await method.prepare(behavior, context)).described(**_provenance(method, behavior, backend, draw))
    if not found.needs_dictionary:
        _refuse(found, backend)
    return found


def _refuse(steering: Steering, backend: Backend) -> None:
    if reasons := backend.refusals(steering):
        raise Refused("; ".join(reasons))


def _stored(path: Path) -> Steering | None:
    try:
        return load_steering(path) if path.is_file() else None
    except SteeringFileError as problem:
        raise SteeringFileError(f"{problem} (with redraw=true)") from problem


def named_steerings(method: SteeringMethod) -> dict[str, Steering]:
    """The steerings that a method's SteeringFile parameters name, by parameter. Raises SteeringFileError."""
    named = {}
    for key, kind in typing.get_type_hints(type(method)).items():
        value = getattr(method, key, None)
        if value is not None and (kind is SteeringFile or SteeringFile in typing.get_args(kind)):
            named[key] = load_steering(Path(str(value)).expanduser())
    return named


async def _sized(searched: Steering, method: SteeringMethod, backend: Backend) -> Steering:
    """The searched steering at the method's coefficient or dose, what it was made from named in its provenance."""
    parameters = parameters_of(method)
    described: dict[str, object] = {"parameters": parameters}
    if parameters.get("coefficient") is not None:
        steering = searched.scaled(parameters["coefficient"])
    elif parameters.get("dose") is not None:
        norms = await residual_norms(backend)
        steering = with_dose(searched, parameters["dose"], norms)
        described["residual_norms"] = {str(layer): norms[layer] for layer in steering.layers}
    else:
        steering = searched
    if steering.fingerprint != searched.fingerprint:
        described["source_fingerprint"] = searched.provenance.get("source_fingerprint", searched.fingerprint)
    return steering.described(**described)


def _provenance(method: SteeringMethod, behavior: Behavior, backend: Backend, draw: int) -> dict[str, object]:
    return {
        "method": method.name,
        "behavior": {"slug": behavior.slug, "text": behavior.text, "digest": behavior.digest},
        "draw": draw,
        "model": backend.identity.as_dict(),
        "versions": {name: _version(name) for name in ("steer-tasks", "torch", "transformers", "numpy")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
