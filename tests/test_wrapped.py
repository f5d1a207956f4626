"""Prompt-only steering in front of any model."""

import asyncio

import numpy as np
import pytest

from model_adapters.backend import Message, Request, Sampling, Text
from model_adapters.backends.wrapped import (
    Answer,
    WrappedBackend,
    prompt_only_refusals,
    seed_of_sample,
    sent_proof,
)
from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AblateDirection, AddVector, Steering, SystemPrompt

IDENTITY = ModelIdentity("some/model", "wrapped", url="http://localhost:1")
MESSAGES = (Message("system", "Be brief."), Message("user", "Hi"))
FUNNY = Steering((SystemPrompt("Be funny."),))
VECTOR = Steering(
    (
        AddVector(0, np.ones(4, np.float32)),
        AddVector(1, np.ones(4, np.float32)),
        AblateDirection(1, np.ones(4, np.float32)),
    )
)


class Model:
    """A model that keeps what it was sent."""

    def __init__(self):
        self.sent = []

    async def __call__(self, messages, sampling):
        self.sent.append((messages, sampling))
        return Answer("Ha", 7, 2, "stop")


def test_a_prompt_enters_the_messages_and_nothing_else_does():
    """The model is sent the caller's messages with the steering's sentence in the system message."""
    model = Model()
    done = asyncio.run(WrappedBackend(model, IDENTITY).complete(Request(MESSAGES, FUNNY, Sampling(max_tokens=5))))
    expected = (Message("system", "Be brief.\n\nBe funny."), Message("user", "Hi"))
    assert model.sent == [(expected, Sampling(max_tokens=5))]
    assert done.messages_sent == expected
    assert (done.text, done.tokens_in, done.tokens_out, done.stop_reason) == ("Ha", 7, 2, "stop")
    assert done.proof.level == "sent"
    assert done.proof.fingerprint == FUNNY.fingerprint
    assert done.proof.identity == IDENTITY.run(FUNNY.fingerprint)
    assert done.proof.prompt_tokens_touched is None


def test_the_control_is_sent_untouched():
    """Under the control the messages arrive exactly as they were."""
    model = Model()
    asyncio.run(WrappedBackend(model, IDENTITY).complete(Request(MESSAGES, CONTROL)))
    assert model.sent[0][0] == MESSAGES


def test_a_vector_is_refused_before_anything_is_sent():
    """A steering that changes activations is refused, each kind named once, and the model isn't asked."""
    model = Model()
    reasons = prompt_only_refusals(VECTOR + FUNNY)
    assert [reason.split()[0] for reason in reasons] == ["AddVector", "AblateDirection"]
    assert WrappedBackend(model, IDENTITY).refusals(VECTOR) == prompt_only_refusals(VECTOR)
    with pytest.raises(Refused, match="AddVector"):
        asyncio.run(WrappedBackend(model, IDENTITY).complete(Request(MESSAGES, VECTOR)))
    with pytest.raises(Refused, match="AddVector"):
        sent_proof(VECTOR, IDENTITY)
    assert model.sent == []


@pytest.mark.parametrize("prompt", [Text("rendered"), ()])
def test_what_is_no_conversation_is_refused(prompt):
    """Rendered text and an empty list of messages never reach a wrapped model."""
    model = Model()
    with pytest.raises(Refused, match="messages"):
        asyncio.run(WrappedBackend(model, IDENTITY).complete(Request(prompt)))
    assert model.sent == []


def test_repeated_samples_get_seeds_of_their_own():
    """The first sample has the seed that was given, each later one another, and always the same one."""
    seeds = [seed_of_sample(42, index) for index in range(50)]
    assert seeds[0] == 42
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seeds == [seed_of_sample(42, index) for index in range(50)]
    assert seed_of_sample(None, 3) is None


def test_the_seed_that_was_sent_is_recorded():
    """A sampled completion says which seed the model was given; a greedy one has none."""
    model = Model()
    backend = WrappedBackend(model, IDENTITY)
    sampled = asyncio.run(
        backend.complete(Request(MESSAGES, sampling=Sampling(temperature=1.0, seed=5), sample_index=2))
    )
    greedy = asyncio.run(backend.complete(Request(MESSAGES, sampling=Sampling(seed=5))))
    assert sampled.seed == model.sent[0][1].seed == seed_of_sample(5, 2)
    assert greedy.seed is None


def test_closing_closes_the_model():
    """`aclose` of the backend closes what it wraps, and needs nothing to close."""
    closed = []

    async def close():
        closed.append(True)

    asyncio.run(WrappedBackend(Model(), IDENTITY, close).aclose())
    asyncio.run(WrappedBackend(Model(), IDENTITY).aclose())
    assert closed == [True]
