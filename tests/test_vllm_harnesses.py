"""`runner=vllm` in both harnesses: what is refused, that no weights are read, and answers that the server steered."""

import asyncio
import re
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM

import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import plain_form
from model_adapters.harnesses.inspect import unload
from model_adapters.harnesses.inspect_arguments import hook_opening
from model_adapters.harnesses.inspect_engines import SERVED as SERVERS
from model_adapters.harnesses.lm_eval import HookSteered
from model_adapters.harnesses.lm_eval_arguments import LOADER_ARGUMENTS, hook_arguments
from model_adapters.harnesses.lm_eval_runner import REFUSED_SERVED
from model_adapters.steering import AddVector, ClampFeature, Steering
from model_adapters.steering_file import save_steering
from steer_tasks.mmlu_171 import mmlu_171
from steer_tasks.solvers import steered_generate
from tests import lm_eval_cases
from tests.fake_vllm import FakeVllm, listening
from tests.lm_eval_cases import evaluated, foreign, lines, local, message_request, request

pytestmark = pytest.mark.usefixtures("registered", "no_weights")
registered = lm_eval_cases.registered
tiny = lm_eval_cases.tiny
bare = lm_eval_cases.bare
vector = lm_eval_cases.vector
sentence = lm_eval_cases.sentence


@pytest.fixture
def no_weights(monkeypatch):
    """Reading a model's weights fails the test."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))


@pytest.fixture
def inspect_folders(tmp_path, monkeypatch):
    """Inspect's caches and logs of one test; the server that it opened is given back."""
    for name, value in (("CACHE_DIR", "inspect-cache"), ("LOG_DIR", "logs")):
        monkeypatch.setenv(f"INSPECT_{name}", str(tmp_path / value))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    yield
    asyncio.run(unload())


@contextmanager
def served(**options):
    """A fake server that is wide and long enough for the tiny model, and its address."""
    fake = FakeVllm(**{"length": 4096, "d_model": 32, **options})
    with listening(fake) as url:
        yield fake, url


def on(url, name, **arguments):
    """Arguments of `hook_steered` for a server."""
    return {"pretrained": name, "runner": "vllm", "base_url": url, **arguments}


# lm-eval

WRONG = {
    "no address": ({"runner": "vllm"}, "runner=vllm needs base_url=http://HOST:PORT"),
    "no runner": ({"base_url": "http://x:1"}, "base_url=… names a vLLM server; add runner=vllm"),
    "a name without a runner": ({"served_as": "x"}, "served_as=… names a vLLM server; add runner=vllm"),
    "no text": ({"runner": "vllm", "base_url": 8000}, "base_url is 8000, not a text"),
    "no scheme": ({"runner": "vllm", "base_url": "there:8000"}, "not an address"),
    "a password": ({"runner": "vllm", "base_url": "http://me:hush@there"}, "set VLLM_API_KEY"),
    "a key": ({"runner": "vllm", "base_url": "http://x:1", "vllm_api_key": "hush"}, "'vllm_api_key' looks like a key"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_a_server_that_is_named_wrongly_is_refused(case, tiny):
    """In one line with the remedy, before anything is asked, and without showing a secret."""
    arguments, said = WRONG[case]
    with pytest.raises(SteerError, match=re.escape(said)) as caught:
        HookSteered(pretrained=tiny, method="control", **arguments)
    assert "hush" not in str(caught.value)


def test_the_environment_names_the_server_where_no_argument_does(tiny, monkeypatch):
    """VLLM_BASE_URL is the address of both harnesses, what is given wins, and it makes no local model a server's."""
    with served() as (_, url):
        monkeypatch.setenv("VLLM_BASE_URL", f"{url}/v1/")
        there = HookSteered(pretrained=tiny, runner="vllm", method="control")
        assert there.backend.identity.url == url
        with pytest.raises(SteerError, match=r"http://127.0.0.1:9 can't be reached"):
            HookSteered(pretrained=tiny, runner="vllm", base_url="http://127.0.0.1:9", method="control")
        api = get_model(f"hook_steered/{tiny}", memoize=False, runner="vllm").api
        assert asyncio.run(api.backend()).identity.url == url
    assert hook_arguments({"pretrained": tiny, "method": "control"}).server is None
    assert hook_opening({}, None).arguments == {}
    asyncio.run(unload())


def test_a_server_of_another_model_is_found_out_by_its_shape(tiny):
    """Its only model answers for no other, however alike the tokenizers are."""
    with served(d_model=16) as (fake, url), pytest.raises(SteerError, match=r"of width 16, and .* of width 32"):
        HookSteered(**on(url, tiny, method="control"))
    assert {body["cache_salt"] for body in fake.bodies} == {"probe"}


@pytest.mark.parametrize("name", [*REFUSED_SERVED, *LOADER_ARGUMENTS])
def test_what_says_how_weights_are_loaded_is_refused_by_name(name):
    """The server loaded them already, so each such argument of `hf` and of ours is refused."""
    given = on("http://x:1", "x", method="control", **{name: "x"})
    with pytest.raises(SteerError, match=f"runner=vllm refuses {name}='x': the server has the weights"):
        hook_arguments(given)
    assert hook_arguments({**given, name: None}).server is not None


def test_the_documentation_lists_what_a_server_refuses(root):
    """docs/vllm.md has a row for each refused argument, and no other."""
    rows = re.findall(r"^\| `(\w+)` \| refused", (root / "docs" / "vllm.md").read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(REFUSED_SERVED)


def test_all_kinds_of_requests_run_on_a_server(tiny, vector):
    """Choices, whole texts and answers come from the server, each with the proof that it was probed."""
    with served() as (fake, url):
        tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
        found = evaluated("hook_steered", tasks, on(url, tiny, steering=vector, device="cuda:0"), limit=2)
    assert found["samples"]["foreign_text"][0]["resps"] == [["fine"]]
    steer = found["config"]["steer"]
    held = lines(steer["proof"])
    assert {line["request_type"] for line in held} == {"loglikelihood", "loglikelihood_rolling", "generate_until"}
    assert {line["proof"]["level"] for line in held} == {"probed"}
    assert (steer["model"]["backend"], steer["model"]["url"], steer["model"]["dtype"]) == ("vllm", url, "float32")
    assert (found["config"]["model_num_parameters"], found["config"]["model_dtype"]) == (None, "float32")
    assert {body["cache_salt"] for body in fake.bodies} == {"probe", steer["run"]}


def test_a_method_is_prepared_through_the_server(tiny):
    """CAA reads its activations from the server, and its dose is measured there."""
    with served() as (fake, url):
        model = HookSteered(**on(url, tiny, method="caa", behavior="funny", layer=2, dose=0.3))
        model.close()
    (one,) = model.steering.interventions
    assert (one.layer, one.vector.shape) == (2, (32,))
    assert model.steering.provenance["model"]["backend"] == "vllm"
    assert len(fake.bodies) > 24


def test_the_template_is_rendered_as_by_hf(tiny, sentence, monkeypatch):
    """Names, template and rendered turns are those of the same model in this process, a system prompt included."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    with served() as (_, url):
        there = HookSteered(**on(url, tiny, steering=sentence))
    monkeypatch.undo()
    here = HookSteered(**local(tiny), steering=sentence)
    for closed in (True, False):
        assert there.apply_chat_template(turns, closed) == here.apply_chat_template(turns, closed)
    assert "Be funny." in there.apply_chat_template(turns)
    assert (there.chat_template(True), there.chat_template(False)) == (here.chat_template(True), None)
    assert there.tokenizer_name == here.tokenizer_name
    assert there.run_identity != here.run_identity
    plain = HFLM(pretrained=tiny, device="cpu")
    assert there._host.chat_template(True) == plain.chat_template(True)
    assert there._host.apply_chat_template(turns, False) == plain.apply_chat_template(turns, False)
    assert there._host.tokenizer_name == plain.tokenizer_name
    assert there._host.end_of_turn == plain.tok_decode(plain.eot_token_id, skip_special_tokens=False)


def test_a_conversation_needs_a_template(bare, tiny):
    """Our own task's messages reach the server as one rendered prompt; without a template they are refused."""
    with served() as (fake, url):
        prompt = HookSteered(**on(url, tiny, method="control"))
        text = plain_form(lm_eval_cases.MESSAGES)
        assert prompt.generate_until([message_request(text)], disable_tqdm=True) == ["fine"]
        sent = prompt.backend.render(lm_eval_cases.MESSAGES)
        asked = next(body["prompt"] for body in fake.bodies if body["max_tokens"] == 3)
        assert asked == prompt.backend.encoding.encode_bare(sent)
        other = HookSteered(**on(url, bare, method="control"))
        with pytest.raises(Refused, match="chat_template=never"):
            other.generate_until([message_request(text)], disable_tqdm=True)


def test_what_stands_before_the_end_of_thinking_is_cut(tiny):
    """think_end_token is honoured, and enable_thinking without it is refused."""
    with served(said="hm</think> yes") as (_, url):
        model = HookSteered(**on(url, tiny, method="control", think_end_token="</think>"))
        assert model.generate_until([request("generate_until", "a", {"max_gen_toks": 3})], True) == ["yes"]
        with pytest.raises(SteerError, match="needs think_end_token"):
            HookSteered(**on(url, tiny, method="control", enable_thinking=True))
        thinking = HookSteered(**on(url, tiny, method="control", think_end_token="</think>", enable_thinking=True))
        with pytest.raises(Refused, match="exclude each other"):
            thinking.loglikelihood([request("loglikelihood", "a", "b")], True)


def test_a_steering_that_does_not_fit_the_server_is_refused(tiny, tmp_path):
    """Layers that the served model doesn't have, another width, and another kind, before any answer is asked for."""
    axis = np.ones(32, np.float32)
    wide = save_steering(Steering((AddVector(1, np.ones(33, "f4"), 1.0),)), tmp_path / "wide.json")
    clamp = save_steering(Steering((ClampFeature(1, axis, 0.0, axis, 1.0),)), tmp_path / "clamp.json")
    with served() as (fake, url):
        for chosen, said in [
            ({"method": "caa", "behavior": "funny", "dose": 0.3, "layer": 4}, "layer 4 is out of range"),
            ({"steering": str(wide)}, "width 33, .* has 32"),
            ({"steering": str(clamp)}, "ClampFeature: vLLM only adds vectors"),
        ]:
            with pytest.raises(SteerError, match=said):
                HookSteered(**on(url, tiny, **chosen))
    assert {body["cache_salt"] for body in fake.bodies} == {"probe"}


def test_another_models_tokenizer_is_found_out(tiny):
    """A server that makes other tokens of a text serves another model."""

    class Backwards:
        def encode(self, text, add_special_tokens):
            return list(range(len(text)))

    wrong = pytest.raises(SteerError, match=r"isn't that of served.*tokenizer=")
    with served(tokenizer=Backwards()) as (_, url), wrong:
        HookSteered(**on(url, tiny, method="control"))


def test_the_key_goes_to_the_server_and_nowhere_else(tiny, monkeypatch):
    """VLLM_API_KEY is sent with each request and is in no result."""
    monkeypatch.setenv("VLLM_API_KEY", "hush-hush")
    with served() as (fake, url):
        found = evaluated("hook_steered", [foreign("text")], on(url, tiny, method="control"), limit=1)
    assert fake.keys == {"Bearer hush-hush"}
    assert "hush" not in str(found)
    assert "hush" not in Path(found["config"]["steer"]["proof"]).read_text()


def test_max_rows_bounds_the_requests_under_way(tiny):
    """As many as asked for and no more are under way at once."""
    asked = [request("generate_until", f"a{n}", {"max_gen_toks": 1}, index=n) for n in range(8)]
    most = []
    for rows in (2, 8):
        with served() as (fake, url):
            model = HookSteered(**on(url, tiny, method="control", max_rows=rows))
            fake.seconds, fake.most = 0.1, 0
            model.generate_until(asked, disable_tqdm=True)
            most.append(fake.most)
    assert most[0] == 2 < most[1]


def test_what_is_opened_otherwise_has_another_identity(tiny):
    """The server's name, the context, the seed and the template's arguments each make another run."""
    with served() as (_, url):
        more = [{}, {"max_length": 512}, {"seed": 7}, {"chat_template_args": {"x": 1}}, {"revision": "r"}]
        runs = {HookSteered(**on(url, tiny, method="control", **one)).run_identity for one in more}
        assert len(runs) == len(more)
        with pytest.raises(SteerError, match="serves served, not other"):
            HookSteered(**on(url, tiny, method="control", served_as="other"))


# Inspect


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"runner": "vllm"}, "runner=vllm needs --model-base-url"),
        ({"base_url": "http://x:1"}, "add -M runner=vllm"),
        ({"served_as": "x"}, "'served_as' under runner=local"),
        ({"runner": "vllm", "base_url": "http://x:1", "dtype": "float32"}, "'dtype' under runner=vllm"),
        ({"runner": "vllm", "base_url": "http://x:1", "device": "cpu"}, "'device' under runner=vllm"),
        ({"runner": "vllm", "base_url": "http://x:1", "steering": "x"}, "would say what is steered"),
        ({"runner": "vllm", "base_url": "http://x:1", "api_key": "hush"}, "VLLM_API_KEY"),
    ],
)
def test_wrong_arguments_of_the_provider_are_refused(arguments, said):
    """By name, when the provider is made."""
    with pytest.raises(Refused, match=said) as caught:
        get_model("hook_steered/x", memoize=False, **arguments)
    assert "hush" not in str(caught.value)


def test_making_the_provider_asks_nothing():
    """A server that isn't there is noticed at the first request, and as many connections are offered as it batches."""
    api = get_model("hook_steered/x", memoize=False, base_url="http://127.0.0.1:9", runner="vllm").api
    assert api.max_connections() == 256
    few = get_model("hook_steered/x", memoize=False, base_url="http://127.0.0.1:9", runner="vllm", max_rows=3).api
    assert few.max_connections() == 3
    assert api.connection_key() != few.connection_key()


def asked(model, steering, **more):
    """The log of an eval of two samples under a steering's file."""
    task = Task(
        dataset=[Sample(input=f"Question {n}", id=n) for n in range(2)], solver=steered_generate(steering=steering)
    )
    (log,) = eval(task, model=model, **more)
    assert log.status == "success", log.error
    return log


def test_an_eval_runs_on_a_server(tiny, vector, inspect_folders):
    """Each sample's report says that the server was probed, and the connections are closed at the end."""
    with served() as (fake, url):
        log = asked(f"hook_steered/{tiny}", vector, model_base_url=url, model_args={"runner": "vllm"})
        steered = [sample.output.metadata["steer"] for sample in log.samples]
        assert [one["proof"]["level"] for one in steered] == ["probed", "probed"]
        assert {one["model"]["url"] for one in steered} == {url}
        salts = [body["cache_salt"] for body in fake.bodies]
        assert salts.count(steered[0]["identity"]) == 2

        async def closed():
            backend = await SERVERS.acquire(tiny, {"base_url": url})
            async with asyncio.timeout(10):
                await backend.server.models()
                held = len(backend.server._lanes)
                await SERVERS.unload()
            return held, len(backend.server._lanes)

        assert asyncio.run(closed()) == (1, 0)


def test_a_task_prepares_through_the_server(tiny, mmlu, inspect_folders):
    """`mmlu_171` with CAA prepares on the server, and answers under what it found."""
    with served() as (_, url):
        task = mmlu_171(method="caa", behavior="funny", layer=1, dose=0.3)
        (log,) = eval(task, model=f"hook_steered/{tiny}", model_base_url=url, model_args={"runner": "vllm"}, limit=2)
    assert log.status == "success", log.error
    assert {sample.output.metadata["steer"]["proof"]["level"] for sample in log.samples} == {"probed"}


def test_a_model_without_a_config_here_is_checked_by_the_server(tiny, tmp_path, inspect_folders):
    """Where only the server knows the model's shape, a layer that isn't there is refused before an answer is asked."""
    deep = save_steering(Steering((AddVector(9, np.ones(32, "f4"), 1.0),)), tmp_path / "deep.json")
    with served() as (fake, url):
        model = {"runner": "vllm", "tokenizer": tiny}
        task = Task(dataset=[Sample(input="Hi")], solver=steered_generate(steering=str(deep)))
        (log,) = eval(task, model="hook_steered/no/such-model", model_base_url=url, model_args=model)
    assert log.status == "error"
    assert "layer 9 is out of range" in log.error.message
    assert {body["cache_salt"] for body in fake.bodies} == {"probe"}
