"""Arms: which steering a task's samples run under, checked as far as possible before any weight is loaded.

May import model_adapters; no harness, no torch.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from model_adapters.backend import Backend
from model_adapters.behavior import Behavior, find_behaviors
from model_adapters.errors import Refused, SteerError
from model_adapters.features import Dictionary, open_dictionary, resolve
from model_adapters.method import SteeringMethod
from model_adapters.methods import build_method, parameters_of
from model_adapters.preparation import named_steerings, prepare, store
from model_adapters.steering import Steering, SystemPrompt
from model_adapters.steering_file import load_steering

FOUND = ("method", "parameters", "draw")
"""What a frozen steering's provenance says of how it was found."""

NO_BEHAVIOR = "none"
"""How samples name the absence of a behavior."""

Shape = Callable[[], tuple[int, int] | None]
"""Gives `(n_layers, d_model)` of the model under test, None where it isn't known yet; asked only where a layer or a
vector is to be checked."""


@dataclass(frozen=True)
class Arm:
    """One condition of an experiment: a method with its parameters, or a frozen steering's file, for some behaviors.

    `behaviors` are by slug; empty where no behavior enters. Exactly one of `built` and `file` is set. `sentence` is
    added to what the method finds; it may hold `{behavior}`.
    """

    built: SteeringMethod | None
    file: Path | None
    behaviors: Mapping[str, Behavior] = field(default_factory=dict)
    draw: int = 0
    redraw: bool = False
    dictionary: str | None = None
    sentence: SystemPrompt | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """What its samples are marked with: behaviors' slugs, or `none`."""
        return tuple(self.behaviors) or (NO_BEHAVIOR,)

    def frozen(self) -> Steering | None:
        """The steering of the file; None where a method prepares it."""
        return None if self.file is None else load_steering(self.file)

    def check_shape(self, shape: Shape) -> None:
        """Raise Refused for a layer that the model doesn't have and for vectors of another width."""
        steerings = [self.frozen(), *(named_steerings(self.built).values() if self.built else ())]
        found = [site for steering in steerings if steering for site in steering.sites]
        layer = getattr(self.built, "layer", None)
        if layer is None and not found:
            return
        known = shape()
        if known is None:
            return
        n_layers, d_model = known
        for number in ([] if layer is None else [layer]) + [at for _, at, _ in found]:
            if not 0 <= number < n_layers:
                raise Refused(f"layer {number} is out of range; the model has layers 0 to {n_layers - 1}")
        for name, _, vector in found:
            if vector.size != d_model:
                raise Refused(f"{name} has width {vector.size}, the model has {d_model}; prepare it on this model")

    def prepared(self, backend: Backend, label: str) -> tuple[Steering, Path | None]:
        """The steering for samples marked `label`, and its file; the control has none. Blocks: call it in a thread.

        Raises Refused where the backend can't run it.
        """
        if self.file is not None:
            steering, path = load_steering(self.file), self.file
            opened = self._opened()
            if steering.needs_dictionary and opened is not None and backend.refusals(steering):
                steering = resolve(steering, opened)
                path = store(steering)
            if reasons := backend.refusals(steering):
                raise Refused("; ".join(reasons))
        else:
            assert self.built is not None
            behavior = self.behaviors.get(label)
            # A loop of its own: preparation reads files and waits for other processes, which mustn't stop the host's.
            asked = prepare(
                self.built, behavior, backend, draw=self.draw, redraw=self.redraw, dictionary=self._opened()
            )
            found = asyncio.run(asked)
            steering, path = found.steering, found.path
            if self.sentence is not None:
                steering = self._asking(steering, behavior)
                if reasons := backend.refusals(steering):
                    raise Refused("; ".join(reasons))
                path = store(steering)
        return steering, path if steering else None

    def _asking(self, steering: Steering, behavior: Behavior | None) -> Steering:
        """The steering with the sentence, its provenance kept."""
        assert self.sentence is not None
        text = self.sentence.text.replace("{behavior}", behavior.text if behavior else "")
        said = replace(self.sentence, text=text)
        return Steering((*steering.interventions, said), {**steering.provenance, "prompting": text})

    def _opened(self) -> Dictionary | None:
        return open_dictionary(self.dictionary) if self.dictionary else None

    def provenance(self) -> dict[str, object]:
        """What a result records of it; of a frozen steering also how its file says that it was found."""
        frozen = self.frozen()
        return {
            "method": self.built.name if self.built else None,
            "parameters": parameters_of(self.built) if self.built else None,
            "steering": str(self.file) if self.file else None,
            "behaviors": {slug: behavior.digest for slug, behavior in self.behaviors.items()},
            "draw": self.draw,
            "dictionary": self.dictionary,
            "prompting": self.sentence.text if self.sentence else None,
            "frozen": None if frozen is None else {name: frozen.provenance.get(name) for name in FOUND},
        }


def build_arm(
    method: str = "control",
    parameters: Mapping[str, object] | None = None,
    *,
    behavior: str | Sequence[str] | None = None,
    steering: str | Path | None = None,
    draw: int = 0,
    redraw: bool = False,
    dictionary: str | None = None,
    sentence: SystemPrompt | None = None,
) -> Arm:
    """The arm that a task's arguments describe; a parameter that is None counts as not given.

    `sentence`, with a place for `{behavior}`, is added to what the method finds.

    Raises SteerError for everything that can be known from names, numbers and files.
    """
    given = {name: value for name, value in (parameters or {}).items() if value is not None}
    if isinstance(draw, bool) or not isinstance(draw, int) or draw < 0:
        raise SteerError(f"draw={draw!r}; it is a whole number from 0")
    if steering is not None:
        extra = [*(["method"] if method != "control" else []), *(["behavior"] if behavior else []), *given]
        extra += ["prompting"] if sentence else []
        if extra:
            raise SteerError(f"steering={steering} is complete; leave {', '.join(extra)} out")
        return replace(_frozen_arm(Path(steering).expanduser().resolve()), dictionary=dictionary)
    built = build_method(method, given)
    behaviors = {one.slug: one for one in find_behaviors(behavior)} if behavior else {}
    if not behaviors and getattr(built, "needs_behavior", True):
        raise SteerError(f"method {method} needs behavior=…; `steer behaviors` lists them, `all` takes the study's 14")
    if sentence is not None and not behaviors:
        raise SteerError("the prompting sentence needs behavior=…; `steer behaviors` lists them")
    named_steerings(built)
    return Arm(built, None, behaviors, draw, redraw, dictionary, sentence)


def _frozen_arm(file: Path) -> Arm:
    found = load_steering(file).provenance.get("behavior")
    found = found if isinstance(found, dict) else {}
    slug = found.get("slug")
    if not isinstance(slug, str) or slug == NO_BEHAVIOR:
        return Arm(None, file)
    # Marks the samples, so that they pair with those of a run that prepared the same; nothing is made from it.
    return Arm(None, file, {slug: Behavior(slug, str(found.get("text", slug)), "")})
