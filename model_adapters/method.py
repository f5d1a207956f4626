"""What a method is, and what it is given. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NewType, Protocol

from model_adapters.backend import Backend
from model_adapters.behavior import Behavior
from model_adapters.errors import Refused
from model_adapters.features import Dictionary
from model_adapters.steering import Steering

SteeringFile = NewType("SteeringFile", str)
"""A parameter that names a steering file. Preparation reads it; the method finds it in `Context.steerings`."""


@dataclass(frozen=True)
class Context:
    """What a method may use. `steerings` holds what its SteeringFile parameters name, by parameter.

    `writer` is a second model for writing or picking, `dictionary` a feature dictionary; both None where not given.
    `draw` seeds whatever the method samples.
    """

    backend: Backend
    writer: Backend | None = None
    dictionary: Dictionary | None = None
    steerings: Mapping[str, Steering] = field(default_factory=dict)
    draw: int = 0


class SteeringMethod(Protocol):
    """A way to find a steering. A frozen dataclass whose fields are its parameters; one file each.

    `prepare` runs once per preparation key and its result is stored. Where the dataclass has a field `coefficient` or
    `dose`, it returns vectors with coefficient 1 and the package applies the field afterwards, so that a sweep
    shares one preparation. `needs_behavior` False says that the behavior does not enter, `is_immediate` True that
    there is no search worth storing. A method that only sizes what another one finds is a `SharesSearch`.
    """

    name: ClassVar[str]

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """Find the steering. Raises Refused when the backend lacks a capability the method needs."""
        ...


class SharesSearch(Protocol):
    """A method that uses another one's search, and its stored preparation, and then sizes what was found."""

    @property
    def search(self) -> SteeringMethod:
        """The method that searches, with its parameters."""
        ...

    def sized(self, found: Steering) -> Steering:
        """What was found, at this method's own size."""
        ...


def capable(backend: Backend, capability: type, needed_by: str) -> Any:
    """The backend, if it has `capability` (a protocol of `backend`); else Refused, naming both."""
    if not isinstance(backend, capability):
        raise Refused(
            f"method {needed_by} needs a backend that {_verb(capability)}; {backend.name!r} doesn't: use a local model"
        )
    return backend


def _verb(capability: type) -> str:
    return {
        "ReadsActivations": "reads activations",
        "ScoresText": "scores text",
        "GivesDistributions": "gives distributions",
        "SuggestsFeatures": "suggests features",
    }.get(capability.__name__, capability.__name__)
