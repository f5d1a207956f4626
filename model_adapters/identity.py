"""Who answered: the identity of a model and of a run. Standard library only."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version


def package_version() -> str:
    """The installed version of this package, or `unknown` in a source tree that was never installed."""
    try:
        return version("steer-tasks")
    except PackageNotFoundError:
        return "unknown"


def digest(value: object) -> str:
    """First 16 hexadecimal digits of SHA-256 over canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class ModelIdentity:
    """All about a served model that changes an answer, apart from the steering.

    What a service or a wrapped model does not disclose is None; its `url` and `name` stand in.
    `arguments` holds every model argument that changes an answer (maximum length, template arguments, ...), as text.
    """

    name: str
    backend: str
    model_digest: str | None = None
    revision: str | None = None
    dtype: str | None = None
    url: str | None = None
    dictionary_digest: str | None = None
    template_digest: str | None = None
    template_mode: str | None = None
    arguments: Mapping[str, str] = field(default_factory=dict, hash=False)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return asdict(self)

    @cached_property
    def digest(self) -> str:
        """Short hash of the whole; paths are left out where the weights' own digest is known."""
        named = self.as_dict()
        if self.model_digest is not None:
            del named["name"]
        return digest(named)

    def run(self, fingerprint: str) -> str:
        """Run identity: this model, one steering (by fingerprint), the package version. It keys caches and proofs."""
        return digest([self.digest, fingerprint, package_version()])
