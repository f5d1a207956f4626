"""`hook_steered` and `prompt_steered` in lm-eval's own process: parity with `hf`, prompts, caches, proofs, refusals."""

import asyncio
import inspect
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import lm_eval.models
import numpy as np
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tiny_model import tiny_model

from model_adapters.backend import Message
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import FIELD, plain_form, to_field
from model_adapters.harnesses.lm_eval import HookSteered, PromptSteered
from model_adapters.harnesses.lm_eval_arguments import HF_ARGUMENTS, hook_arguments
from model_adapters.harnesses.lm_eval_requests import sampling_of
from model_adapters.steering import AddVector, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from steer_tasks import _lm_eval_patch

DOCS = Path(__file__).parent.parent / "docs" / "lm_eval.md"
OURS = Path(__file__).parent.parent / "steer_tasks" / "lm_eval_tasks"
ROWS = [
    {"q": "The sky is", "a": "blue today", "c": ["blue today", "green", "a very old shoe"], "n": 0},
    {"q": "Two and two", "a": "make four", "c": ["four", "seven", "eleven"], "n": 0},
    {"q": "A long question about nothing at all, which goes on", "a": "no", "c": ["no", "yes", "perhaps"], "n": 2},
]
MESSAGES = (Message("system", "Be exact."), Message("user", "Count to three."))


def rows(**_):
    return {"test": datasets.Dataset.from_list(ROWS)}


def foreign(kind, **more):
    """Somebody else's task of one kind of request, as lm-eval takes it from Python."""
    common = {"custom_dataset": rows, "test_split": "test", "doc_to_text": "{{q}}"}
    kinds = {
        "choice": {"output_type": "multiple_choice", "doc_to_choice": "c", "doc_to_target": "n"},
        "rolling": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}} {{a}}"},
        "text": {
            "output_type": "generate_until",
            "doc_to_target": "a",
            "generation_kwargs": {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 12},
        },
    }
    metrics = {"choice": "acc", "rolling": "bits_per_byte", "text": "exact_match"}
    metric = [{"metric": metrics[kind]}]
    return {"task": f"foreign_{kind}", **common, **kinds[kind], "metric_list": metric, **more}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The start-up hook's registration, in this process."""
    _lm_eval_patch.lm_eval_models(lm_eval.models)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The same without a chat template."""
    return str(tiny_model(tmp_path_factory.mktemp("bare") / "model", template=None))


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    """A steering file that adds a vector at layer 1."""
    direction = np.random.default_rng(0).standard_normal(32).astype("f4")
    return str(save_steering(Steering((AddVector(1, direction, 1.0),)), tmp_path_factory.mktemp("s") / "vector.json"))


@pytest.fixture(scope="module")
def sentence(tmp_path_factory):
    """A steering file that holds a system prompt."""
    return str(save_steering(Steering((SystemPrompt("Be funny."),)), tmp_path_factory.mktemp("s") / "sentence.json"))


def local(name, **arguments):
    return {"pretrained": name, "device": "cpu", "dtype": "float32", **arguments}


def evaluated(model, tasks, arguments=None, **more):
    """lm-eval's results with bootstrapping left out and only our task folder indexed."""
    manager = TaskManager(include_path=str(OURS), include_defaults=False)
    return simple_evaluate(
        model=model, model_args=arguments, tasks=tasks, task_manager=manager, bootstrap_iters=0, **more
    )


def answers(found, task):
    return [sample["resps"] for sample in found["samples"][task]]


def close(ours, theirs, tokens=64):
    """The equality rule for log-probabilities: 1e-4 per token."""
    return ours == pytest.approx(theirs, abs=1e-4 * tokens)


def request(kind, *arguments, doc=None, index=0, repeats=1):
    return Instance(kind, doc or {}, tuple(arguments), 0, metadata=("task", index, repeats))


def message_request(prompt, doc=None, **generation):
    document = {FIELD: to_field(MESSAGES)} if doc is None else doc
    return request("generate_until", prompt, {"until": [], "max_gen_toks": 3, **generation}, doc=document)


# Parity


@pytest.mark.parametrize("flag", [False, True])
def test_control_equals_hf_on_somebody_elses_task(tiny, flag):
    """Unsteered, likelihoods, rolling likelihoods and greedy texts are those of lm-eval's `hf`, templated or not."""
    tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
    theirs = evaluated(HFLM(**local(tiny), batch_size=2), tasks, apply_chat_template=flag)
    model = HookSteered(**local(tiny), method="control")
    ours = evaluated(model, tasks, apply_chat_template=flag)
    for sample, other in zip(answers(ours, "foreign_choice"), answers(theirs, "foreign_choice"), strict=True):
        for [(total, greedy)], [(other_total, other_greedy)] in zip(sample, other, strict=True):
            assert close(total, other_total)
            assert greedy == other_greedy
    for [[total]], [[other_total]] in zip(answers(ours, "foreign_rolling"), answers(theirs, "foreign_rolling"), strict=True):
        assert close(total, other_total)
    assert answers(ours, "foreign_text") == answers(theirs, "foreign_text")
    assert ours["results"]["foreign_choice"]["acc,none"] == theirs["results"]["foreign_choice"]["acc,none"]
    model.close()


def test_a_steering_without_effect_equals_the_control_bit_for_bit(tiny, vector, tmp_path):
    """A vector times zero gives exactly the control's likelihoods and texts; times one it gives others."""
    idle = save_steering(Steering((AddVector(1, np.ones(32, "f4"), 0.0),)), tmp_path / "idle.json")
    tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
    found = {
        name: evaluated(HookSteered(**local(tiny), **chosen), tasks)
        for name, chosen in {
            "control": {"method": "control"}, "idle": {"steering": str(idle)}, "vector": {"steering": vector},
        }.items()
    }
    for task in ("foreign_choice", "foreign_rolling", "foreign_text"):
        assert answers(found["idle"], task) == answers(found["control"], task)
        assert answers(found["vector"], task) != answers(found["control"], task)


def test_our_tasks_are_chat_without_the_flag_and_equal_hf_with_it(mmlu, tiny):
    """`chat_template=auto` sends our documents as chat even without the flag: what `hf` sends with it."""
    tasks = ["mmlu_171_mc", "mmlu_171_cloze", "mmlu_171"]
    short = {"limit": 2, "gen_kwargs": {"max_gen_toks": 6}}
    theirs = evaluated("hf", tasks, local(tiny), apply_chat_template=True, **short)
    for flag in (False, True):
        ours = evaluated("hook_steered", tasks, local(tiny, method="control"), apply_chat_template=flag, **short)
        assert_same(ours, theirs)
    plain = evaluated("hf", tasks, local(tiny), **short)
    never = evaluated("hook_steered", tasks, local(tiny, method="control", chat_template="never"), **short)
    assert_same(never, plain)
    assert answers(plain, "mmlu_171_mc") != answers(theirs, "mmlu_171_mc")


def assert_same(ours, theirs):
    for task in ("mmlu_171_mc", "mmlu_171_cloze"):
        for sample, other in zip(answers(ours, task), answers(theirs, task), strict=True):
            assert close([one[0][0] for one in sample], [one[0][0] for one in other])
    assert answers(ours, "mmlu_171") == answers(theirs, "mmlu_171")


def test_long_prompts_are_cut_from_the_left_as_hf_cuts_them(tiny, tmp_path):
    """A prompt that doesn't fit loses the same tokens as in `hf`, and the proof file says how many."""
    tasks = [foreign("text"), foreign("choice")]
    theirs = evaluated(HFLM(**local(tiny), max_length=24, batch_size=1), tasks)
    ours = evaluated(HookSteered(**local(tiny), method="control", max_length=24, proof=str(tmp_path / "p.jsonl")), tasks)
    assert answers(ours, "foreign_text") == answers(theirs, "foreign_text")
    for sample, other in zip(answers(ours, "foreign_choice"), answers(theirs, "foreign_choice"), strict=True):
        assert close([one[0][0] for one in sample], [one[0][0] for one in other])
    cut = [line["tokens_cut"] for line in lines(tmp_path / "p.jsonl") if line["request_type"] == "generate_until"]
    assert sorted(cut) == sorted(max(0, len(row["q"]) - 12) for row in ROWS)


@pytest.mark.parametrize("think", ["e", 71])
def test_thinking_is_cut_off_as_in_hf(tiny, think):
    """`think_end_token`, as text or as token id, leaves what `hf` leaves."""
    theirs = HFLM(**local(tiny), think_end_token=think)
    ours = HookSteered(**local(tiny), method="control", think_end_token=think)
    asked = [request("generate_until", row["q"], {"until": ["x"], "max_gen_toks": 40}, index=i) for i, row in enumerate(ROWS)]
    assert ours.generate_until(asked, disable_tqdm=True) == theirs.generate_until(asked, disable_tqdm=True)


# Which prompt is sent


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_the_documents_messages_are_sent_with_the_steerings_prompt_in_them(tiny, sentence, tmp_path):
    """The proof file holds the messages as sent: the document's, and the steering's sentence after a blank line."""
    path = tmp_path / "deep" / "p.jsonl"
    model = HookSteered(**local(tiny), steering=sentence, proof=str(path))
    model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)
    (line,) = lines(path)
    assert line["messages_sent"] == [
        {"role": "system", "content": "Be exact.\n\nBe funny."},
        {"role": "user", "content": "Count to three."},
    ]
    assert line["proof"]["identity"] == line["run"] == model.backend.identity.run(model.steering.fingerprint)
    assert (line["task"], line["doc_id"], line["sample_index"]) == ("task", 0, 0)


def test_altered_prompts_of_our_documents_are_refused(tiny):
    """Few-shot examples or a system instruction in front of our messages are refused with the remedy."""
    model = HookSteered(**local(tiny), method="control")
    for prompt in ("Example.\n\n" + plain_form(MESSAGES), "Be brief.\n\n" + plain_form(MESSAGES)):
        with pytest.raises(Refused, match="leave --num_fewshot and --system_instruction out"):
            model.generate_until([message_request(prompt)], disable_tqdm=True)
    for prompt in (plain_form(MESSAGES), model.apply_chat_template([vars(one) for one in MESSAGES])):
        assert len(model.generate_until([message_request(prompt)], disable_tqdm=True)) == 1


def test_never_sends_the_prompt_as_it_is_and_always_makes_one_turn_of_it(tiny, tmp_path):
    """`never` sends lm-eval's own text, `always` wraps it once, and not where it is templated already."""
    for mode, prompt, sent in [
        ("never", plain_form(MESSAGES), None),
        ("auto", "Hello", None),
        ("always", "Hello", [{"role": "user", "content": "Hello"}]),
        ("always", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", None),
    ]:
        path = tmp_path / f"{mode}{len(prompt)}.jsonl"
        model = HookSteered(**local(tiny), method="control", chat_template=mode, proof=str(path))
        doc = {FIELD: to_field(MESSAGES)} if prompt == plain_form(MESSAGES) else {}
        model.generate_until([message_request(prompt, doc=doc)], disable_tqdm=True)
        assert [line["messages_sent"] for line in lines(path)] == [sent]


def test_a_tokenizer_without_template_is_refused_with_the_remedy(bare):
    """Our tasks need a chat template under `auto`; without one the error names chat_template=never, which runs."""
    with pytest.raises(Refused, match="use chat_template=never"):
        HookSteered(**local(bare), method="control").generate_until([message_request(plain_form(MESSAGES))])
    model = HookSteered(**local(bare), method="control", chat_template="never")
    assert len(model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)) == 1


def test_a_system_prompt_enters_foreign_tasks_through_the_template_only(tiny, sentence):
    """On somebody else's task a prompt steering needs --apply_chat_template, enters there, and is in the cache's key."""
    model = HookSteered(**local(tiny), steering=sentence)
    with pytest.raises(Refused, match="add --apply_chat_template"):
        evaluated(model, [foreign("text")])
    with pytest.raises(Refused, match="scored whole"):
        evaluated(model, [foreign("rolling")])
    found = evaluated(model, [foreign("text")], apply_chat_template=True)
    prompt = found["samples"]["foreign_text"][0]["arguments"][0][0]
    assert prompt == "<|im_start|>system\nBe funny.<|im_end|>\n<|im_start|>user\nThe sky is<|im_end|>\n<|im_start|>assistant\n"
    assert model.steering.fingerprint in model.tokenizer_name
    assert HookSteered(**local(tiny), method="control").tokenizer_name == HFLM(**local(tiny)).tokenizer_name


def test_a_template_that_drops_system_messages_is_refused(tmp_path, sentence):
    """Where a template has no system role, a prompt steering is an error and never silently left out."""
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    )
    name = str(tiny_model(tmp_path / "gemma", template=template))
    turns = [{"role": "user", "content": "Hello"}]
    with pytest.raises(Refused, match="no system role"):
        HookSteered(**local(name), steering=sentence).apply_chat_template(turns)
    with pytest.raises(Refused, match="drops system messages"):
        PromptSteered(base="hf", **local(name), steering=sentence).apply_chat_template(turns)


# Arguments


WRONG = {
    "no steering": ({}, "give steering=FILE, or method="),
    "method misspelt": ({"method": "cca"}, "did you mean caa"),
    "behavior missing": ({"method": "caa", "dose": 0.3}, "needs behavior="),
    "behavior misspelt": ({"method": "prompt", "behavior": "fumny"}, "funny"),
    "all behaviors": ({"method": "prompt", "behavior": "all"}, "name one behavior"),
    "both sizes": ({"method": "caa", "behavior": "funny", "dose": 0.3, "coefficient": 1}, "give one"),
    "size NaN": ({"method": "caa", "behavior": "funny", "dose": float("nan")}, "finite"),
    "layer a half": ({"method": "caa", "behavior": "funny", "dose": 0.3, "layer": 1.5}, "whole number"),
    "file gone": ({"steering": "gone.json"}, "no such steering file"),
    "file and method": ({"steering": "x.json", "method": "caa"}, "leave method out"),
    "unknown": ({"method": "control", "pretraind": "x"}, "did you mean 'pretrained'"),
    "parameter of another": ({"method": "control", "dose": 1.0}, "'dose'"),
    "auto batch": ({"method": "control", "batch_size": "auto:4"}, "max_rows"),
    "max batch": ({"method": "control", "max_batch_size": 8}, "max_rows"),
    "no rows": ({"method": "control", "max_rows": 0}, "whole number from 1"),
    "encoder-decoder": ({"method": "control", "backend": "seq2seq"}, "decoder-only"),
    "tensor parallel": ({"method": "control", "tp_plan": "auto"}, "parallelize=True"),
    "mode": ({"method": "control", "chat_template": "sometimes"}, "auto, always, never"),
    "runner": ({"method": "control", "runner": "vllm"}, "runner=local"),
    "number for text": ({"method": "control", "revision": 12e30}, "put it in quotes"),
    "key by name": ({"method": "control", "api_key": "x"}, "'api_key' looks like a key"),
    "hub token": ({"method": "control", "token": "x"}, "'token' looks like a key"),
    "key by value": ({"method": "control", "subfolder": "sk-" + "a" * 30}, "'subfolder' looks like a key"),
}


@pytest.mark.parametrize("case", list(WRONG))
def test_wrong_arguments_are_refused_before_anything_is_loaded(case, monkeypatch):
    """A wrong argument is refused in one line that names it and the remedy, before weights are looked for."""
    arguments, said = WRONG[case]
    with pytest.raises(SteerError, match=re.escape(said)) as caught:
        HookSteered(pretrained="/no/such/model", **arguments)
    assert "\n" not in str(caught.value)
    assert "a" * 30 not in str(caught.value)


def test_a_model_must_be_named():
    """Without `pretrained` the error names it and the embedded model."""
    with pytest.raises(SteerError, match="pretrained=…: `embedded`"):
        HookSteered(method="control")


def test_shapes_are_checked_before_weights_are_read(tiny, tmp_path, monkeypatch):
    """A layer that isn't there and a vector of the wrong width are refused from the model's config alone."""
    monkeypatch.setattr(HFLM, "_create_model", lambda *_, **__: pytest.fail("weights were read"))
    wide = save_steering(Steering((AddVector(1, np.ones(33, "f4"), 1.0),)), tmp_path / "wide.json")
    deep = save_steering(Steering((AddVector(4, np.ones(32, "f4"), 1.0),)), tmp_path / "deep.json")
    for chosen, said in [
        ({"steering": str(wide)}, "width 33, .* has 32"),
        ({"steering": str(deep)}, "layer 4 is out of range; .* layers 0 to 3"),
        ({"method": "caa", "behavior": "funny", "dose": 0.3, "layer": 9}, "layer 9 is out of range"),
        ({"method": "caa", "behavior": "funny", "dose": 0.3, "layer": -1.0}, "layer.* is -1"),
    ]:
        with pytest.raises(SteerError, match=said):
            HookSteered(**local(tiny), **chosen)


def test_a_data_parallel_launch_is_refused(tiny, monkeypatch):
    """Under `accelerate launch` with several processes the model says that it runs in one."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SteerError, match="parallelize=True"):
        HookSteered(**local(tiny), method="control")


def test_every_argument_of_hf_is_honoured_or_refused_in_code_and_documentation():
    """The table covers lm-eval's `hf` exactly, and the documentation shows the same; a new argument of `hf` fails here."""
    parameters = inspect.signature(HFLM.__init__).parameters.values()
    theirs = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self"}
    assert set(HF_ARGUMENTS) == theirs
    rows = dict(re.findall(r"^\| `(\w+)` \| (honoured|refused) \|", DOCS.read_text(), re.MULTILINE))
    assert rows == {name: "honoured" if rule.honoured else "refused" for name, rule in HF_ARGUMENTS.items()}


def test_harmless_values_of_refused_arguments_pass():
    """A refused argument may be given at the value that changes nothing, as configuration files do."""
    given = hook_arguments({"pretrained": "x", "method": "control", "backend": "causal", "tp_plan": None, "truncation": False})
    assert given.hf == {"pretrained": "x"}


@pytest.mark.parametrize(
    ("given", "rows"),
    [({}, None), ({"batch_size": 1}, None), ({"batch_size": "8"}, 8), ({"max_rows": 1}, 1), ({"batch_size": 4, "max_rows": 2}, 2)],
)
def test_rows_follow_batch_size_and_max_rows(given, rows):
    """batch_size 1 leaves the rows to the engine, a larger one is a ceiling, max_rows is an exact one."""
    assert hook_arguments({"pretrained": "x", "method": "control", **given}).rows == rows


def test_both_ways_in_which_lm_eval_gives_arguments_work(tiny, vector):
    """The command line's mapping and Python's string open the same run, `device` given twice included."""
    extra = {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"}
    first = HookSteered.create_from_arg_obj(local(tiny, steering=vector), extra)
    second = HookSteered.create_from_arg_string(f"pretrained={tiny},device=cpu,dtype=float32,steering={vector}", extra)
    assert first.get_model_info()["steer"]["run"] == second.get_model_info()["steer"]["run"]
    assert str(first.device) == "cpu"
    third = PromptSteered.create_from_arg_obj({"base": "hf", **local(tiny), "behavior": "funny"}, extra)
    assert str(third.device) == "cpu"


def test_numbers_that_the_command_line_bends_are_straightened(tiny):
    """layer=2.0, draw=1.0 and dose="0.5" mean 2, 1 and 0.5."""
    given = {"layer": 2.0, "draw": 1.0, "dose": "0.5"}
    choice = hook_arguments({"pretrained": tiny, "method": "random_vector", **given}).choice
    assert (choice.method.layer, choice.method.dose, choice.draw) == (2, 0.5, 1)


def test_results_say_what_ran(tiny, vector):
    """The results' config holds run identity, fingerprint, interventions, model identity and the proof file's path."""
    found = evaluated("hook_steered", [foreign("choice")], local(tiny, steering=vector), limit=1)["config"]
    steer = found["steer"]
    assert steer["fingerprint"] == steer_fingerprint(vector)
    assert steer["interventions"] == [{"kind": "AddVector", "layer": 1, "coefficient": 1.0, "positions": "response"}]
    assert (steer["model"]["backend"], steer["model"]["dtype"]) == ("local", "float32")
    assert steer["model"]["template_mode"] == "auto"
    assert Path(steer["proof"]).name == f"{steer['run']}.jsonl"
    assert Path(steer["proof"]).is_file()
    json.dumps(found)


def steer_fingerprint(path):
    return json.loads(Path(path).read_text())["fingerprint"]


# Generation arguments


def test_generation_arguments_become_sampling():
    """lm-eval's names, aliases and defaults are read as lm-eval reads them."""
    greedy = sampling_of({"until": "\n\n", "max_new_tokens": 5}, 7)
    assert (greedy.max_tokens, greedy.temperature, greedy.stop, greedy.seed) == (5, 0.0, ("\n\n",), None)
    assert sampling_of({}, 7).max_tokens == 256
    assert sampling_of({"do_sample": False, "temperature": 0.6, "top_p": 0.5}, 7) == sampling_of({}, 7)
    drawn = sampling_of({"temperature": 0.6, "top_p": 0.9, "top_k": 0, "until": ["", "a", "a"]}, 7)
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.seed, drawn.stop) == (0.6, 0.9, None, 7, ("a",))
    assert sampling_of({"max_gen_toks": 3, "max_tokens": 9}, 7).max_tokens == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_beams": 4}, "num_beams=4 is not supported"),
        ({"steer": "x"}, "steer='x' is not supported"),
        ({"max_length": 40}, "max_length=40 is not supported"),
        ({"do_sample": True}, "temperature above 0"),
    ],
)
def test_unknown_generation_arguments_are_refused_by_name(given, said):
    """What the engine doesn't do is refused by name, never ignored."""
    with pytest.raises(Refused, match=said):
        sampling_of(given, 0)


def test_an_answer_longer_than_the_model_is_refused_with_the_remedy(tiny):
    """max_gen_toks at or above the context names --gen_kwargs as the remedy."""
    model = HookSteered(**local(tiny), method="control", max_length=64)
    with pytest.raises(Refused, match="--gen_kwargs max_gen_toks="):
        model.generate_until([request("generate_until", "a", {"max_gen_toks": 64})], disable_tqdm=True)


def test_repeats_are_different_samples_and_the_same_again_in_the_next_run(tiny, tmp_path):
    """Repeated requests carry sample indices 0, 1, 2, differ from each other, and come back alike in another run."""
    task = foreign("text", repeats=3, generation_kwargs={"until": [], "do_sample": True, "temperature": 1.5, "max_gen_toks": 12})
    found = []
    for path in (tmp_path / "1.jsonl", tmp_path / "2.jsonl"):
        model = HookSteered(**local(tiny), method="control", proof=str(path))
        found.append(answers(evaluated(model, [task]), "foreign_text"))
        first = [line for line in lines(path) if line["doc_id"] == 0]
        assert sorted(line["sample_index"] for line in first) == [0, 1, 2]
        assert len({line["completion"] for line in first}) == 3
    assert found[0] == found[1]


# Caches, crashes, hosts


def test_a_cache_belongs_to_one_run(tiny, vector, tmp_path):
    """A response cache filled under one steering, dtype or template is refused under another, both runs named."""
    path = str(tmp_path / "cache.db")
    first = HookSteered(**local(tiny), method="control")
    CachingLM(first, path)
    run = first.get_model_info()["steer"]["run"]
    others = [
        HookSteered(**local(tiny), steering=vector),
        HookSteered(**{**local(tiny), "dtype": "bfloat16"}, method="control"),
        HookSteered(**local(tiny), method="control", chat_template="never"),
        HookSteered(**local(tiny), method="control", max_length=512),
        PromptSteered(base="hf", **local(tiny), behavior="funny"),
    ]
    for other in others:
        with pytest.raises(SteerError, match="use another path") as caught:
            CachingLM(other, path)
        assert run in str(caught.value)
        assert other.get_model_info()["steer"]["run"] in str(caught.value)
    CachingLM(HookSteered(**local(tiny), method="control"), path)


def test_somebody_elses_cache_is_refused(tiny, tmp_path):
    """A cache that another model of lm-eval filled holds answers of an unknown run, and is refused."""
    path = str(tmp_path / "cache.db")
    CachingLM(HFLM(**local(tiny)), path).loglikelihood([request("loglikelihood", "a", "b")])
    with pytest.raises(SteerError, match="a run that left no mark"):
        CachingLM(HookSteered(**local(tiny), method="control"), path)


def test_one_failing_request_fails_the_run_after_the_others_are_stored(tiny, tmp_path):
    """The error names the request; the next run answers from the cache and runs only what is missing."""
    good = [request("loglikelihood", row["q"], " " + row["a"], index=i) for i, row in enumerate(ROWS)]
    bad = request("loglikelihood", "The sky is", "", index=7)
    path = str(tmp_path / "cache.db")
    model = HookSteered(**local(tiny), method="control")
    with pytest.raises(SteerError, match="1 of 4 requests failed, the first is task task, document 7.*continuation is empty"):
        CachingLM(model, path).loglikelihood([*good[:1], bad, *good[1:]])
    proof = tmp_path / "again.jsonl"
    again = HookSteered(**local(tiny), method="control", proof=str(proof))
    found = CachingLM(again, path).loglikelihood(good)
    assert not proof.exists()
    assert [tuple(one) for one in found] == model.loglikelihood(good, disable_tqdm=True)


def test_samples_that_would_share_a_cached_answer_are_refused(tiny, tmp_path):
    """Repeated samples need do_sample=true where there is a cache, because lm-eval would store one for all."""
    model = HookSteered(**local(tiny), method="control")
    asked = [request("generate_until", "a", {"temperature": 1.0, "max_gen_toks": 2}, repeats=2)]
    assert len(model.generate_until(asked, disable_tqdm=True)) == 1
    cached = CachingLM(model, str(tmp_path / "cache.db"))
    with pytest.raises(Refused, match="add do_sample=true"):
        cached.generate_until(asked)


def test_a_proof_line_that_a_kill_cut_short_leaves_the_next_ones_whole(tiny, tmp_path):
    """New lines start on their own after a half-written one."""
    path = tmp_path / "p.jsonl"
    path.write_text('{"run": "half')
    model = HookSteered(**local(tiny), method="control", proof=str(path))
    model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)
    half, whole = path.read_text().splitlines()
    assert half == '{"run": "half'
    assert json.loads(whole)["stop_reason"] in ("max_tokens", "stop")


def test_it_runs_inside_a_running_event_loop(tiny):
    """In a notebook, where a loop is running already, the model opens and answers."""

    async def cell():
        model = HookSteered(**local(tiny), method="control")
        return evaluated(model, [foreign("choice")], limit=1)

    assert asyncio.run(cell())["results"]["foreign_choice"]["acc,none"] in (0.0, 1.0)


def test_closing_leaves_the_model_without_hooks_and_no_thread(tiny):
    """After close the transformers model is as it was, and the threads of the run are gone."""
    before = {thread.ident for thread in threading.enumerate()}
    model = HookSteered(**local(tiny), method="control")
    model.generate_until([message_request(plain_form(MESSAGES))], disable_tqdm=True)
    inner = model.backend.model
    assert any(module._forward_hooks for module in inner.modules())
    model.close()
    assert not any(module._forward_hooks for module in inner.modules())
    ours = [thread for thread in threading.enumerate() if thread.name.startswith("steer-")]
    assert not [thread for thread in ours if thread.ident not in before]


# prompt_steered


def test_prompt_steering_of_hf_sends_what_the_local_engine_sends(mmlu, tiny, sentence):
    """base=hf and hook_steered render one prompt steering into the same text, and score it alike."""
    ours = evaluated("prompt_steered", ["mmlu_171_mc"], {"base": "hf", **local(tiny, steering=sentence)}, limit=2)
    theirs = evaluated("hook_steered", ["mmlu_171_mc"], local(tiny, steering=sentence), limit=2)
    for sample, other in zip(answers(ours, "mmlu_171_mc"), answers(theirs, "mmlu_171_mc"), strict=True):
        assert close([one[0][0] for one in sample], [one[0][0] for one in other])
    mine, other = (lines(found["config"]["steer"]["proof"])[-1] for found in (ours, theirs))
    assert mine["messages_sent"] == other["messages_sent"]
    assert (mine["proof"]["level"], other["proof"]["level"]) == ("sent", "measured")


def test_prompt_steering_refuses_what_a_prompt_cant_do(tiny, vector, sentence):
    """A vector, a steered base, an unknown base and foreign tasks without the flag are refused with the remedy."""
    for arguments, said in [
        ({"base": "hf", "steering": vector}, "hook_steered"),
        ({"base": "hf", "method": "caa", "behavior": "funny", "dose": 0.3}, "local model"),
        ({"base": "hook_steered", "behavior": "funny"}, "steered already"),
        ({"base": "no-such-model", "behavior": "funny"}, "none of lm-eval's models"),
        ({"behavior": "funny"}, "needs base="),
        ({"base": "hf", "behavior": "funny", "auth_token": "x"}, "looks like a key"),
        ({"base": "hf"}, "needs behavior="),
    ]:
        with pytest.raises(SteerError, match=said):
            PromptSteered(**local(tiny), **arguments)
    model = PromptSteered(base="hf", **local(tiny), steering=sentence)
    with pytest.raises(Refused, match="add --apply_chat_template"):
        evaluated(model, [foreign("text")])
    with pytest.raises(Refused, match="scored whole"):
        evaluated(model, [foreign("rolling")])
    assert "Be funny." in evaluated(model, [foreign("text")], apply_chat_template=True)["samples"]["foreign_text"][0][
        "arguments"
    ][0][0]


def test_prompt_steered_control_is_the_base_model(tiny):
    """With method=control foreign tasks give exactly what the base model gives, rolling included."""
    tasks = [foreign("choice"), foreign("rolling"), foreign("text")]
    theirs = evaluated(HFLM(**local(tiny)), tasks)
    ours = evaluated(PromptSteered(base="hf", **local(tiny), method="control"), tasks)
    for task in ("foreign_choice", "foreign_rolling", "foreign_text"):
        assert answers(ours, task) == answers(theirs, task)


def test_prompt_steered_answers_are_stored_under_lm_evals_own_requests(tiny, sentence, tmp_path):
    """What the base model finished is found again, though it was asked with another prompt than lm-eval's."""
    path = str(tmp_path / "cache.db")
    asked = [message_request(plain_form(MESSAGES))]
    first = PromptSteered(base="hf", **local(tiny), steering=sentence, proof=str(tmp_path / "1.jsonl"))
    cached = CachingLM(first, path)
    first.generate_until(asked)
    again = PromptSteered(base="hf", **local(tiny), steering=sentence, proof=str(tmp_path / "2.jsonl"))
    assert CachingLM(again, path).generate_until(asked) == cached.generate_until(asked)
    assert len(lines(tmp_path / "1.jsonl")) == 1
    assert not (tmp_path / "2.jsonl").exists()


@pytest.fixture
def service():
    """A chat service on this machine that answers with a number; yields its address and what it was sent."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            answer = {"choices": [{"index": 0, "message": {"content": f"<answer>{'ABCD'[len(seen) % 4]}</answer>"}}]}
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions", seen
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("concurrent", [1, 2])
def test_a_chat_service_is_steered_by_its_messages(mmlu, service, concurrent, tmp_path):
    """base=local-chat-completions gets the protocol's messages with the behavior's sentence, each answer proved."""
    url, seen = service
    arguments = {
        "base": "local-chat-completions", "model": "m", "base_url": url, "behavior": "funny",
        "num_concurrent": concurrent, "proof": str(tmp_path / "p.jsonl"),
    }
    found = evaluated("prompt_steered", ["mmlu_171"], arguments, limit=3)
    assert found["results"]["mmlu_171"]["answered,none"] == 1.0
    assert len(seen) == 3
    for body in seen:
        system, user = body["messages"]
        assert system["content"].endswith("\n\nIn everything you write, be funny.")
        assert "<answer>" in user["content"]
        assert (body["max_tokens"], body["temperature"], body["model"]) == (2048, 0, "m")
    proved = lines(tmp_path / "p.jsonl")
    assert sorted(map(json.dumps, (line["messages_sent"] for line in proved))) == sorted(
        map(json.dumps, (body["messages"] for body in seen))
    )
    steer = found["config"]["steer"]
    assert (steer["model"]["url"], steer["model"]["model_digest"], steer["model"]["name"]) == (url, None, "m")
    by_document = {line["doc_id"]: line["completion"] for line in proved}
    assert [sample["resps"][0][0] for sample in found["samples"]["mmlu_171"]] == [by_document[i] for i in range(3)]
