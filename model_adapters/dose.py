"""Doses: how large an added vector is beside the residual it is added to. numpy only."""

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from model_adapters.backend import Backend, Message, ReadsActivations, Request, Sampling
from model_adapters.behavior import neutral_prompts
from model_adapters.cache import cache_folder
from model_adapters.errors import Refused, SteerError
from model_adapters.lock import locked
from model_adapters.method import capable
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import write_whole

ANSWER_TOKENS = 64
"""Length of the control's answers over which residual norms are measured."""


async def residual_norms(backend: Backend) -> tuple[float, ...]:
    """Mean ‖h‖ of the residual after each block, `(n_layers,)`, over the response tokens of the unsteered model's own
    greedy answers (64 tokens) to the package's neutral prompts, the first position left out.

    Measured once per model identity and kept in the cache folder. Raises Refused where the model says nothing or its
    activations aren't finite, SteerError where what was kept can't be read.
    """
    reader: ReadsActivations = capable(backend, ReadsActivations, "dose")
    memo = cache_folder("norms") / f"{backend.identity.digest}.json"
    async with locked(memo.with_suffix(".lock")):
        if memo.is_file():
            return _kept_norms(memo, reader.n_layers)
        sizes = await _sizes(backend, reader)
        norms = tuple(float(value) for value in sizes.mean(axis=1))
        document = {"model": backend.identity.as_dict(), "tokens": sizes.shape[1], "norms": norms}
        write_whole(memo, json.dumps(document, indent=2).encode())
        return norms


def _kept_norms(memo: Path, n_layers: int) -> tuple[float, ...]:
    try:
        norms = tuple(float(value) for value in json.loads(memo.read_bytes())["norms"])
    except (ValueError, TypeError, KeyError) as problem:
        raise SteerError(f"{memo}: not a whole file of residual norms; delete it to measure them again") from problem
    if len(norms) != n_layers or not all(0.0 < value < math.inf for value in norms):
        raise SteerError(f"{memo}: not {n_layers} positive norms; delete it to measure them again")
    return norms


async def _sizes(backend: Backend, reader: ReadsActivations) -> np.ndarray:
    """‖h‖ after every block at every response token of every answer: `(n_layers, tokens)`, float64."""
    sampling = Sampling(max_tokens=ANSWER_TOKENS)
    prompts = [(Message("user", prompt),) for prompt in neutral_prompts()]
    answers = await asyncio.gather(*(backend.complete(Request(prompt, sampling=sampling)) for prompt in prompts))
    said = [answer.text if answer.token_ids is None else answer.token_ids for answer in answers]
    spoken = [(prompt, response) for prompt, response in zip(prompts, said, strict=True) if response]
    if not spoken:
        raise Refused(f"{backend.name}: the unsteered model says nothing to the neutral prompts; use coefficient=…")
    read = await asyncio.gather(*(reader.activations(prompt, response) for prompt, response in spoken))
    sizes = np.concatenate([np.linalg.norm(one.astype(np.float64), axis=-1) for one in read], axis=1)
    if not np.isfinite(sizes).all():
        raise Refused(f"{backend.name}: activations hold NaN or infinity; use another dtype")
    return sizes


def with_dose(steering: Steering, dose: float, norms: Mapping[int, float] | tuple[float, ...]) -> Steering:
    """Every AddVector sized so that ‖coefficient * vector‖ = dose * mean residual norm at its site.

    A negative dose is that much of the opposite direction. Raises SteerError where no vector is added, and for a zero
    vector, which has no direction to size.
    """
    if not any(isinstance(one, AddVector) for one in steering.interventions):
        raise SteerError("a dose sizes added vectors and this steering adds none; leave dose out")
    sized = []
    for one in steering.interventions:
        if isinstance(one, AddVector):
            length = float(np.linalg.norm(one.vector.astype(np.float64)))
            if length == 0.0:
                raise SteerError(f"the vector at layer {one.layer} is zero; it has no dose")
            one = replace(one, coefficient=dose * norms[one.layer] / length)
        sized.append(one)
    return Steering(tuple(sized), steering.provenance)


def doses_of(steering: Steering, norms: tuple[float, ...]) -> dict[int, float]:
    """The dose of each steered layer: norm of the summed vectors over the mean residual norm there."""
    sums: dict[int, np.ndarray] = {}
    for one in steering.interventions:
        if isinstance(one, AddVector):
            added = one.vector.astype(np.float64) * one.coefficient
            sums[one.layer] = sums[one.layer] + added if one.layer in sums else added
    return {layer: float(np.linalg.norm(total)) / norms[layer] for layer, total in sorted(sums.items())}
