"""Preparation: a method's search runs once per key, its result is stored, and later runs find it again. No torch."""

import hashlib
import json
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from model_adapters.backend import Backend
from model_adapters.behavior import Behavior
from model_adapters.cache import cache_folder
from model_adapters.dose import residual_norms, with_dose
from model_adapters.errors import Refused, SteerError, SteeringFileError
from model_adapters.identity import package_version
from model_adapters.lock import locked
from model_adapters.method import Context, SteeringFile, SteeringMethod
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
        "dictionary": model.dictionary_digest,
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
) -> Prepared:
    """The steering of a method for a behavior on a backend's model: found again where it was prepared before.

    `redraw` searches again and replaces what was stored. Raises SteerError for parameters that contradict each other
    and where the method needs a behavior and has none, Refused where the backend can't run what was found.
    """
    check_parameters(method)
    if isinstance(draw, bool) or not isinstance(draw, int) or draw < 0:
        raise SteerError(f"draw is {draw!r}; draws are whole numbers from 0")
    if behavior is None and getattr(method, "needs_behavior", True):
        raise SteerError(f"method {method.name} needs behavior=…; `steer behaviors` lists them, other text works too")
    behavior = behavior or NO_BEHAVIOR
    steerings = _named_steerings(method)
    key = preparation_key(method, behavior, backend, draw=draw, writer=writer, steerings=steerings)
    path = cache_folder("preparations") / f"{key}.json"
    async with locked(path.with_suffix(".lock")):
        searched = None if redraw else _stored(path)
        if searched is None:
            context = Context(backend, writer=writer, steerings=steerings, draw=draw)
            searched = await method.prepare(behavior, context)
            searched = searched.described(**_provenance(method, behavior, backend, draw))
            _refuse(searched, backend)
            save_steering(searched, path)
    # Before a dose is measured: that costs answers.
    _refuse(searched, backend)
    steering = await _sized(searched, method, backend)
    return Prepared(steering, store(steering))


def _refuse(steering: Steering, backend: Backend) -> None:
    if reasons := backend.refusals(steering):
        raise Refused("; ".join(reasons))


def _stored(path: Path) -> Steering | None:
    try:
        return load_steering(path) if path.is_file() else None
    except SteeringFileError as problem:
        raise SteeringFileError(f"{problem} (with redraw=true)") from problem


def _named_steerings(method: SteeringMethod) -> dict[str, Steering]:
    named = {}
    for key, kind in typing.get_type_hints(type(method)).items():
        value = getattr(method, key, None)
        if value is not None and (kind is SteeringFile or SteeringFile in typing.get_args(kind)):
            named[key] = load_steering(str(value))
    return named


async def _sized(searched: Steering, method: SteeringMethod, backend: Backend) -> Steering:
    """The searched steering at the method's coefficient or dose."""
    parameters = parameters_of(method)
    described = {"parameters": parameters}
    if parameters.get("coefficient") is not None:
        steering = searched.scaled(parameters["coefficient"])
    elif parameters.get("dose") is not None:
        norms = await residual_norms(backend)
        steering = with_dose(searched, parameters["dose"], norms)
        described["residual_norms"] = {str(layer): norms[layer] for layer in steering.layers}
    else:
        steering = searched
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
