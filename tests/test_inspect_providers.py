"""Inspect's providers: one steering per request, in one batch, in no cache but its own."""

import asyncio
import io
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ContentImage,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.scorer import Score, mean, scorer
from inspect_ai.solver import generate
from inspect_ai.tool import ToolInfo

import model_adapters.harnesses.inspect_hook as hook_module
import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.backend import Message, with_system_prompts
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.backends.wrapped import seed_of_sample
from model_adapters.errors import NotApplied, Refused, SteeringFileError
from model_adapters.harnesses.inspect import HookSteered, PromptSteered
from model_adapters.harnesses.inspect_arguments import LOCAL, SERVED
from model_adapters.harnesses.inspect_engines import ENGINES, Engines
from model_adapters.harnesses.inspect_messages import inspect_messages, our_messages, sent_text, with_prompts
from model_adapters.harnesses.inspect_prompt import DELEGATED
from model_adapters.harnesses.inspect_sampling import HONOURED, LEFT_TO_INSPECT, REFUSED, sampling_of
from model_adapters.harnesses.inspect_spec import Spec, parse_spec, spec_of
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AddVector, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from tests.tiny_model import tiny_model

LOOKUP = "__model_info_lookup__"
CONTROL_SPEC = spec_of(CONTROL, None).as_dict()
ASKED = [ChatMessageUser(content="Say something.")]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random Llama in float32."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def inspect_folders(tmp_path, monkeypatch):
    """Inspect's caches and logs of one test."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "inspect-cache"))
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    monkeypatch.setenv("INSPECT_DISPLAY", "none")


def push(seed, layer=1, size=3.0):
    """A steering that changes what the tiny model says."""
    return Steering((AddVector(layer, np.random.default_rng(seed).standard_normal(32), size),))


def saved(steering, folder):
    """The spec of a steering, written to `folder`."""
    return spec_of(steering, save_steering(steering, folder / f"{steering.fingerprint}.json")).as_dict()


def body(spec, **config):
    return GenerateConfig(extra_body={"steer": spec}, **config)


def said(api, config, input=ASKED, tools=()):
    """One generation, as Inspect asks a provider for it."""
    result = asyncio.run(api.generate(list(input), list(tools), "auto", config))
    return result[0] if isinstance(result, tuple) else result


def hook(tiny, **arguments):
    return get_model(f"hook_steered/{tiny}", memoize=False, **arguments).api


@pytest.fixture
def scripted(monkeypatch):
    """A provider over a scripted backend of the width of nothing in particular."""
    backend = ScriptedBackend(lambda request: f"said under {request.steering.fingerprint}")
    monkeypatch.setattr(hook_module, "ENGINES", Engines(lambda name, **_: backend))
    return get_model("hook_steered/scripted", memoize=False).api, backend


# Being made


def test_making_a_provider_loads_nothing(monkeypatch):
    """Inspect makes each provider more than once per eval, without arguments and with a stand-in key: nothing loads."""

    def opener(name, **arguments):
        raise AssertionError("loaded")

    monkeypatch.setattr(hook_module, "ENGINES", Engines(opener))
    hooked = HookSteered("no/such-model", api_key=LOOKUP)
    prompted = PromptSteered("openai/gpt-4o", api_key=LOOKUP)
    assert hooked._backend is None
    assert prompted._inner is None


def test_the_inner_provider_is_the_second_part():
    """`prompt_steered/openai/gpt-4o` is model `gpt-4o` of provider `openai`; without a provider it is refused."""
    assert get_model("prompt_steered/openai/gpt-4o", memoize=False).api.model_name == "openai/gpt-4o"
    with pytest.raises(Refused, match="<provider>/<model>"):
        PromptSteered("gpt-4o")


@pytest.mark.parametrize("value", [np.ones(3), io.StringIO(), {"a": np.float32(1)}, [{1, 2}], float("nan"), {1: 2}])
@pytest.mark.parametrize("name", ["hook_steered/x", "prompt_steered/a/b"])
def test_what_json_cannot_hold_is_refused_as_a_model_argument(name, value):
    """Inspect's caches drop such values, so two vectors would share one model object and one stored answer."""
    with pytest.raises(Refused, match="dtype is a"):
        get_model(name, memoize=False, dtype=value)


@pytest.mark.parametrize("name", ["steering", "method", "behavior", "dose", "coefficient", "layer", "vector", "text"])
@pytest.mark.parametrize("provider", ["hook_steered/x", "prompt_steered/a/b"])
def test_model_arguments_never_say_what_is_steered(provider, name):
    """Inspect's generate cache ignores model arguments, so what is steered is refused among them."""
    with pytest.raises(Refused, match=f"-M {name}="):
        get_model(provider, memoize=False, **{name: 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("goodfire_api_key", "s3cret"),
        ("token", "s3cret"),
        ("hf_token", "s3cret"),
        ("dtype", "sk-0123456789abcdefs3cret"),
    ],
)
@pytest.mark.parametrize("provider", ["hook_steered/x", "prompt_steered/a/b"])
def test_keys_are_refused_by_name_and_not_repeated(provider, name, value):
    """Inspect logs model arguments in clear: what looks like a key is refused, and the error doesn't show it."""
    with pytest.raises(Refused, match=f"-M {name}=") as caught:
        get_model(provider, memoize=False, **{name: value})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"batch_size": 4}, "batch_size"),
        ({"runner": "ray"}, "runner=local and runner=vllm"),
        ({"max_rows": 0}, "max_rows=0"),
        ({"unsteered": "maybe"}, "unsteered='maybe'"),
        ({"template_arguments": "x"}, "template_arguments"),
    ],
)
def test_other_model_arguments_are_refused_by_name(arguments, line):
    """An argument that is not known, or has no such value, is named in the error."""
    with pytest.raises(Refused, match=line):
        get_model("hook_steered/x", memoize=False, **arguments)


def test_model_arguments_reach_the_engine(monkeypatch):
    """dtype, device, revision, rows, length and template arguments are what the model is opened with."""
    opened = []

    def opener(name, **arguments):
        opened.append((name, arguments))
        return ScriptedBackend(lambda _: "x")

    monkeypatch.setattr(hook_module, "ENGINES", Engines(opener))
    plain = {"dtype": "float32", "device": "cpu", "revision": "r1"}
    arguments = {**plain, "max_rows": 3, "max_length": "64", "kv_memory_mb": 9}
    api = get_model(
        "hook_steered/a/b", memoize=False, runner="local", template_arguments='{"x": false}', **arguments
    ).api
    said(api, body(CONTROL_SPEC))
    expected = {**plain, "rows": 3, "max_length": 64, "kv_memory_mb": 9}
    assert opened == [("a/b", expected | {"template_arguments": {"x": False}})]


# Engines


def test_a_model_is_loaded_once_and_outside_the_event_loop():
    """Twenty requests of two providers wait for one load, while the loop goes on turning."""
    opened, turns = [], []

    def opener(name, **arguments):
        opened.append(name)
        time.sleep(0.3)
        return ScriptedBackend(lambda _: "x")

    engines = Engines(opener)

    async def turn():
        while True:
            turns.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def run():
        turning = asyncio.create_task(turn())
        backends = await asyncio.gather(*(engines.acquire("m", {"dtype": "float32"}) for _ in range(20)))
        turning.cancel()
        return backends

    backends = asyncio.run(run())
    assert opened == ["m"]
    assert len({id(backend) for backend in backends}) == 1
    assert len(turns) >= 10


def test_models_opened_otherwise_are_other_models():
    """Another dtype, device, revision or name is another engine; the same arguments in another order are the same."""
    engines = Engines(lambda name, **_: ScriptedBackend(lambda _: "x"))

    async def run():
        first = await engines.acquire("m", {"dtype": "float32", "device": "cpu"})
        again = await engines.acquire("m", {"device": "cpu", "dtype": "float32"})
        other = await engines.acquire("m", {"device": "cpu", "dtype": "bfloat16"})
        return first is again, first is other

    assert asyncio.run(run()) == (True, False)


def test_a_failed_load_is_tried_again():
    """What loading raises reaches the caller, and the next request loads anew."""
    outcomes = [OSError("disk"), ScriptedBackend(lambda _: "x")]

    def opener(name, **_):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    engines = Engines(opener)
    with pytest.raises(OSError, match="disk"):
        asyncio.run(engines.acquire("m", {}))
    assert isinstance(asyncio.run(engines.acquire("m", {})), ScriptedBackend)


class Closing(ScriptedBackend):
    """Counts how often it is closed."""

    closed = 0

    async def aclose(self):
        self.closed += 1


def test_the_last_holder_unloads():
    """A shared model is closed when the last provider that used it is closed, and `unload` closes it in any case."""
    backend = Closing(lambda _: "x")
    engines = Engines(lambda name, **_: backend)

    async def run():
        await engines.acquire("m", {})
        await engines.acquire("m", {})
        await engines.release("m", {})
        before = backend.closed
        await engines.release("m", {})
        between = backend.closed
        await engines.acquire("m", {})
        return before, between, await engines.unload(), backend.closed

    assert asyncio.run(run()) == (0, 1, 1, 2)


def test_a_provider_gives_its_model_back(monkeypatch):
    """Used as a context manager, a provider unloads its model at the end and loads it again when used again."""
    opened = []

    def opener(name, **_):
        opened.append(Closing(lambda _: "x"))
        return opened[-1]

    monkeypatch.setattr(hook_module, "ENGINES", Engines(opener))

    async def run():
        async with get_model("hook_steered/m", memoize=False) as model:
            config = body(CONTROL_SPEC)
            await asyncio.gather(*(model.api.generate(ASKED, [], "auto", config) for _ in range(3)))
        after = opened[0].closed
        await model.api.generate(ASKED, [], "auto", config)
        return after

    assert asyncio.run(run()) == 1
    assert [one.closed for one in opened] == [1, 0]


def test_a_cancelled_request_is_cancelled_in_the_engine(monkeypatch):
    """A time limit or Ctrl-C ends the request where it runs, not only where it is awaited."""
    seen = []

    class Slow(ScriptedBackend):
        async def complete(self, request):
            seen.append("started")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

    monkeypatch.setattr(hook_module, "ENGINES", Engines(lambda name, **_: Slow(lambda _: "x")))
    api = get_model("hook_steered/m", memoize=False).api

    async def run():
        task = asyncio.create_task(api.generate(ASKED, [], "auto", body(CONTROL_SPEC)))
        while not seen:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert seen == ["started", "cancelled"]


# The spec


def test_a_request_without_a_spec_is_refused(scripted):
    """A lost spec is not mistaken for the control: it is an error that names both remedies."""
    api, backend = scripted
    with pytest.raises(Refused, match=r"steer spec FILE.*unsteered=true"):
        said(api, GenerateConfig())
    assert backend.requests == []


def test_unsteered_lets_plain_requests_through(scripted):
    """Opened with unsteered=true, a request without a spec runs as the control, and the report has no spec."""
    api = get_model("hook_steered/scripted", memoize=False, unsteered=True).api
    output = said(api, GenerateConfig())
    assert output.completion == f"said under {CONTROL.fingerprint}"
    assert output.metadata["steer"]["spec"] is None
    assert output.metadata["steer"]["fingerprint"] == CONTROL.fingerprint


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"v": 2}, "v=2"),
        ({"v": True}, "v=True"),
        ({"method": "caa"}, "'method'"),
        ({"fingerprint": None}, "no fingerprint"),
        ({"fingerprint": "0" * 16}, "file is null for the control"),
        ({"file": "x.json"}, "file is null for the control"),
        ({"sample_index": -1}, "sample_index is -1"),
        ({"sample_index": True}, "sample_index is True"),
        ({"sample_index": 1.5}, "sample_index is 1.5"),
        ({"identity": 5}, "identity is 5"),
    ],
)
def test_a_malformed_spec_is_refused_by_field(scripted, change, line):
    """A spec of another version, with an unknown key or a value of the wrong kind names what is wrong."""
    api, backend = scripted
    with pytest.raises(Refused, match=line):
        said(api, body(CONTROL_SPEC | change))
    assert backend.requests == []


@pytest.mark.parametrize("given", ["caa", 3, ["x"], {}])
def test_a_spec_is_an_object(given):
    """Whatever isn't a spec at all is refused too."""
    with pytest.raises(Refused):
        parse_spec(given)


@given(
    st.from_regex(r"[0-9a-f]{16}", fullmatch=True).filter(lambda text: text != CONTROL.fingerprint),
    st.text(min_size=1),
    st.none() | st.text(min_size=1),
    st.none() | st.integers(0, 10**9),
)
def test_a_spec_survives_its_dictionary(fingerprint, file, identity, index):
    """A spec read from its own dictionary is the same spec."""
    spec = Spec(fingerprint, file, identity, index)
    assert parse_spec(spec.as_dict()) == spec


def test_another_key_in_extra_body_is_refused(scripted):
    """Nothing in extra_body is dropped in silence."""
    api, backend = scripted
    with pytest.raises(Refused, match="min_p"):
        said(api, GenerateConfig(extra_body={"steer": CONTROL_SPEC, "min_p": 0.1}))
    assert backend.requests == []


def test_the_file_must_hold_what_the_spec_says(scripted, tmp_path):
    """A spec whose file is absent, altered or of another steering is refused before anything runs."""
    api, backend = scripted
    one, other = saved(push(1), tmp_path), saved(push(2), tmp_path)
    with pytest.raises(Refused, match=other["fingerprint"]):
        said(api, body(one | {"file": other["file"]}))
    with pytest.raises(SteeringFileError, match="no such steering file"):
        said(api, body(one | {"file": str(tmp_path / "absent.json")}))
    path = tmp_path / f"{one['fingerprint']}.json"
    path.write_text(path.read_text().replace('"coefficient": 3.0', '"coefficient": 4.0'))
    with pytest.raises(SteeringFileError, match="altered"):
        said(api, body(one))
    assert backend.requests == []


def test_another_run_identity_is_refused(scripted):
    """A spec made for another model, dtype or version doesn't run."""
    api, backend = scripted
    right = backend.identity.run(CONTROL.fingerprint)
    with pytest.raises(Refused, match="0123"):
        said(api, body(CONTROL_SPEC | {"identity": "0123"}))
    assert backend.requests == []
    assert said(api, body(CONTROL_SPEC | {"identity": right})).metadata["steer"]["identity"] == right


def test_an_answer_under_another_steering_is_withheld(monkeypatch):
    """A backend whose proof is of something else raises; the text isn't returned."""

    class Lying(ScriptedBackend):
        async def complete(self, request):
            return await super().complete(replace(request, steering=CONTROL))

    monkeypatch.setattr(hook_module, "ENGINES", Engines(lambda name, **_: Lying(lambda _: "x")))
    api = get_model("hook_steered/m", memoize=False).api
    spec = Spec(push(1).fingerprint, "unread.json")
    api._steerings._read[(spec.fingerprint, spec.file)] = push(1)
    with pytest.raises(NotApplied):
        said(api, body(spec.as_dict()))


# The generate config


def test_every_field_of_the_generate_config_is_decided():
    """A field that Inspect adds must be honoured, left to Inspect, or refused by name: this test asks for it."""
    fields = set(GenerateConfig.model_fields)
    tables = [HONOURED, LEFT_TO_INSPECT, set(REFUSED)]
    assert fields == set().union(*tables)
    assert sum(map(len, tables)) == len(fields)


def test_the_documentation_has_the_same_tables(root):
    """Each argument and each field of the generate config is in its row of docs/inspect.md, and no other is."""
    lines = (root / "docs" / "inspect.md").read_text(encoding="utf-8").splitlines()
    cells = [[set(re.findall(r"`(\w+)`", cell)) for cell in line.split("|")[1:3]] for line in lines if line[:1] == "|"]
    names = [row[0] for row in cells]
    for table in (HONOURED - {"extra_body"}, {"extra_body"}, LEFT_TO_INSPECT, set(REFUSED)):
        assert set(table) in names
    start = next(n for n, row in enumerate(names) if "runner" in row)
    assert set().union(*names[start : start + 9]) == {*LOCAL, *SERVED}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("best_of", 2),
        ("frequency_penalty", 0.5),
        ("presence_penalty", 0.5),
        ("logit_bias", {5: 1.0}),
        ("num_choices", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("prompt_logprobs", 2),
        ("fallback_models", ["x"]),
        ("verbosity", "low"),
        ("effort", "low"),
        ("reasoning_effort", "low"),
        ("reasoning_mode", "pro"),
        ("reasoning_tokens", 5),
        ("reasoning_summary", "auto"),
        ("response_schema", {"name": "x", "json_schema": {"type": "object"}}),
        ("extra_headers", {"a": "b"}),
        ("modalities", ["image"]),
        ("batch", True),
    ],
)
def test_fields_that_cannot_be_honoured_are_refused_by_name(scripted, name, value):
    """What would change an answer in a way we can't is named, and nothing is generated."""
    assert name in REFUSED
    api, backend = scripted
    with pytest.raises(Refused, match=name):
        said(api, body(CONTROL_SPEC, **{name: value}))
    assert backend.requests == []


def test_values_that_ask_for_nothing_pass():
    """Fields set to their neutral value, and what Inspect does itself, change nothing."""
    plain = GenerateConfig(num_choices=1, logprobs=False, batch=False, frequency_penalty=0.0, reasoning_effort="none")
    host = GenerateConfig(max_retries=2, timeout=5, max_connections=3, cache=True, internal_tools=False)
    assert sampling_of(plain) == sampling_of(host) == sampling_of(GenerateConfig())


def test_without_a_temperature_it_is_greedy():
    """No temperature means greedy; top_p or top_k, which would do nothing then, are refused instead of dropped."""
    assert sampling_of(GenerateConfig()).is_greedy
    for narrowed in (GenerateConfig(top_p=0.9), GenerateConfig(top_k=5, temperature=0.0)):
        with pytest.raises(Refused, match="set temperature too"):
            sampling_of(narrowed)


def test_sampling_fields_reach_the_engine(scripted):
    """Every honoured field is in the request that the backend sees."""
    api, backend = scripted
    config = dict(max_tokens=9, temperature=0.7, top_p=0.9, top_k=4, seed=11, stop_seqs=["###"])
    said(api, body(CONTROL_SPEC | {"sample_index": 3}, **config))
    [request] = backend.requests
    assert request.sampling == sampling_of(GenerateConfig(**config))
    assert (request.sampling.max_tokens, request.sampling.seed, request.sampling.stop) == (9, 11, ("###",))
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (0.7, 0.9, 4)
    assert request.sample_index == 3


def test_tools_and_pictures_are_refused(scripted):
    """Tools, tool calls and content that isn't text are named; nothing is generated."""
    api, backend = scripted
    with pytest.raises(Refused, match="calculator"):
        said(api, body(CONTROL_SPEC), tools=[ToolInfo(name="calculator", description="adds")])
    picture = ContentImage(image="data:image/png;base64,AAAA")
    for message in (ChatMessageUser(content=[picture]), ChatMessageTool(content="4")):
        with pytest.raises(Refused, match=r"image|tool"):
            said(api, body(CONTROL_SPEC), input=[message])
    assert backend.requests == []


def test_parts_of_text_are_one_text():
    """Several text parts of one message arrive as lines of one message."""
    parts = [ContentText(text="one"), ContentText(text="two")]
    assert our_messages([ChatMessageUser(content=parts)]) == (Message("user", "one\ntwo"),)


# A real model


def test_neighbours_in_a_batch_keep_their_own_steering(tiny, tmp_path):
    """Twelve concurrent requests under three steerings each give the text that the same request gives alone."""
    api = hook(tiny, dtype="float32")
    steerings = [CONTROL, push(1), push(2, layer=2, size=2.0)]
    specs = [CONTROL_SPEC, *(saved(one, tmp_path) for one in steerings[1:])]
    prompts = [[ChatMessageUser(content=text)] for text in ("Hi", "What is a tree?", "Count to ten, please.", "Why?")]
    asked = [(prompt, body(spec, max_tokens=10 + 2 * n)) for n, spec in enumerate(specs) for prompt in prompts]

    async def together():
        return await asyncio.gather(*(api.generate(prompt, [], "auto", config) for prompt, config in asked))

    mixed = [output.completion for output, _ in asyncio.run(together())]
    alone = [said(api, config, prompt).completion for prompt, config in asked]
    assert mixed == alone
    assert len(set(mixed)) == 12


def test_counts_and_stop_reasons_are_true(tiny):
    """Tokens are counted as the model saw them, not padded; stop reasons are those of the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    api = hook(tiny, dtype="float32")
    long = [ChatMessageUser(content="x" * 900)]

    async def together():
        config = body(CONTROL_SPEC, max_tokens=7)
        return await asyncio.gather(*(api.generate(one, [], "auto", config) for one in (ASKED, long)))

    for (output, _), message in zip(asyncio.run(together()), (ASKED[0].text, long[0].text), strict=True):
        turns = [{"role": "user", "content": message}]
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=True, return_dict=False)
        assert output.usage.input_tokens == len(ids)
        assert output.usage.output_tokens == 7
        assert output.usage.total_tokens == len(ids) + 7
        assert output.stop_reason == "max_tokens"
    text = said(api, body(CONTROL_SPEC, max_tokens=12)).completion
    stopped = said(api, body(CONTROL_SPEC, max_tokens=12, stop_seqs=[text[3]]))
    assert stopped.stop_reason == "stop"
    assert stopped.completion == text[: text.index(text[3])]
    full = said(api, body(CONTROL_SPEC, max_tokens=500), input=[ChatMessageUser(content="x" * 960)])
    assert full.stop_reason == "model_length"


def test_the_output_says_what_ran(tiny, tmp_path):
    """The metadata holds the spec, a measured proof, the messages as sent and the model; the call is kept as well."""
    steering = push(1) + Steering((SystemPrompt("Be funny."),))
    spec = saved(steering, tmp_path) | {"sample_index": 1}
    api = hook(tiny, dtype="float32")
    output, call = asyncio.run(api.generate(list(ASKED), [], "auto", body(spec, max_tokens=5)))
    report = output.metadata["steer"]
    identity = asyncio.run(api.backend()).identity
    assert report["spec"] == spec
    assert report["fingerprint"] == report["proof"]["fingerprint"] == steering.fingerprint
    assert report["identity"] == report["proof"]["identity"] == identity.run(steering.fingerprint)
    assert report["proof"]["level"] == "measured"
    assert report["proof"]["response_tokens_touched"] == 5
    assert report["proof"]["doses"][0]["layer"] == 1
    sent = [{"role": "system", "content": "Be funny."}, {"role": "user", "content": "Say something."}]
    assert report["messages_sent"] == sent
    assert report["model"] == identity.as_dict()
    assert report["seed"] is None
    assert call.request["messages"] == sent
    assert call.request["steer"] == spec
    assert call.response == {"text": output.completion, "stop_reason": "max_tokens"}


def test_samples_of_a_numbered_request_repeat_and_differ(tiny):
    """With a sample index, sampling is the same again in another run, and another for another index."""
    api = hook(tiny, dtype="float32")

    def sampled(index):
        return said(api, body(CONTROL_SPEC | {"sample_index": index}, max_tokens=12, temperature=1.0))

    first, again, second = sampled(0), sampled(0), sampled(1)
    assert first.completion == again.completion != second.completion
    assert first.metadata["steer"]["seed"] == again.metadata["steer"]["seed"] is not None


def test_a_sample_without_a_number_gets_a_fresh_recorded_seed(tiny):
    """Where a spec can't number samples each is a new one, and its recorded seed gives the same text again."""
    api = hook(tiny, dtype="float32")
    config = dict(max_tokens=12, temperature=1.0)
    one, other = (said(api, body(CONTROL_SPEC, **config)) for _ in range(2))
    seeds = [output.metadata["steer"]["seed"] for output in (one, other)]
    assert seeds[0] != seeds[1]
    assert one.completion != other.completion
    assert said(api, body(CONTROL_SPEC, seed=seeds[0], **config)).completion == one.completion


# Inspect around it


@scorer(metrics=[mean()])
def graded():
    """Asks a bound grader."""

    async def score(state, target):
        reply = await get_model(role="grader").generate("Grade this.")
        return Score(value=float(len(reply.completion) > 0))

    return score


def run(model, tmp_path, *, scorer=None, **options):
    task = Task(dataset=[Sample(input="Say something.", id="one")], solver=generate(), scorer=scorer)
    [log] = eval(task, model=model, log_dir=str(tmp_path / "logs"), display="none", **options)
    return log


def test_two_steerings_never_share_a_cached_answer(tiny, tmp_path, monkeypatch):
    """With Inspect's cache on, two steerings of one prompt give two answers, both logged; a third run hits."""
    asked = []
    backend = asyncio.run(ENGINES.acquire(str(tiny), {"dtype": "float32"}))
    complete = type(backend).complete

    async def counted(self, request):
        asked.append(request.steering.fingerprint)
        return await complete(self, request)

    monkeypatch.setattr(type(backend), "complete", counted)
    specs = [saved(push(1), tmp_path), saved(push(2), tmp_path)]
    logs = [
        run(
            f"hook_steered/{tiny}",
            tmp_path,
            model_args={"dtype": "float32"},
            extra_body={"steer": spec},
            cache=True,
            max_tokens=8,
        )
        for spec in (*specs, specs[0])
    ]
    assert [log.status for log in logs] == ["success"] * 3
    texts = [log.samples[0].output.completion for log in logs]
    assert texts[0] != texts[1]
    assert texts[2] == texts[0]
    assert asked == [spec["fingerprint"] for spec in specs]
    for log, spec in zip(logs, (*specs, specs[0]), strict=True):
        assert log.samples[0].output.metadata["steer"]["fingerprint"] == spec["fingerprint"]
        [event] = [event for event in log.samples[0].events if event.event == "model"]
        assert event.config.extra_body["steer"] == spec
    assert [event.cache for event in logs[2].samples[0].events if event.event == "model"] == ["read"]


class Echo(ModelAPI):
    """A provider that keeps its calls, and fails where it is told to."""

    calls: list = []  # noqa: RUF012 (one record for every instance, emptied by the fixture)
    failures: list = []  # noqa: RUF012
    one_system = False

    def __init__(self, model_name, base_url=None, api_key=None, config=GenerateConfig(), **model_args):  # noqa: B008
        super().__init__(model_name, base_url, api_key, [], config)
        self.model_args = model_args

    async def generate(self, input, tools, tool_choice, config):
        self.calls.append((list(input), config, self))
        if self.failures:
            raise self.failures.pop(0)
        output = ModelOutput.from_content(self.model_name, f"reply {len(self.calls)}")
        output.usage = ModelUsage(input_tokens=5, output_tokens=2, total_tokens=7)
        output.metadata = {"own": 1}
        return output

    def should_retry(self, ex):
        return isinstance(ex, ConnectionError)

    def max_tokens(self):
        return 123

    def max_connections(self):
        return 7

    def collapse_system_messages(self):
        return self.one_system


@modelapi(name="echo_test")
def echo_test():
    return Echo


@pytest.fixture
def echo(monkeypatch):
    """The calls of the provider behind the prompt."""
    monkeypatch.setattr(Echo, "calls", [])
    monkeypatch.setattr(Echo, "failures", [])
    return Echo


def funny(placement="after"):
    return Steering((SystemPrompt("Be funny.", placement),))


def test_a_bound_grader_is_never_steered(tiny, tmp_path, echo):
    """A grader role that is bound gets neither the spec nor the steering of the model under test."""
    log = run(
        f"hook_steered/{tiny}",
        tmp_path,
        scorer=graded(),
        model_args={"dtype": "float32"},
        model_roles={"grader": "echo_test/judge"},
        extra_body={"steer": saved(push(1), tmp_path)},
        max_tokens=4,
    )
    assert log.status == "success"
    [(messages, config, _)] = echo.calls
    assert "steer" not in (config.extra_body or {})
    assert [message.text for message in messages] == ["Grade this."]


def test_the_prompt_goes_to_the_inner_model_and_the_spec_does_not(tmp_path, echo):
    """The inner provider gets the sentence and every other key of extra_body; `steer` stays here."""
    api = get_model("prompt_steered/echo_test/m", memoize=False).api
    spec = saved(funny(), tmp_path)
    config = GenerateConfig(extra_body={"steer": spec, "min_p": 0.1}, max_tokens=4)
    output = said(api, config, [ChatMessageSystem(content="Be brief."), *ASKED])
    [(messages, seen, _)] = echo.calls
    assert [(message.role, message.text) for message in messages] == [
        ("system", "Be brief.\n\nBe funny."),
        ("user", "Say something."),
    ]
    assert seen.extra_body == {"min_p": 0.1}
    assert seen.max_tokens == 4
    report = output.metadata["steer"]
    assert output.metadata["own"] == 1
    assert report["proof"]["level"] == "sent"
    assert report["messages_sent"][0] == {"role": "system", "content": "Be brief.\n\nBe funny."}
    assert report["spec"] == spec
    assert report["identity"] == api.identity.run(funny().fingerprint)


def test_the_control_leaves_the_inner_request_alone(echo):
    """Under the control the inner provider gets the very message objects, and no extra_body at all."""
    api = get_model("prompt_steered/echo_test/m", memoize=False).api
    said(api, body(CONTROL_SPEC))
    [(messages, config, _)] = echo.calls
    assert messages[0] is ASKED[0]
    assert config.extra_body is None


def test_a_vector_behind_a_prompt_is_refused(tmp_path, echo):
    """A steering that is more than a prompt is refused before the inner model is asked; so is a request without one."""
    api = get_model("prompt_steered/echo_test/m", memoize=False).api
    with pytest.raises(Refused, match="AddVector"):
        said(api, body(saved(push(1) + funny(), tmp_path)))
    with pytest.raises(Refused, match="unsteered=true"):
        said(api, GenerateConfig())
    assert echo.calls == []


def test_retries_are_the_inner_providers(tmp_path, echo):
    """A failure that the inner provider retries is retried once, logged once per try, and its usage counted once."""
    echo.failures.append(ConnectionError("busy"))
    spec = saved(funny(), tmp_path)
    log = run("prompt_steered/echo_test/m", tmp_path, extra_body={"steer": spec}, max_retries=2)
    assert log.status == "success"
    assert len(echo.calls) == 2
    events = [event for event in log.samples[0].events if event.event == "model"]
    assert len(events) == 2
    assert log.stats.model_usage["prompt_steered/echo_test/m"].total_tokens == 7
    assert echo.calls[0][1].max_tokens == 123


def test_two_wrappers_have_two_inner_models(echo):
    """Inner models aren't shared between wrappers of other configs or arguments."""
    apis = [get_model("prompt_steered/echo_test/m", memoize=False, region=region).api for region in ("a", "b")]
    for api in apis:
        said(api, body(CONTROL_SPEC))
    inner = [call[2] for call in echo.calls]
    assert [one.model_args for one in inner] == [{"region": "a"}, {"region": "b"}]
    assert apis[0].identity.digest != apis[1].identity.digest


def test_a_repeated_sample_gets_its_own_seed(echo):
    """With a seed, each epoch's request has another one, derived and recorded."""
    api = get_model("prompt_steered/echo_test/m", memoize=False).api
    outputs = [said(api, body(CONTROL_SPEC | {"sample_index": index}, seed=5)) for index in (0, 1)]
    assert [call[1].seed for call in echo.calls] == [5, seed_of_sample(5, 1)]
    assert [output.metadata["steer"]["seed"] for output in outputs] == [5, seed_of_sample(5, 1)]


# What Inspect asks of a provider and who answers under `prompt_steered`.
OWN = {"generate", "backend", "taken", "aclose", "close", "initialize", "inner", "identity", "unsteered"}
LEFT = {"canonical_name", "input_tokens_name", "compact", "qualified_model_name"}


def test_every_question_to_a_provider_reaches_the_inner_one(echo):
    """A method that Inspect adds to providers must be handed on, answered, or left by name: this test asks."""
    public = {name for name in dir(ModelAPI) if not name.startswith("_")}
    assert public - OWN - LEFT == set(DELEGATED)
    api = get_model("prompt_steered/echo_test/m", memoize=False).api
    assert (api.max_tokens(), api.max_connections()) == (123, 7)
    assert api.should_retry(ConnectionError())
    assert not api.should_retry(ValueError())


ROLES = st.sampled_from(["system", "user", "assistant"])
PROMPTS = st.lists(
    st.builds(SystemPrompt, st.text("ab", min_size=1), st.sampled_from(["after", "before", "separate"])), max_size=3
)


@given(st.lists(st.builds(Message, ROLES, st.text("xyz", min_size=1)), min_size=1, max_size=5), PROMPTS)
def test_prompts_are_placed_alike_everywhere(messages, prompts):
    """Inspect's messages get their prompts exactly where every other backend puts them."""
    steering = Steering(tuple(prompts))
    ours = with_system_prompts(tuple(messages), steering)
    assert sent_text(with_prompts(inspect_messages(tuple(messages)), steering, False)) == ours


def test_untouched_messages_stay_the_same_objects():
    """Ids and metadata of messages that a prompt doesn't change are kept."""
    input = [ChatMessageSystem(content="Be brief."), *ASKED, ChatMessageAssistant(content="So?")]
    placed = with_prompts(input, funny("separate"), False)
    assert [message.text for message in placed] == ["Be brief.", "Be funny.", "Say something.", "So?"]
    assert placed[0] is input[0]
    assert placed[2:] == input[1:]


def test_an_inner_model_that_takes_one_system_message_gets_one(tmp_path, echo, monkeypatch):
    """Where the inner provider joins system messages, ours is joined too, and the report shows what was sent."""
    monkeypatch.setattr(Echo, "one_system", True)
    api = get_model("prompt_steered/echo_test/m", memoize=False).api
    spec = saved(funny("separate"), tmp_path)
    output = said(api, body(spec), [ChatMessageSystem(content="Be brief."), *ASKED])
    assert [message.text for message in echo.calls[0][0]] == ["Be brief.\n\nBe funny.", "Say something."]
    assert output.metadata["steer"]["messages_sent"][0]["content"] == "Be brief.\n\nBe funny."


def test_the_identity_has_no_secret():
    """What a log holds of a wrapped model is its name, URL and arguments; the key isn't among them."""
    api = PromptSteered("openai/gpt-4o", base_url="http://localhost:1/v1", api_key="s3cret")
    assert api.identity == ModelIdentity("openai/gpt-4o", "wrapped", url="http://localhost:1/v1")


def test_two_event_loops_may_wait_for_one_model():
    """Evals in two threads share one load, each in its own event loop."""
    engines = Engines(lambda name, **_: (time.sleep(0.2), ScriptedBackend(lambda _: "x"))[1])
    found = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(engines.acquire("m", {})))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] is found[1]
