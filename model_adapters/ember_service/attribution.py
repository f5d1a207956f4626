"""Which features speak for one token: each is switched off in turn, and the token's log-probability is read again."""

import asyncio
from typing import Any

import numpy as np

from model_adapters.backend import Messages, Text
from model_adapters.ember_service.refusals import Unprocessable
from model_adapters.ember_service.service import EmberService
from model_adapters.features.resolution import resolve
from model_adapters.steering import CONTROL, EditFeatures, FeatureCompare, FeatureEdit, Steering, When

CANDIDATES = 32
"""Features that are switched off: those whose activation times decoder norm, summed over the tokens before, is most."""


async def attribution(service: EmberService, messages: Messages, at: int) -> dict[str, object]:
    """The features active before token `at` of the rendered conversation, by what switching each off costs it.

    `value` is the token's log-probability minus the one with the feature pinned to 0 at every position of the
    dictionary's layer but the first, whose residual is unlike the others', in nats, largest first; nothing is
    linearised. Raises Unprocessable for the first token, one
    beyond the end, and one whose text before it doesn't come apart into the same tokens.
    """
    backend, dictionary = service.backend, service.dictionary
    tokens = backend.tokenize(messages)
    place = ("body", "startIndex")
    if not 0 < at < len(tokens):
        raise Unprocessable(f"token {at} can't be attributed; there are tokens 1 to {len(tokens) - 1}", *place)
    before = Text("".join(text for _, text in tokens[:at]))
    if backend.encoding.encode(before.text) != [number for number, _ in tokens[:at]]:
        raise Unprocessable(f"the text before token {at} has other tokens by itself; choose a token nearby", *place)
    residuals = (await backend.prompt_activations(messages, dictionary.layer))[:at]
    active = await asyncio.to_thread(dictionary.encode, residuals)
    active[0] = 0.0
    candidates = await asyncio.to_thread(_candidates, service, active)
    switched = await asyncio.to_thread(lambda: [_off(service, index) for index in candidates])
    said = [tokens[at][0]]
    whole, *without = await asyncio.gather(*(backend.score(before, said, off) for off in (CONTROL, *switched)))
    found: list[dict[str, Any]] = []
    for index, one in zip(candidates, without, strict=True):
        places = np.flatnonzero(active[:, index] > 0)
        where = [{"index": int(at), "activation_strength": float(active[at, index])} for at in places]
        found.append({"id": service.feature(index)["id"], "value": whole.total - one.total, "tokens": where})
    found.sort(key=lambda one: -one["value"])
    return {"to_ablate": found, "to_add": [], "num_input_tokens": len(tokens)}


def _candidates(service: EmberService, active: np.ndarray) -> list[int]:
    """Indices in order of weight. `active` is `(tokens, n_features)`."""
    summed = active.sum(axis=0, dtype=np.float64)
    alive = np.flatnonzero(summed > 0)
    likely = alive[np.argsort(-summed[alive], kind="stable")][: 8 * CANDIDATES]
    weights = summed[likely] * service.dictionary.rows([int(index) for index in likely]).decoder_norms
    return [int(index) for index in likely[np.argsort(-weights, kind="stable")][:CANDIDATES]]


def _off(service: EmberService, index: int) -> Steering:
    # A condition is never met at the first position, and where the feature isn't active there is nothing to take off.
    pinned = When(FeatureCompare((index,), ">", 0.0), (EditFeatures((FeatureEdit(index, 0.0, "pin"),)),))
    return resolve(Steering((pinned,)), service.dictionary, layer=service.dictionary.layer, positions="all")
