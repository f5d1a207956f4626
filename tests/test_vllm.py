"""The vLLM client: what is sent, what is refused, and that nothing is believed which a probe doesn't show."""

import asyncio
import base64
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.vllm import open_vllm
from model_adapters.backends.vllm.plugin import Positioned
from model_adapters.backends.vllm.tensor import packed, unpacked
from model_adapters.backends.vllm.vectors import added, steering_vectors
from model_adapters.errors import NotApplied, Refused, SteerError
from model_adapters.steering import CONTROL, AddVector, ClampFeature, Steering, SystemPrompt
from tests.fake_vllm import D_MODEL, FakeVllm
from tests.tiny_backend import tiny, user

V = np.arange(1, D_MODEL + 1, dtype=np.float32)


def vector(layer=1, coefficient=1.0, positions="response"):
    return Steering((AddVector(layer, V, coefficient, positions),))


def using(fake, work):
    """The result of `work(backend)` on a backend of a fake server."""

    async def run():
        backend = await open_vllm("tiny", tiny()[1], "http://there:1/v1", transport=fake.transport)
        try:
            return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(run())


@given(arrays.arrays(np.float32, arrays.array_shapes(max_dims=3), elements=st.floats(allow_nan=False, width=32)))
def test_arrays_come_back_as_they_were_sent(array):
    """Packing and unpacking is the identity, shape and bits."""
    assert np.array_equal(unpacked(packed(array)), array)


def test_bfloat16_and_plain_bytes_are_read():
    """The 16 bits of a bfloat16 are the upper half of a float32; bytes may come without compression."""
    bits = (np.array([1.5, -2.0], "<f4").view("<u4") >> 16).astype("<u2").view("<i2")
    held = {"data": base64.b64encode(bits.tobytes()).decode(), "dtype": "int16", "shape": [2]}
    assert unpacked({**held, "original_dtype": "torch.bfloat16"}).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    "held",
    [
        {},
        {"data": "!", "dtype": "float32", "shape": [1]},
        {"data": "AAAA", "dtype": "float32", "shape": [9]},
        {"data": "AAAAAA==", "dtype": "object", "shape": [1]},
        {"data": "AAAAAA==", "dtype": "float32", "shape": [2**20, 2**20]},
    ],
)
def test_broken_activations_are_refused(held):
    """What is no array, or a far too large one, is an error that says so."""
    with pytest.raises(SteerError, match="activations can't be read"):
        unpacked(held)


def test_positions_of_a_text_are_counted_from_its_start():
    """Prompt is all before the last prompt token, response that one and what follows; sums that agree go everywhere."""
    steering = vector(1, 2.0, "prompt") + vector(1, 3.0, "response") + vector(2, 1.0, "all")
    found = steering_vectors(added(steering), prompt_tokens=5, tokens=8)
    assert [(one["layer_indices"], one["position_indices"]) for one in found] == [
        ([2], None),
        ([1], [0, 1, 2, 3]),
        ([1], [4, 5, 6, 7]),
    ]
    assert np.array_equal(unpacked(found[0]["activations"]), V[None])
    assert np.array_equal(unpacked(found[1]["activations"]), np.tile(2 * V, (1, 4, 1)))
    assert np.array_equal(unpacked(found[2]["activations"]), np.tile(3 * V, (1, 4, 1)))
    assert not any(one["norm_match"] for one in found)


def test_prompt_and_response_of_one_vector_are_everywhere():
    """Two halves that add up to the same at every token are sent as one vector for all."""
    halves = vector(1, 0.5, "prompt") + vector(1, 0.5, "response")
    assert [one["position_indices"] for one in steering_vectors(added(halves), 5, 8)] == [None]
    assert steering_vectors(added(vector(1, 0.0)), 5, 8) == []


def test_an_answer_is_asked_for_under_the_steering_and_nothing_else():
    """Token ids, neutral sampling, vectors at the response positions, and a prefix cache of the steering's own."""
    fake = FakeVllm()
    steering = vector() + Steering((SystemPrompt("Be brief."),))
    request = Request(user("hi"), steering, Sampling(max_tokens=6, stop=("end",)))
    done = using(fake, lambda backend: backend.complete(request))
    body = fake.bodies[-1]
    assert (done.text, done.tokens_out, done.stop_reason) == ("fine", 6, "max_tokens")
    assert (done.proof.level, done.proof.fingerprint) == ("probed", steering.fingerprint)
    assert done.messages_sent[0].content == "Be brief."
    assert body["prompt"] == list(tiny()[1].encode(_rendered(done.messages_sent), add_special_tokens=False))
    assert (body["temperature"], body["top_p"], body["top_k"], body["repetition_penalty"]) == (0.0, 1.0, 0, 1.0)
    assert (body["stop"], body["cache_salt"]) == (["end"], done.proof.identity)
    assert fake.bodies[0]["cache_salt"] != body["cache_salt"]


def _rendered(messages):
    turns = [{"role": one.role, "content": one.content} for one in messages]
    return tiny()[1].apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def test_samples_have_seeds_of_their_own():
    """The seed that is sent depends on seed and sample index, and the completion records the request's."""

    async def seeds(backend):
        sampling = Sampling(max_tokens=2, temperature=0.7, seed=3)
        return [await backend.complete(Request(user(), CONTROL, sampling, index)) for index in (0, 1, 0)]

    fake = FakeVllm()
    assert [one.seed for one in using(fake, seeds)] == [3, 3, 3]
    sent = [body["seed"] for body in fake.bodies[-3:]]
    assert sent[0] == sent[2] != sent[1]


def test_scores_are_those_of_the_continuation():
    """Log-probabilities and ranks of the continuation's tokens, in order; a Text needs no template."""
    scored = using(FakeVllm(), lambda backend: backend.score(Text("abc"), "de", vector(1, 1.0, "all")))
    assert scored.logprobs == (-3.5, -4.5)
    assert not scored.is_greedy
    rolling = using(FakeVllm(), lambda backend: backend.score_rolling("x" * 150, CONTROL))
    assert len(rolling.logprobs) == 150


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_every_steering_is_probed_once(positions):
    """Its layers are probed before the first answer; later answers ask for nothing more."""

    async def twice(backend):
        request = Request(user(), vector(2, 0.01, positions), Sampling(max_tokens=2))
        before = len(fake.bodies)
        await asyncio.gather(backend.complete(request), backend.complete(request))
        return len(fake.bodies) - before

    fake = FakeVllm()
    assert using(fake, twice) == 3 + 2


def test_a_server_that_loses_count_of_positions_is_found_out():
    """Steerings of some positions are withheld with the remedy, those of all positions run."""
    fake = FakeVllm(counts=False)
    for positions in ("prompt", "response"):
        request = Request(user(), vector(1, 1.0, positions), Sampling(max_tokens=2))
        with pytest.raises(NotApplied, match=r"loses count of positions.*positions=all"):
            using(fake, lambda backend, request=request: backend.complete(request))
    request = Request(user(), vector(1, 1.0, "all"), Sampling(max_tokens=2))
    assert using(fake, lambda backend: backend.complete(request)).proof.level == "probed"


def test_a_server_that_does_not_steer_is_found_out_at_the_start():
    """A non-zero vector that changes nothing ends the opening."""
    with pytest.raises(NotApplied, match="doesn't steer as asked"):
        using(FakeVllm(steers=False), lambda backend: backend.complete(None))


def test_a_server_without_the_plugin_is_named():
    """No activations, no steering: the plugin is asked for."""
    with pytest.raises(SteerError, match="vllm-lens"):
        using(FakeVllm(lens=False), lambda backend: backend.complete(None))


def test_what_a_server_cannot_do_is_refused_by_name():
    """Clamps, layers out of range and foreign widths, before anything is sent."""
    clamp = Steering((ClampFeature(1, V, 0.0, V, 1.0),))
    wide = Steering((AddVector(1, np.ones(3, np.float32)),))

    async def reasons(backend):
        return [backend.refusals(one) for one in (clamp, vector(9), wide, vector())]

    found = using(FakeVllm(), reasons)
    assert "ClampFeature: vLLM only adds vectors" in found[0][0]
    assert "layer 9 is out of range" in found[1][0]
    assert "has width 3, the model has 8" in found[2][0]
    assert found[3] == []


@pytest.mark.parametrize(("status", "says"), [(401, "VLLM_API_KEY"), (404, "no such thing"), (500, "answers 500")])
def test_a_servers_refusal_is_passed_on(status, says, monkeypatch):
    """With its own words, and never the key."""
    monkeypatch.setenv("VLLM_API_KEY", "hush-hush")
    with pytest.raises(SteerError, match=says) as caught:
        using(FakeVllm(status=status), lambda backend: backend.complete(None))
    assert "hush" not in str(caught.value)


def test_an_address_that_is_none_or_silent_is_named():
    """Nobody listening, and no address at all."""
    with pytest.raises(SteerError, match="can't be reached"):
        asyncio.run(open_vllm("tiny", tiny()[1], "http://127.0.0.1:9"))
    with pytest.raises(SteerError, match="not an address"):
        asyncio.run(open_vllm("tiny", tiny()[1], "there"))


@pytest.mark.parametrize("prompt", ["", "x" * 70])
def test_prompts_that_do_not_fit_are_refused(prompt):
    """An empty prompt, and one as long as the server's context."""
    with pytest.raises(Refused, match=r"empty|70 tokens, the server takes 64"):
        using(FakeVllm(), lambda backend: backend.complete(Request(Text(prompt))))


def test_a_limit_that_the_context_cuts_is_told():
    """An answer that had to be shorter than asked for ends for the context's length."""
    done = using(FakeVllm(), lambda backend: backend.complete(Request(Text("x" * 60), CONTROL, Sampling(max_tokens=9))))
    assert (done.tokens_out, done.stop_reason) == (4, "context_length")


def test_the_plugin_imports_nothing_that_vllm_does_not_bring(root):
    """Beside vLLM this package is installed without its dependencies, and vLLM imports the plugin all the same."""
    brought = {"filelock", "httpx", "numpy", "safetensors", "pyyaml", "zstandard", "torch", "transformers"}
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    needs = {re.split(r"[\[<>=]", one, maxsplit=1)[0] for one in project["dependencies"]}
    absent = [name.replace("-", "_") for name in needs - brought]
    assert "platformdirs" in absent
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import model_adapters.backends.vllm.plugin"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_plugin_gives_the_lengths_that_a_layer_knows():
    """Metadata of layers in a mapping has the lengths of the first layer that has any."""
    one, two = type("A", (), {})(), type("B", (), {"seq_lens": [3]})()
    assert Positioned({"a": one, "b": two}).seq_lens == [3]
    assert Positioned({"a": one}).seq_lens is None
