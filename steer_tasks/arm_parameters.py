"""The arguments by which a task names its arm: written once, in every task's signature.

No harness here. Inspect reads a task's arguments from its signature, so each of our tasks must show them all.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

from model_adapters.errors import SteerError
from model_adapters.steering import SystemPrompt
from steer_tasks.arms import Arm, build_arm
from steer_tasks.parameters import hosted_parameters
from steer_tasks.protocol import Protocol

METHOD = {"method": True}


@dataclass(frozen=True)
class ArmRequest:
    """An arm as a task's arguments describe it.

    `behavior` is one, a list, or `all`; `steering` a frozen steering's file. `prompting` adds the protocol's sentence
    to what the method finds. From `text` on these are the methods' parameters; those of a method that isn't ours go
    into `parameters` (`name=value`, or an object). `dictionary` is for methods that choose features on a local model.
    """

    behavior: str | list[str] | None = None
    method: str = "control"
    steering: str | None = None
    draw: int = 0
    redraw: bool = False
    prompting: bool = False
    dictionary: str | None = None
    text: str | None = field(default=None, metadata=METHOD)
    placement: str | None = field(default=None, metadata=METHOD)
    layer: int | None = field(default=None, metadata=METHOD)
    coefficient: float | None = field(default=None, metadata=METHOD)
    dose: float | None = field(default=None, metadata=METHOD)
    positions: str | None = field(default=None, metadata=METHOD)
    contrasts: str | None = field(default=None, metadata=METHOD)
    match: str | None = field(default=None, metadata=METHOD)
    first: str | None = field(default=None, metadata=METHOD)
    second: str | None = field(default=None, metadata=METHOD)
    edits: str | None = field(default=None, metadata=METHOD)
    magnitude: float | None = field(default=None, metadata=METHOD)
    pairs: int | None = field(default=None, metadata=METHOD)
    pool: int | None = field(default=None, metadata=METHOD)
    most: int | None = field(default=None, metadata=METHOD)
    total: float | None = field(default=None, metadata=METHOD)
    everywhere: float | None = field(default=None, metadata=METHOD)
    effect: bool | None = field(default=None, metadata=METHOD)
    parameters: dict[str, Any] | list[str] | str | None = None

    def given(self, protocol: Protocol) -> dict[str, object]:
        """The method's parameters that were given; a prompt's text and placement are the protocol's unless given."""
        named = {one.name: getattr(self, one.name) for one in fields(self) if one.metadata.get("method")}
        if self.method == "prompt" and self.steering is None:
            named["text"] = protocol.prompting if self.text is None else self.text
            named["placement"] = protocol.placement if self.placement is None else self.placement
        given = {**named, **hosted_parameters(self.parameters)}
        return {name: value for name, value in given.items() if value is not None}

    def sentence(self, protocol: Protocol) -> SystemPrompt | None:
        """The prompting sentence, with its `{behavior}`, where this arm's steering gets one from the protocol."""
        if not self.prompting and (self.steering is not None or not protocol.arm(self.method).sentence):
            return None
        if self.method == "prompt":
            raise SteerError("method=prompt says the sentence itself; leave prompting out")
        return SystemPrompt(protocol.prompting, protocol.placement)

    def arm(self, protocol: Protocol) -> Arm:
        """The arm; everything that needs no weights is checked."""
        return build_arm(
            self.method,
            self.given(protocol),
            behavior=self.behavior,
            steering=self.steering,
            draw=self.draw,
            redraw=self.redraw,
            dictionary=self.dictionary,
            sentence=self.sentence(protocol),
        )

    @property
    def wording(self) -> str:
        """Which of a protocol's arms it is; a file's is the default one, as the file is complete."""
        return "default" if self.steering is not None else self.method


def takes_arm(build: Callable[..., Any]) -> Callable[..., Any]:
    """`build(arm, …)` with the fields of ArmRequest in its signature instead of `arm`, by keyword, and their defaults.

    A parameter of `build` that is named like a field sets that field's default and stays out of the call: a task's
    own default method, say.
    """
    hints = get_type_hints(ArmRequest)
    own = [one for name, one in inspect.signature(build).parameters.items() if name != "arm"]
    defaults = {one.name: one.default for one in own if one.name in hints}
    shown = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(one.name, one.default),
            annotation=hints[one.name],
        )
        for one in fields(ArmRequest)
    ]
    rest = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own if one.name not in hints]
    signature = inspect.Signature(shown + rest, return_annotation=inspect.signature(build).return_annotation)

    @functools.wraps(build)
    def built(**given: Any) -> Any:
        bound = signature.bind(**given)
        bound.apply_defaults()
        named = {name: value for name, value in bound.arguments.items() if name in hints}
        others = {name: value for name, value in bound.arguments.items() if name not in hints}
        return build(arm=ArmRequest(**named), **others)

    built.__signature__ = signature  # type: ignore[attr-defined]
    built.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return built
