"""Steering files: a JSON file beside a safetensors file. numpy and safetensors only; no pickle is ever loaded.

Two files can't be replaced in one step. So vectors are written beside the old ones under a name that holds their
fingerprint, the JSON file is replaced, and only then do the new vectors take the plain name. A reader prefers the
name with the fingerprint, so what a killed write leaves is the old steering or the new one, whole.
"""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from model_adapters.conditions import CONDITIONS, Reading
from model_adapters.errors import SteerError, SteeringFileError
from model_adapters.interventions import FeatureEdit
from model_adapters.steering import KINDS, VECTORS, Steering
from model_adapters.values import ByContent

VALUES: Mapping[str, type] = {**KINDS, **{kind.__name__: kind for kind in (*CONDITIONS, Reading, FeatureEdit)}}
"""Every kind of value that a steering is made of, by its name."""


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` in one step: readers see the old file or the new one, never half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def save_steering(steering: Steering, path: str | Path) -> Path:
    """Write `steering` to `path` (`.json` is added where missing; vectors go to the `.safetensors` beside it).

    Returns the JSON path. Raises SteerError, before anything is written, for provenance that JSON can't hold.
    """
    path = Path(path)
    path = path if path.suffix == ".json" else path.with_name(path.name + ".json")
    tensors: dict[str, np.ndarray] = {}
    entries = [_entry(str(number), one, tensors) for number, one in enumerate(steering.interventions)]
    document = {
        "format": Steering.format,
        "fingerprint": steering.fingerprint,
        "interventions": entries,
        "provenance": dict(steering.provenance),
    }
    try:
        text = (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as problem:
        raise SteerError(f"{path}: JSON can't hold its provenance ({problem}); use texts and numbers") from problem
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = _fresh_vectors(path, steering.fingerprint)
    in_use = fresh.is_file()
    try:
        if tensors:
            write_whole(fresh, save(tensors))
        write_whole(path, text)
    except BaseException:
        if not in_use:
            fresh.unlink(missing_ok=True)
        raise
    # Another process that saves the same steering may have moved the same bytes already.
    with suppress(FileNotFoundError):
        os.replace(fresh, path.with_suffix(".safetensors"))
    return path


def _entry(place: str, value: ByContent, tensors: dict[str, np.ndarray]) -> dict[str, object]:
    """One value as JSON; its vectors go to `tensors` under their place, such as `0.condition.left.encoder`."""
    entry: dict[str, object] = {"kind": type(value).__name__}
    for item in fields(value):  # type: ignore[arg-type]
        held = getattr(value, item.name)
        if item.name in VECTORS:
            tensors[f"{place}.{item.name}"] = held
        else:
            entry[item.name] = _plain(f"{place}.{item.name}", held, tensors)
    return entry


def _plain(place: str, held: object, tensors: dict[str, np.ndarray]) -> object:
    if isinstance(held, ByContent):
        return _entry(place, held, tensors)
    if isinstance(held, tuple):
        return [_plain(f"{place}.{number}", one, tensors) for number, one in enumerate(held)]
    return held


def _fresh_vectors(path: Path, fingerprint: str) -> Path:
    return path.with_name(f".{path.stem}.{fingerprint}.safetensors")


def load_steering(path: str | Path) -> Steering:
    """Read a steering and check it against its own fingerprint.

    Raises SteeringFileError when the file is missing, truncated, altered, of another format, or a pickle.
    """
    path = Path(path)
    document = _document(path)
    entries = document["interventions"]
    fresh = _fresh_vectors(path, document["fingerprint"])
    vectors = fresh if fresh.is_file() else path.with_suffix(".safetensors")
    tensors = _tensors(vectors) if _needs_vectors(entries) else {}
    try:
        interventions = tuple(_intervention(str(number), entry, tensors) for number, entry in enumerate(entries))
        steering = Steering(interventions, document["provenance"])
    except (SteerError, RecursionError) as problem:
        raise SteeringFileError(f"{path}: not a whole steering ({problem}); prepare it again") from problem
    if steering.fingerprint != document["fingerprint"]:
        raise SteeringFileError(
            f"{path}: content has fingerprint {steering.fingerprint}, the file says {document['fingerprint']}; "
            "it was altered after it was written: prepare it again"
        )
    return steering


def _document(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise SteeringFileError(f"{path}: no such steering file; `steer prepare` writes one")
    raw = path.read_bytes()
    if _looks_pickled(raw):
        raise SteeringFileError(f"{path}: a pickle or torch file, which is never loaded; give the .json of a steering")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as problem:
        raise SteeringFileError(f"{path}: not JSON ({problem}); truncated? prepare it again") from problem
    if not isinstance(document, dict) or document.get("format") != Steering.format:
        raise SteeringFileError(f"{path}: not a steering file of format {Steering.format!r}")
    expected = {"fingerprint": str, "interventions": list, "provenance": dict}
    for key, kind in expected.items():
        if not isinstance(document.get(key), kind):
            raise SteeringFileError(f"{path}: {key!r} is missing or not a {kind.__name__}; prepare it again")
    if not re.fullmatch("[0-9a-f]{16}", document["fingerprint"]):
        raise SteeringFileError(f"{path}: 'fingerprint' is not 16 hexadecimal digits; prepare it again")
    return document


def _looks_pickled(raw: bytes) -> bool:
    return raw[:1] == b"\x80" or raw[:4] == b"PK\x03\x04"


def _needs_vectors(entries: object) -> bool:
    """Whether an entry, or one inside it, is of a kind that holds vectors."""
    if isinstance(entries, list):
        return any(_needs_vectors(one) for one in entries)
    if not isinstance(entries, dict):
        return False
    kind = VALUES.get(str(entries.get("kind")))
    holds = kind is not None and any(item.name in VECTORS for item in fields(kind))
    return holds or any(_needs_vectors(one) for one in entries.values())


def _tensors(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise SteeringFileError(f"{path}: the vectors of this steering are missing; keep both files together")
    raw = path.read_bytes()
    try:
        return load(raw)
    except SafetensorError as problem:
        # Only now: a whole safetensors file may begin with a pickle's first byte, as the length of its header.
        if _looks_pickled(raw):
            raise SteeringFileError(
                f"{path}: a pickle or torch file where safetensors is expected; it is never loaded"
            ) from problem
        raise SteeringFileError(f"{path}: not a whole safetensors file ({problem}); prepare it again") from problem
    except KeyError as problem:  # how safetensors reports a type that numpy lacks, such as bfloat16
        raise SteeringFileError(f"{path}: holds {problem} values; vectors are float32: prepare it again") from problem


def _intervention(place: str, entry: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    name = entry.get("kind") if isinstance(entry, dict) else entry
    if str(name) not in KINDS:
        raise SteerError(f"unknown intervention {name!r}")
    return _value(place, entry, tensors)


def _value(place: str, entry: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Any:
    """The value that `_entry` made an entry of."""
    name = entry.get("kind")
    kind = VALUES.get(str(name))
    if kind is None:
        raise SteerError(f"unknown kind {name!r} at {place}")
    names = {item.name for item in fields(kind)}
    unknown = set(entry) - (names - VECTORS) - {"kind"}
    if unknown:
        raise SteerError(f"{name} has no field {', '.join(sorted(unknown))}")
    values = {key: _held(f"{place}.{key}", entry[key], tensors) for key in names - VECTORS if key in entry}
    for field_name in names & VECTORS:
        label = f"{place}.{field_name}"
        if label not in tensors:
            raise SteerError(f"vector {label} is missing")
        if tensors[label].dtype != np.float32:
            raise SteerError(f"{label} is {tensors[label].dtype}, not float32")
        values[field_name] = tensors[label]
    if missing := sorted(names - values.keys()):
        raise SteerError(f"{name} has no {', '.join(missing)}")
    return kind(**values)


def _held(place: str, held: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    if isinstance(held, dict):
        return _value(place, held, tensors)
    if isinstance(held, list):
        return [_held(f"{place}.{number}", one, tensors) for number, one in enumerate(held)]
    return held
