"""The spec that says, in `extra_body["steer"]`, how one Inspect request is steered. Imports no host."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, Steering
from model_adapters.steering_file import load_steering

KEY = "steer"
VERSION = 1
FIELDS = ("v", "fingerprint", "file", "identity", "sample_index")


@dataclass(frozen=True)
class Spec:
    """Which steering one request asks for: by fingerprint, with the file that holds it (None for the control).

    `identity` is the run identity the asker expects, `sample_index` tells repeated samples apart; both None where
    the asker can't know them.
    """

    fingerprint: str
    file: str | None
    identity: str | None = None
    sample_index: int | None = None

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON; what is not known is left out."""
        known = {"identity": self.identity, "sample_index": self.sample_index}
        return {"v": VERSION, "fingerprint": self.fingerprint, "file": self.file} | {
            key: value for key, value in known.items() if value is not None
        }

    def steering(self) -> Steering:
        """The steering itself. Raises SteeringFileError for a broken file, Refused for one with other content."""
        if self.file is None:
            return CONTROL
        steering = load_steering(self.file)
        if steering.fingerprint != self.fingerprint:
            raise Refused(
                f"{self.file} holds steering {steering.fingerprint}, the request asks for {self.fingerprint}; "
                "make its spec again with `steer spec`"
            )
        return steering

    def check_identity(self, identity: ModelIdentity) -> None:
        """Raise Refused where the asker expects another model, package version or argument than `identity`'s."""
        here = identity.run(self.fingerprint)
        if self.identity is not None and self.identity != here:
            raise Refused(
                f"the request is for run {self.identity}, {identity.name} here is run {here}; "
                "open the model with the arguments the spec was made for"
            )


def spec_of(steering: Steering, file: str | Path | None) -> Spec:
    """The spec of a steering that is stored in `file`; the control needs no file."""
    if not steering:
        return Spec(CONTROL.fingerprint, None)
    if file is None:
        raise Refused(f"steering {steering.fingerprint} is in no file; save it first")
    return Spec(steering.fingerprint, str(Path(file).expanduser().resolve()))


def parse_spec(value: object) -> Spec:
    """The spec in a request. Raises Refused that names the field for anything but the form of `FIELDS`."""
    if not isinstance(value, Mapping):
        raise Refused(f"extra_body[{KEY!r}] is {value!r}; it is an object as `steer spec FILE` prints")
    if value.get("v") != VERSION or isinstance(value.get("v"), bool):
        raise Refused(f"extra_body[{KEY!r}] has v={value.get('v')!r}; this version of steer-tasks reads v={VERSION}")
    if unknown := [str(key) for key in value if key not in FIELDS]:
        raise Refused(f"extra_body[{KEY!r}] has the unknown key {unknown[0]!r}; it takes {', '.join(FIELDS)}")
    fingerprint = _text(value, "fingerprint")
    if fingerprint is None:
        raise Refused(f"extra_body[{KEY!r}] has no fingerprint; `steer spec FILE` prints the whole object")
    file = _text(value, "file")
    if "file" not in value or (file is None) != (fingerprint == CONTROL.fingerprint):
        raise Refused(
            f"extra_body[{KEY!r}]: fingerprint {fingerprint} and file {file!r} don't go together; "
            f"file is null for the control ({CONTROL.fingerprint}) and for nothing else"
        )
    index = value.get("sample_index")
    if index is not None and (isinstance(index, bool) or not isinstance(index, int) or index < 0):
        raise Refused(f"extra_body[{KEY!r}]: sample_index is {index!r}; it is a whole number from 0")
    return Spec(fingerprint, file, _text(value, "identity"), index)


def _text(value: Mapping[Any, Any], key: str) -> str | None:
    found = value.get(key)
    if found is not None and not (isinstance(found, str) and found):
        raise Refused(f"extra_body[{KEY!r}]: {key} is {found!r}; it is text")
    return found
