"""The stand-in for any model: what it says is made from digests, repeats, and can't be taken for a model's."""

import asyncio

import numpy as np

from model_adapters.backend import (
    Message,
    ReadsActivations,
    Request,
    ScoresText,
    SuggestsEdits,
    check_applied,
)
from model_adapters.backends.stand_in import D_MODEL, N_LAYERS, StandIn
from model_adapters.behavior import find_behavior
from model_adapters.steering import CONTROL, AddVector, Steering

ASKED = (Message("user", "Which?"),)
STEERED = Steering((AddVector(50, np.ones(D_MODEL, np.float32), 1.0),))


def test_answers_have_the_questions_form_and_repeat():
    """An answer has both tags and a letter, is the same again, and differs by steering and sample."""
    backend = StandIn("m")

    def answer(**given):
        return asyncio.run(backend.complete(Request(ASKED, **given)))

    first = answer(steering=STEERED)
    assert first.text == answer(steering=STEERED).text
    assert first.text.startswith("<thinking>")
    assert first.text[-10] in "ABCD"
    assert first.text.endswith("</answer>")
    assert len({answer(steering=STEERED, sample_index=index).text for index in range(5)}) == 5
    check_applied(STEERED, first.proof, backend.identity)
    assert first.proof.level == "acknowledged"
    assert answer().proof.level == "sent"


def test_it_can_prepare_every_method():
    """It gives activations of the promised shape, likelihoods and edits, each the same again."""
    backend = StandIn("m")
    assert isinstance(backend, ReadsActivations)
    assert isinstance(backend, ScoresText)
    assert isinstance(backend, SuggestsEdits)
    read = asyncio.run(backend.activations(ASKED, "two words"))
    assert read.shape == (N_LAYERS, 2, D_MODEL)
    assert read.dtype == np.float32
    assert np.array_equal(read, asyncio.run(backend.activations(ASKED, "two words")))
    scored = asyncio.run(backend.score(ASKED, "two words", CONTROL))
    assert len(scored.logprobs) == 2
    assert scored == asyncio.run(backend.score(ASKED, "two words", CONTROL))
    draws = [asyncio.run(backend.suggest_edits(find_behavior("funny"), draw)).edits for draw in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_its_identity_is_its_own():
    """Whatever model it stands in for, its identity says that it isn't that model."""
    assert StandIn("m").identity.backend == "stand_in"
    assert StandIn("m").identity.digest != StandIn("n").identity.digest
