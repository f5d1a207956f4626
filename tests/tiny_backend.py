"""The tiny model, loaded once, behind a local backend; and what tests of the local backend look at it with."""

import asyncio
import copy
import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_adapters.backend import Message, Messages, Request
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.steering import AblateDirection, AddVector, ClampFeature, Steering, SystemPrompt
from tests.tiny_model import tiny_model

D_MODEL, N_LAYERS = 32, 4


@cache
def tiny() -> tuple[Any, Any]:
    """Model and tokenizer, float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)  # layers of 32 numbers: a second thread costs far more than it brings
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model(Path(folder))
        return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def another_model(dtype: torch.dtype = torch.float32) -> Any:
    """A copy of the tiny model that no other test sees."""
    return copy.deepcopy(tiny()[0]).to(dtype)


@contextmanager
def opened(model: Any = None, tokenizer: Any = None, **options: Any) -> Iterator[LocalBackend]:
    """A backend on the tiny model, or on another, closed in the end."""
    backend = LocalBackend(model or tiny()[0], tokenizer or tiny()[1], **{"name": "tiny", **options})
    try:
        yield backend
    finally:
        backend.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Its result, from an event loop of its own."""
    return asyncio.run(work)


def together(backend: Any, requests: Sequence[Request]) -> list[Any]:
    """Completions of requests made at the same time, in order; an error stands in its own place."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(backend.complete, requests), return_exceptions=True)

    return run(all_of_them())


def alone(backend: Any, request: Request) -> Any:
    """One completion in a batch of its own."""
    return run(backend.complete(request))


def user(text: str = "hello") -> Messages:
    """One message."""
    return (Message("user", text),)


def vector(seed: int, size: float = 3.0) -> np.ndarray:
    """A direction of this length, `(32,)`."""
    drawn = np.random.default_rng(seed).normal(size=D_MODEL)
    return (size * drawn / np.linalg.norm(drawn)).astype(np.float32)


def added(layer: int = 1, seed: int = 0, coefficient: float = 1.0, positions: Any = "response") -> Steering:
    """One vector of length 3, times `coefficient`."""
    return Steering((AddVector(layer, vector(seed), coefficient, positions),))


def clamp(layer: int = 1, seed: int = 5, value: float = 4.0, positions: Any = "response") -> ClampFeature:
    """A feature whose activation is near the size of the residual."""
    return ClampFeature(layer, vector(seed, 1.0), 0.1, vector(seed + 1, 1.0), value, positions)


def ablate(layer: int = 1, seed: int = 7, fraction: float = 1.0, positions: Any = "response") -> AblateDirection:
    """A random direction removed."""
    return AblateDirection(layer, vector(seed), fraction, positions)


MANY_STEERINGS = (
    Steering(),
    added(1, 0, 1.0, "all"),
    added(2, 1, -2.0, "prompt"),
    added(3, 2, 1.5, "response") + added(0, 3, 0.5, "all"),
    Steering((ablate(1, 7, 1.0, "all"),)),
    Steering((clamp(2, 5, 4.0), ablate(2, 9, 0.5, "prompt"))) + added(2, 4),
    Steering((SystemPrompt("Be brief."),)),
    Steering((SystemPrompt("Be funny."),)) + added(1, 8, 2.0),
)


class Recorder:
    """Outputs of all blocks, pass by pass, as seen by a hook installed when this was made: `passes[i][layer]`."""

    def __init__(self, model: Any) -> None:
        self.passes: list[list[Tensor]] = []
        self.handles = []
        blocks = model.model.layers if hasattr(model, "model") else model
        for layer, block in enumerate(blocks):
            self.handles.append(block.register_forward_hook(self._hook(layer)))

    def _hook(self, layer: int) -> Callable[..., None]:
        def hook(_block: Any, _inputs: Any, output: Any) -> None:
            if layer == 0:
                self.passes.append([])
            self.passes[-1].append((output[0] if isinstance(output, tuple) else output).detach().clone())

        return hook


@contextmanager
def watched(model: Any, **options: Any) -> Iterator[tuple[LocalBackend, Recorder, Recorder]]:
    """A backend with a recorder before its hooks and one after them."""
    before = Recorder(model)
    with opened(model, **options) as backend:
        before.passes.clear()  # opening reads one token, to learn what keys and values cost
        after = Recorder(model)
        yield backend, before, after


class Passes:
    """Shapes `(rows, tokens)` of the passes a model makes while this is open."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = []

    def __enter__(self) -> "Passes":
        def note(_model: Any, _args: Any, kwargs: Any) -> None:
            self.shapes.append(tuple(kwargs["input_ids"].shape))

        self._handle = self.model.register_forward_pre_hook(note, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
