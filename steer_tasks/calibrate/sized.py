"""A method's steering at any size: prepared once, sized afterwards. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from model_adapters.behavior import Behavior
from model_adapters.dose import residual_norms, with_dose
from model_adapters.errors import Refused, SteerError
from model_adapters.features import Dictionary
from model_adapters.method import SteeringMethod
from model_adapters.methods import build_method, method_class, parameters_of
from model_adapters.preparation import SIZES, prepare
from model_adapters.steering import Steering

Size = Literal["dose", "factor"]
"""What is searched: a dose, or, for methods that have none, a factor on what the method finds."""

RANGES: Mapping[Size, tuple[float, float]] = {"dose": (0.05, 1.6), "factor": (0.125, 4.0)}
"""Least and largest size that is tried unless told: from hardly anything to where models break."""


@dataclass(frozen=True)
class Method:
    """A method as it is named on the command line: a name and parameters, its size left open."""

    name: str
    parameters: Mapping[str, object]

    @property
    def size(self) -> Size:
        """What of it is searched."""
        names = {item.name for item in fields(method_class(self.name))}
        return "dose" if "dose" in names and self.parameters.get("match") is None else "factor"

    @property
    def has_layer(self) -> bool:
        """Whether its layer can be chosen."""
        return "layer" in {item.name for item in fields(method_class(self.name))}

    def built(self, layer: int | None = None) -> SteeringMethod:
        """The method at size 1. Raises SteerError for parameters it doesn't take, and for a size among them."""
        if sized := [name for name in SIZES if self.parameters.get(name) is not None]:
            raise SteerError(f"-p {sized[0]}: the size is what calibration finds; leave it out")
        given = dict(self.parameters) | ({} if layer is None else {"layer": layer})
        return build_method(self.name, {**given, "dose": 1.0} if self.size == "dose" else given)


@dataclass(frozen=True)
class Sized:
    """What a method found, ready to be given a size. `norms` are the mean residual norms after each block."""

    found: Steering
    size: Size
    parameters: Mapping[str, object]
    norms: tuple[float, ...] = ()

    @property
    def layers(self) -> tuple[int, ...]:
        """Blocks that it changes."""
        return self.found.layers

    def at(self, size: float) -> Steering:
        """The steering at a dose, exactly what `steer prepare -p dose=…` makes, or times a factor."""
        if self.size == "factor":
            return self.found.scaled(size).described(parameters={**self.parameters, "factor": size})
        return with_dose(self.found, size, self.norms).described(parameters={**self.parameters, "dose": size})

    def check(self, largest: float) -> None:
        """Raise SteerError where it can't be made that large, as an ablation can't be more than whole."""
        try:
            self.at(largest)
        except SteerError as problem:
            raise SteerError(f"{problem}; end lower with --doses LOW:HIGH") from problem


@dataclass(frozen=True)
class Place:
    """What a search is made for beside method and behavior; `layer` None is the method's own."""

    layer: int | None = None
    draw: int = 0
    dictionary: Dictionary | None = None


async def sized(method: Method, behavior: Behavior | None, backend: Any, place: Place) -> Sized:
    """Search, or find the stored search again. Raises Refused where the method finds nothing that has a size."""
    built = method.built(place.layer)
    prepared = await prepare(built, behavior, backend, draw=place.draw, dictionary=place.dictionary)
    if not prepared.steering.on_residuals:
        raise Refused(f"method {method.name} changes no residual, so there is no size to calibrate; choose another")
    norms = await residual_norms(backend) if method.size == "dose" else ()
    found = Sized(prepared.steering, method.size, parameters_of(built), norms)
    found.at(1.0)  # what can't be scaled says so before anything is spent
    return found
