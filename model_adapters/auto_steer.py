"""Automatic steering over a dictionary: which features to edit for a behavior, and by how much. numpy only.

After Goodfire's public description of Auto Steer (contrastive examples with and without the behavior, the features
that tell them apart, values for them); what that service never published is an option here.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from model_adapters.backend import (
    Backend,
    Message,
    ReadsActivations,
    Request,
    Sampling,
    ScoresText,
    SuggestedEdits,
)
from model_adapters.behavior import Behavior, Contrast, neutral_prompts
from model_adapters.errors import Refused, SteerError
from model_adapters.features import Dictionary
from model_adapters.identity import digest
from model_adapters.method import capable
from model_adapters.steering import CONTROL, AddVector, FeatureEdit, Steering, SystemPrompt


@dataclass(frozen=True)
class AutoSteerOptions:
    """The terms of the search.

    `pairs` is how many contrast conversations are drawn (the hosted service took up to 64; more cost time). `pool` is
    how many candidates are looked at closely: 30 as in the README of the `goodfire` SDK. `most` is the largest number
    of edits: the authors of arXiv:2602.04903 saw at most about three. `total` is the larger of the two sums of values
    of one sign: 1.1, as the SDK's `FeatureEdits.rescale()` has it, which gives the one published sample of the hosted
    service exactly. `everywhere` leaves out features that are active on more than this share of the answers' tokens.
    `effect` keeps candidates whose push alone makes the behavior's answers likelier against those without it; measured
    on the package's own dictionary it doubled the separation from random triples, so it is on (docs/features.md).
    """

    pairs: int = 6
    pool: int = 30
    most: int = 3
    total: float = 1.1
    everywhere: float = 0.3
    effect: bool = True

    def __post_init__(self) -> None:
        for name in ("pairs", "pool", "most"):
            if getattr(self, name) < 1:
                raise SteerError(f"auto_steer.{name} is {getattr(self, name)}; it is at least 1")
        if not self.total > 0:
            raise SteerError(f"auto_steer.total is {self.total}; it is above 0")
        if not 0.0 < self.everywhere <= 1.0:
            raise SteerError(f"auto_steer.everywhere is {self.everywhere}; it is a share of tokens, in (0, 1]")


ANSWER_TOKENS = 48
"""Length of the model's own contrast answers, for a behavior without written ones."""

TEMPERATURE, TOP_P = 0.6, 0.9
"""How they are sampled: the hosted service's own defaults for chat."""


async def find_edits(
    behavior: Behavior, backend: Backend, dictionary: Dictionary, options: AutoSteerOptions, draw: int
) -> SuggestedEdits:
    """Edits for a behavior on the backend's model; the draw seeds which conversations they are found from.

    Features are ranked by the cosine of their decoder with the mean difference of residuals between answers that show
    the behavior and answers that don't; the `pool` best whose own activation differs in the same direction go on to
    the effect filter. Values are in proportion to the differences of mean activation, then rescaled to `total`.
    Everything is in the provenance. Raises Refused where the backend reads no activations or no feature differs.
    """
    reader = capable(backend, ReadsActivations, "auto_steer")
    if reader.d_model != dictionary.d_model or dictionary.layer >= reader.n_layers:
        raise Refused(
            f"dictionary {dictionary.name} is of layer {dictionary.layer}, width {dictionary.d_model}; the model has "
            f"{reader.n_layers} layers, width {reader.d_model}: give a dictionary of this model"
        )
    pairs, source = await _pairs(behavior, backend, options, draw)
    contrast = await _contrast(pairs, reader, dictionary)
    pool = _pool(contrast, dictionary, options)
    if not pool:
        raise Refused(f"auto_steer: no feature of {dictionary.name} tells {behavior.slug} apart; use another method")
    effects = await _effects(pool, pairs, contrast, backend, dictionary, options) if options.effect else {}
    chosen = _chosen(pool, effects, options)
    values = rescaled([float(contrast.difference[index]) for index in chosen], options.total)
    edits = tuple(FeatureEdit(index, value) for index, value in zip(chosen, values, strict=True))
    labels = {index: dictionary.labels.of(index) for index in pool}
    norms = dictionary.rows(chosen).decoder_norms
    provenance = {
        "auto_steer": asdict(options),
        "contrasts": {"source": source, "pairs": len(pairs), "digests": [digest(asdict(pair)) for pair in pairs]},
        "pool": [_noted(index, labels, contrast, effects) for index in pool],
        "features": [
            {"index": edit.index, "label": labels[edit.index], "value": edit.value, "decoder_norm": float(norm)}
            for edit, norm in zip(edits, norms, strict=True)
        ],
        "n_features": dictionary.n_features,
        "draw": draw,
    }
    return SuggestedEdits(edits, {edit.index: labels[edit.index] for edit in edits}, dictionary.digest, provenance)


def rescaled(values: Sequence[float], total: float) -> list[float]:
    """Values divided by the larger of their positive and negative sums, times `total`; signs and ratios stay.

    The rule of `FeatureEdits.rescale()` in the `goodfire` SDK 0.3.5. Raises SteerError where all are zero.
    """
    larger = max(sum(value for value in values if value > 0), -sum(value for value in values if value < 0))
    if larger == 0:
        raise SteerError("edits that are all zero can't be rescaled; leave them out")
    return [value / larger * total for value in values]


@dataclass(frozen=True)
class _Contrast:
    """What tells the two sides apart: mean differences by feature `(features,)` and of residuals `(d_model,)`, and
    the share of tokens each feature is active on."""

    difference: np.ndarray
    direction: np.ndarray
    active: np.ndarray


async def _pairs(
    behavior: Behavior, backend: Backend, options: AutoSteerOptions, draw: int
) -> tuple[list[Contrast], str]:
    """The drawn conversations and where they come from: the behavior's file, or the model's own answers."""
    random = np.random.default_rng([draw, 0xA5])
    if behavior.contrasts:
        order = random.permutation(len(behavior.contrasts))[: options.pairs]
        return [behavior.contrasts[place] for place in sorted(order)], "written"
    prompts = neutral_prompts()
    chosen = [prompts[place] for place in sorted(random.permutation(len(prompts))[: options.pairs])]
    asked = Steering((SystemPrompt(f"In everything you write, {behavior.text}."),))
    sampling = Sampling(max_tokens=ANSWER_TOKENS, temperature=TEMPERATURE, top_p=TOP_P, seed=draw)
    requests = [
        Request((Message("user", prompt),), steering, sampling, number)
        for steering in (asked, CONTROL)
        for number, prompt in enumerate(chosen)
    ]
    texts = [answer.text for answer in await asyncio.gather(*map(backend.complete, requests))]
    made = zip(chosen, texts[: len(chosen)], texts[len(chosen) :], strict=True)
    found = [Contrast(*one) for one in made if one[1].strip() and one[2].strip()]
    if not found:
        raise Refused(f"auto_steer: the model answers nothing with and without {behavior.slug}; write contrasts")
    return found, "own"


async def _contrast(pairs: Sequence[Contrast], reader: ReadsActivations, dictionary: Dictionary) -> _Contrast:
    texts = [(pair.prompt, text) for pair in pairs for text in (pair.positive, pair.negative)]
    read = await asyncio.gather(*(reader.activations((Message("user", prompt),), text) for prompt, text in texts))
    residuals = [one[dictionary.layer] for one in read]
    encoded = [await asyncio.to_thread(dictionary.encode, one) for one in residuals]
    means = np.stack([one.mean(axis=0, dtype=np.float64) for one in encoded])
    middles = np.stack([one.mean(axis=0, dtype=np.float64) for one in residuals])
    active = np.concatenate([one > 0 for one in encoded]).mean(axis=0)
    return _Contrast(
        difference=(means[0::2] - means[1::2]).mean(axis=0),
        direction=(middles[0::2] - middles[1::2]).mean(axis=0),
        active=active,
    )


def _pool(contrast: _Contrast, dictionary: Dictionary, options: AutoSteerOptions) -> list[int]:
    """Candidates, best first."""
    telling = np.flatnonzero((contrast.difference != 0) & (contrast.active <= options.everywhere))
    if not len(telling):
        return []
    rows = dictionary.rows([int(index) for index in telling])
    size = rows.decoder_norms * np.linalg.norm(contrast.direction)
    products = rows.decoder.astype(np.float64) @ contrast.direction
    cosines = np.divide(products, size, out=np.zeros_like(products), where=size > 0)
    agreeing = np.where(cosines * contrast.difference[telling] > 0, np.abs(cosines), 0.0)
    order = [place for place in np.argsort(-agreeing, kind="stable") if agreeing[place] > 0]
    return [int(telling[place]) for place in order[: options.pool]]


async def _effects(
    pool: Sequence[int],
    pairs: Sequence[Contrast],
    contrast: _Contrast,
    backend: Backend,
    dictionary: Dictionary,
    options: AutoSteerOptions,
) -> dict[int, float]:
    """For each candidate pushed alone by `total`: by how much the mean log-likelihood per token of answers with the
    behavior rises against that of answers without it."""
    scorer = capable(backend, ScoresText, "auto_steer with effect=true")
    rows = dictionary.rows(pool)
    sizes = dictionary.factor * options.total * np.sign(contrast.difference[list(pool)])
    steerings = [CONTROL] + [
        Steering((AddVector(dictionary.layer, decoder, float(size)),))
        for decoder, size in zip(rows.decoder, sizes, strict=True)
    ]

    async def preference(steering: Steering) -> float:
        texts = [(pair.prompt, text) for pair in pairs for text in (pair.positive, pair.negative)]
        scored = await asyncio.gather(
            *(scorer.score((Message("user", prompt),), text, steering) for prompt, text in texts)
        )
        means = [one.total / len(one.logprobs) for one in scored]
        return float(np.mean(means[0::2]) - np.mean(means[1::2]))

    plain, *pushed = await asyncio.gather(*map(preference, steerings))
    return {index: value - plain for index, value in zip(pool, pushed, strict=True)}


def _chosen(pool: Sequence[int], effects: Mapping[int, float], options: AutoSteerOptions) -> list[int]:
    """The candidates that are edited: those of the largest effect where it was measured and is positive."""
    raising = sorted((index for index in pool if effects.get(index, 0.0) > 0), key=lambda index: -effects[index])
    return list(raising or pool)[: options.most]


def _noted(index: int, labels: Mapping[int, str], contrast: _Contrast, effects: Mapping[int, float]) -> dict[str, Any]:
    return {
        "index": index,
        "label": labels[index],
        "difference": float(contrast.difference[index]),
        "active": float(contrast.active[index]),
        "effect": effects.get(index),
    }
