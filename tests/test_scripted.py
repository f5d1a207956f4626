"""Answers from a function, for tests and dry runs."""

import asyncio

import numpy as np
import pytest

from model_adapters.backend import Message, Request, Sampling, Text, check_applied
from model_adapters.backends.scripted import SCRIPTED, ScriptedBackend
from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AddVector, Steering, SystemPrompt

MESSAGES = (Message("user", "Hi"),)
FUNNY = Steering((SystemPrompt("Be funny."),))
VECTOR = Steering((AddVector(0, np.ones(4, np.float32)),))


def test_the_function_sees_the_whole_request():
    """The answer may depend on prompt, steering and sampling; the request is kept."""
    backend = ScriptedBackend(lambda request: f"{request.steering.fingerprint} {request.sampling.max_tokens}")
    request = Request(MESSAGES, FUNNY, Sampling(max_tokens=3))
    assert asyncio.run(backend.complete(request)).text == f"{FUNNY.fingerprint} 3"
    assert backend.requests == [request]


@pytest.mark.parametrize(
    ("steering", "level"),
    [(CONTROL, "sent"), (FUNNY, "sent"), (VECTOR, "acknowledged"), (FUNNY + VECTOR, "acknowledged")],
)
def test_the_proof_claims_no_more_than_is_known(steering, level):
    """A prompt counts as sent, anything else as acknowledged; never as measured."""
    done = asyncio.run(ScriptedBackend(lambda _: "x").complete(Request(MESSAGES, steering)))
    assert done.proof.level == level
    check_applied(steering, done.proof, SCRIPTED)


def test_it_reports_the_messages_and_guesses_no_counts():
    """The messages as sent are in the completion; tokens, which nobody counted, are None."""
    done = asyncio.run(ScriptedBackend(lambda _: "x").complete(Request(MESSAGES, FUNNY)))
    assert done.messages_sent == (Message("system", "Be funny."), Message("user", "Hi"))
    assert (done.tokens_in, done.tokens_out, done.stop_reason) == (None, None, "stop")


def test_it_refuses_what_it_is_told_to():
    """A refusal comes before the function is called."""
    backend = ScriptedBackend(lambda _: "x", refuses=lambda steering: ["no vectors"] if steering.on_residuals else [])
    with pytest.raises(Refused, match="no vectors"):
        asyncio.run(backend.complete(Request(MESSAGES, VECTOR)))
    with pytest.raises(Refused, match="system prompt"):
        asyncio.run(backend.complete(Request(Text("rendered"), FUNNY)))
    assert backend.requests == []


def test_it_is_who_it_is_told_to_be():
    """The identity given is the identity in every proof."""
    identity = ModelIdentity("a/b", "local", dtype="float32")
    done = asyncio.run(ScriptedBackend(lambda _: "x", identity=identity).complete(Request(MESSAGES)))
    assert done.proof.identity == identity.run(CONTROL.fingerprint)
