"""What every backend owes its callers, whoever it is: one contract for all."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

import model_adapters.backends
from model_adapters.backend import Message, Request, Sampling, Text, check_applied
from model_adapters.backends.response_store import ResponseStore
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.backends.stored import Stored
from model_adapters.backends.wrapped import Answer, WrappedBackend
from model_adapters.errors import NotApplied, Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AblateDirection, AddVector, Steering, SystemPrompt
from tests.tiny_backend import Passes, added, alone, another_model, opened, together, user, vector

FUNNY = Steering((SystemPrompt("Be funny."),))
WIDE = Steering((AddVector(1, np.ones(33, np.float32)),))
SHORT = Sampling(max_tokens=8)
IDENTITY = ModelIdentity("some/model", "wrapped", url="https://example.org")


@dataclass
class Opened:
    """A backend, how often its model was called, and what it can't do."""

    backend: Any
    calls: Callable[[], int]
    unsupported: Steering
    steers_residuals: bool
    level: str
    closed: list[bool] = field(default_factory=list)


def open_here(stack: ExitStack) -> Opened:
    """The local engine on the tiny model."""
    model = another_model()
    backend = stack.enter_context(opened(model))
    passes = stack.enter_context(Passes(model))
    return Opened(backend, lambda: len(passes.shapes), WIDE, True, "measured")


def open_wrapped(stack: ExitStack) -> Opened:
    """A chat function behind a prompt."""
    calls, closed = [], []

    async def send(messages, sampling):
        calls.append(messages)
        await asyncio.sleep(0)
        return Answer(" | ".join(f"{one.role}: {one.content}" for one in messages))

    async def close():
        closed.append(True)

    return Opened(WrappedBackend(send, IDENTITY, close), lambda: len(calls), added(1), False, "sent", closed)


def open_scripted(stack: ExitStack) -> Opened:
    """A function of the request that runs nothing on residuals."""
    backend = ScriptedBackend(
        lambda request: repr(request.prompt),
        refuses=lambda steering: ["no vectors here"] if steering.on_residuals else [],
    )
    return Opened(backend, lambda: len(backend.requests), added(1), False, "sent")


def open_stored(stack: ExitStack) -> Opened:
    """The chat function behind a prompt, behind a response store."""
    inner = open_wrapped(stack)
    store = ResponseStore(Path(stack.enter_context(TemporaryDirectory())))
    return replace(inner, backend=Stored(inner.backend, store))


OPENERS = {"local": open_here, "wrapped": open_wrapped, "scripted": open_scripted, "stored": open_stored}


@pytest.fixture(params=OPENERS)
def case(request):
    """Each backend in turn."""
    with ExitStack() as stack:
        yield OPENERS[request.param](stack)


def test_no_backend_escapes_the_contract():
    """Every file or folder beside these is opened here, so a new backend is under the contract once it exists.

    The stand-in is the scripted one with a script that refuses nothing and answers by fingerprint, so it is no case.
    """
    folder = Path(model_adapters.backends.__file__).parent
    found = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    shared = {"encoding", "passage", "response_store"}
    assert found - {"__init__"} - shared - {"ember", "vllm", "stand_in"} == set(OPENERS)


ZEROS = {
    "none": None,
    "empty": Steering(),
    "empty with provenance": Steering((), {"behavior": "funny"}),
    "coefficient 0": Steering((AddVector(1, vector(0), 0.0, "all"),)),
    "scaled(0)": added(1).scaled(0.0) + Steering((AblateDirection(2, vector(1)),)).scaled(0.0),
}


@pytest.mark.parametrize("zero", ZEROS.values(), ids=ZEROS)
def test_no_steering_is_the_empty_steering_and_the_zero_one(case, zero):
    """None given, the empty one and one that is all zeros answer alike; a prompt-only backend refuses the last."""
    request = Request(user(), sampling=SHORT) if zero is None else Request(user(), zero, SHORT)
    control = alone(case.backend, Request(user(), CONTROL, SHORT))
    if zero and not case.steers_residuals:
        assert case.backend.refusals(zero)
        with pytest.raises(Refused):
            alone(case.backend, request)
        return
    done = alone(case.backend, request)
    assert (done.text, done.token_ids, done.messages_sent) == (control.text, control.token_ids, control.messages_sent)


def test_what_is_unsupported_is_refused_before_any_call(case):
    """`refusals` names the reason, `complete` raises the same one, and the model is never called."""
    assert case.backend.refusals(CONTROL) == case.backend.refusals(FUNNY) == []
    (reason,) = case.backend.refusals(case.unsupported)
    for steering in (case.unsupported, FUNNY + case.unsupported):
        with pytest.raises(Refused) as caught:
            alone(case.backend, Request(user(), steering, SHORT))
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(Refused, match="system prompt"):
        alone(case.backend, Request(Text("rendered"), FUNNY, SHORT))
    with pytest.raises(Refused, match="no messages"):
        alone(case.backend, Request((), CONTROL, SHORT))
    assert case.calls() == 0


def test_answers_come_in_order(case):
    """Of twelve requests made at once under three steerings, each gets the answer that it gets alone."""
    steerings = (CONTROL, FUNNY, added(1) if case.steers_residuals else Steering((SystemPrompt("Be brief."),)))
    requests = [Request(user(f"question {n}"), steerings[n % 3], SHORT) for n in range(12)]
    both = together(case.backend, requests)
    for number, (request, done) in enumerate(zip(requests, both, strict=True)):
        single = alone(case.backend, request)
        assert (done.text, done.messages_sent, done.proof.fingerprint) == (
            single.text,
            single.messages_sent,
            request.steering.fingerprint,
        )
        assert done.messages_sent[-1] == Message("user", f"question {number}")
    assert len({done.text for done in both}) == 12


def test_the_proof_names_steering_and_run(case):
    """Fingerprint and run identity are those asked for, at the backend's level; any other is told apart."""
    identity = case.backend.identity
    for steering in (CONTROL, FUNNY):
        proof = alone(case.backend, Request(user(), steering, SHORT)).proof
        assert (proof.fingerprint, proof.identity) == (steering.fingerprint, identity.run(steering.fingerprint))
        assert proof.level == case.level
        check_applied(steering, proof, identity)
        with pytest.raises(NotApplied):
            check_applied(added(3), proof, identity)
        with pytest.raises(NotApplied):
            check_applied(steering, proof, ModelIdentity("another/model", identity.backend))


def test_the_messages_sent_are_the_messages_and_the_instruction(case):
    """A client adds no message of its own: what was sent is what was asked plus the steering's prompt."""
    asked = (Message("system", "Rules."), Message("user", "Hi"))
    assert alone(case.backend, Request(asked, CONTROL, SHORT)).messages_sent == asked
    sent = alone(case.backend, Request(asked, FUNNY, SHORT)).messages_sent
    assert sent == (Message("system", "Rules.\n\nBe funny."), Message("user", "Hi"))


def test_a_backend_closes(case):
    """`aclose` gives back what is held; what was wrapped is closed too."""
    alone(case.backend, Request(user(), CONTROL, SHORT))
    asyncio.run(case.backend.aclose())
    if case.level == "measured":
        assert not any(block._forward_hooks for block in case.backend.model.model.layers)
        assert case.backend._engine._thread is None
    elif case.backend.name == "wrapped":
        assert case.closed == [True]
