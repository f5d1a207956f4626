"""What a vLLM server and the way to it can do wrong, and that no answer is believed because of it."""

import asyncio
import re

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backend import Request, Sampling
from model_adapters.backends.vllm import backend as vllm_backend
from model_adapters.backends.vllm import open_vllm, server
from model_adapters.backends.vllm.address import checked_address, server_address
from model_adapters.backends.vllm.server import Lost
from model_adapters.backends.vllm.vectors import added
from model_adapters.errors import NotApplied, SteerError
from model_adapters.steering import CONTROL, AddVector, Steering
from tests.fake_vllm import D_MODEL, FakeVllm
from tests.tiny_backend import tiny, user

V = np.arange(1, D_MODEL + 1, dtype=np.float32)
PUSH = Steering((AddVector(1, V, 1.0, "response"),))
DROPPED = httpx.RemoteProtocolError("Server disconnected without sending a response.")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """What was lost is asked again at once."""
    monkeypatch.setattr(vllm_backend, "WAITS_S", (0.0, 0.0, 0.0))


def asked(fake, *steerings, then=lambda: None):
    """Answers under these steerings, one after the other; `then` is called before the last."""

    async def run():
        backend = await open_vllm("tiny", tiny()[1], "http://there:1", transport=fake.transport)
        answers = []
        try:
            for steering in steerings:
                if len(answers) == len(steerings) - 1:
                    then()
                answers.append(await backend.complete(Request(user(), steering, Sampling(max_tokens=2))))
        finally:
            await backend.aclose()
        return answers

    return asyncio.run(run())


def answers_of(fake):
    """The completions that were no probes."""
    return [body for body in fake.bodies if body["cache_salt"] != "probe"]


@pytest.mark.parametrize("mishap", [DROPPED, httpx.ReadError("reset"), 429, 502, 503, 504])
def test_a_lost_request_is_asked_again(mishap):
    """A connection that is lost, and a server that is away for a moment, cost no answer."""
    fake = FakeVllm()
    found = asked(fake, PUSH, PUSH, then=lambda: fake.mishaps.append(mishap))
    assert [one.text for one in found] == ["fine", "fine"]
    assert len(answers_of(fake)) == 2


def test_a_server_that_stays_away_ends_the_request():
    """After as many pauses as there are, with the address and what to look at."""
    fake = FakeVllm()
    with pytest.raises(Lost, match=r"vLLM at http://there:1 answers 503; is `vllm serve` running there"):
        asked(fake, CONTROL, CONTROL, then=lambda: fake.mishaps.extend([503] * 4))
    assert not fake.mishaps


@pytest.mark.parametrize("status", [400, 500])
def test_a_refusal_is_not_asked_again(status):
    """What the server can't do, it can't the second time."""
    fake = FakeVllm()
    with pytest.raises(SteerError, match=f"answers {status}"):
        asked(fake, CONTROL, CONTROL, then=lambda: fake.mishaps.extend([status, 503]))
    assert fake.mishaps == [503]


def test_a_server_started_anew_without_the_plugin_is_found_out():
    """After a connection was lost the steering is probed again, and the answer withheld."""
    fake = FakeVllm()

    def restarts():
        fake.mishaps, fake.steers = [DROPPED], False

    with pytest.raises(NotApplied, match="doesn't steer as asked"):
        asked(fake, PUSH, PUSH, then=restarts)
    assert len(answers_of(fake)) == 1


@pytest.mark.parametrize("steering", [CONTROL, PUSH])
def test_a_server_started_anew_with_another_model_is_found_out(steering):
    """After a connection was lost the residual must be what it was, for the control too."""
    fake = FakeVllm()

    def restarts():
        fake.mishaps, fake.shift = [DROPPED], 3.0

    with pytest.raises(NotApplied, match="serves another model than when this run began"):
        asked(fake, steering, steering, then=restarts)
    assert len(answers_of(fake)) == 1


def test_an_answer_is_withheld_where_another_request_met_the_restart():
    """A loss that another request saw while an answer was under way brings the probes before the answer is given."""
    fake = FakeVllm()

    async def run():
        backend = await open_vllm("tiny", tiny()[1], "http://there:1", transport=fake.transport)
        complete = backend.server.complete

        async def meanwhile(*words):
            answer = await complete(*words)
            if words[3].get("cache_salt") != "probe":
                backend.server.losses += 1
                fake.steers = False
            return answer

        backend.server.complete = meanwhile
        try:
            return await backend.complete(Request(user(), PUSH, Sampling(max_tokens=2)))
        finally:
            await backend.aclose()

    with pytest.raises(NotApplied, match="doesn't steer as asked"):
        asyncio.run(run())


def test_vectors_that_cancel_change_nothing():
    """Two that add up to zero at a layer are no steering there: nothing is sent and nothing to be probed."""
    both = PUSH + Steering((AddVector(1, V, -1.0, "response"),))
    assert added(both) == ()
    fake = FakeVllm()
    (found,) = asked(fake, both)
    assert (found.text, "vllm_xargs" in fake.bodies[-1]) == ("fine", False)


@pytest.mark.parametrize("shape", [(80, D_MODEL), (4, 8192)])
def test_a_model_of_another_shape_is_found_out(shape):
    """A server whose only model is another one than is meant doesn't answer for it, even with its very tokenizer."""
    fake = FakeVllm()
    opening = open_vllm("tiny", tiny()[1], "http://there:1", transport=fake.transport, config_shape=shape)
    said = f"serves served of 4 layers of width 8, and tiny has {shape[0]} layers of width {shape[1]}"
    with pytest.raises(SteerError, match=said):
        asyncio.run(opening)


@pytest.mark.parametrize("status", [500, 503])
def test_a_version_that_fails_is_no_version_that_is_missing(status):
    """What the server discloses enters the run's identity, so a failure there ends the opening."""

    def answer(request):
        return httpx.Response(status) if request.url.path == "/version" else FakeVllm().answer(request)

    with pytest.raises(SteerError, match=f"answers {status}"):
        asyncio.run(open_vllm("tiny", tiny()[1], "http://there:1", transport=httpx.MockTransport(answer)))


def test_a_server_that_hangs_is_named(monkeypatch):
    """One that takes the connection and says nothing is given up, with what was asked of it."""
    monkeypatch.setattr(server, "LOOK_S", 0.2)

    async def run():
        async def silent(_reader, _writer):
            await asyncio.sleep(60)

        listening = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        try:
            await open_vllm("tiny", tiny()[1], f"http://127.0.0.1:{port}")
        finally:
            listening.close()

    with pytest.raises(SteerError, match=r"gave no answer to /v1/models within 0.2 seconds"):
        asyncio.run(run())


def test_a_cancelled_request_is_taken_from_the_server():
    """Its connection is closed, by which vLLM notices that nobody waits, and its place is free for the next."""

    async def run():
        came, gone = asyncio.Event(), asyncio.Event()

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            came.set()
            while await reader.read(1024):
                pass
            gone.set()
            writer.close()

        listening = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        one = server.VllmServer(f"http://127.0.0.1:{port}", concurrency=1)
        waiting = asyncio.create_task(one.complete("served", [1], {}, {}))
        async with asyncio.timeout(10):
            await came.wait()
            waiting.cancel()
            await gone.wait()
            free = not one._lane().slots.locked()
        await one.aclose()
        listening.close()
        return free, one.losses

    assert asyncio.run(run()) == (True, 0)


# Addresses


@pytest.mark.parametrize(
    "address",
    ["there", "there:8000", "ftp://there", "http://", "http://there:x", "http://there:0", "http://[::1", "", "http:/x"],
)
def test_what_is_no_address_is_shown(address):
    """With the form that one has."""
    with pytest.raises(SteerError, match=re.escape(f"base_url={address!r} is not an address; give http://host:port")):
        checked_address(address)


@pytest.mark.parametrize(
    "address", ["http://me:hush@there", "me:hush@there:1", "http://there?key=hush", "http://there#hush"]
)
def test_a_secret_in_an_address_is_refused_and_not_shown(address):
    """A password or a query would be in every result, and is in no message either."""
    with pytest.raises(SteerError) as caught:
        checked_address(address)
    assert "hush" not in str(caught.value)


@given(st.integers(1, 65535), st.sampled_from(["", "/", "/v1", "/v1/"]))
def test_an_address_is_known_with_and_without_its_end(port, end):
    """`/v1`, as other clients take it, and slashes name the same server."""
    assert checked_address(f"http://there:{port}{end}") == f"http://there:{port}"


def test_the_environment_names_a_server_where_nothing_else_does(monkeypatch):
    """What is given wins; without either there is none."""
    assert server_address(None) is None
    monkeypatch.setenv("VLLM_BASE_URL", "http://there:1")
    assert (server_address(None), server_address("http://here:2")) == ("http://there:1", "http://here:2")
