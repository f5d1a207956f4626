"""The arguments of our lm-eval models: what is refused before anything is loaded, and what the results say."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM

from model_adapters.backend import Message
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import FIELD, plain_form, to_field
from model_adapters.harnesses.lm_eval import HookSteered, PromptSteered
from model_adapters.harnesses.lm_eval_arguments import HF_ARGUMENTS, hook_arguments
from model_adapters.harnesses.lm_eval_requests import sampling_of
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import save_steering
from tests import lm_eval_cases
from tests.lm_eval_cases import answers, evaluated, foreign, lines, local, request

DOCS = Path(__file__).parent.parent / "docs" / "lm_eval.md"
pytestmark = pytest.mark.usefixtures("registered")


registered = lm_eval_cases.registered
tiny = lm_eval_cases.tiny
vector = lm_eval_cases.vector


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
    "memory": ({"method": "control", "kv_memory_mb": 0}, "kv_memory_mb is 0; give a whole number from 1"),
    "max batch": ({"method": "control", "max_batch_size": 8}, "max_rows"),
    "no rows": ({"method": "control", "max_rows": 0}, "whole number from 1"),
    "encoder-decoder": ({"method": "control", "backend": "seq2seq"}, "decoder-only"),
    "tensor parallel": ({"method": "control", "tp_plan": "auto"}, "parallelize=True"),
    "mode": ({"method": "control", "chat_template": "sometimes"}, "auto, always, never"),
    "runner": ({"method": "control", "runner": "ray"}, "runner=local and runner=vllm"),
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
    """The table covers lm-eval's `hf` exactly, as does the documentation; a new argument of `hf` fails here."""
    parameters = inspect.signature(HFLM.__init__).parameters.values()
    theirs = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self"}
    assert set(HF_ARGUMENTS) == theirs
    rows = dict(re.findall(r"^\| `(\w+)` \| (honoured|refused) \|", DOCS.read_text(), re.MULTILINE))
    assert rows == {name: "honoured" if rule.honoured else "refused" for name, rule in HF_ARGUMENTS.items()}


def test_harmless_values_of_refused_arguments_pass():
    """A refused argument may be given at the value that changes nothing, as configuration files do."""
    given = hook_arguments(
        {"pretrained": "x", "method": "control", "backend": "causal", "tp_plan": None, "truncation": False}
    )
    assert given.hf == {"pretrained": "x"}


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({}, None),
        ({"batch_size": 1}, None),
        ({"batch_size": "8"}, 8),
        ({"batch_size": "auto"}, None),
        ({"batch_size": "auto:4"}, None),
        ({"batch_size": "auto", "max_rows": 3}, 3),
        ({"max_rows": 1}, 1),
        ({"batch_size": 4, "max_rows": 2}, 2),
    ],
)
def test_rows_follow_batch_size_and_max_rows(given, rows):
    """batch_size 1 or auto leaves the rows to the engine, a larger one is a ceiling, max_rows is an exact one."""
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


def test_a_conversation_longer_than_the_model_is_refused_before_any_is_answered(tiny, tmp_path):
    """A chat prompt is never cut: one that doesn't fit is named, and nothing was spent on the others."""
    path = tmp_path / "proof.jsonl"
    model = HookSteered(**local(tiny), method="control", max_length=64, proof=str(path))
    long = (Message("user", "word " * 20),)
    asked = [(Message("user", "Hi"),), long]
    requests = [
        request("generate_until", plain_form(one), {"max_gen_toks": 2}, doc={FIELD: to_field(one)}, index=place)
        for place, one in enumerate(asked)
    ]
    with pytest.raises(Refused, match=r"document 1: the prompt has 1[0-9][0-9] tokens, the model takes 64"):
        model.generate_until(requests, disable_tqdm=True)
    assert not path.exists()
    assert len(model.generate_until(requests[:1], disable_tqdm=True)) == 1


def test_repeats_are_different_samples_and_the_same_again_in_the_next_run(tiny, tmp_path):
    """Repeated requests carry sample indices 0, 1, 2, differ from each other, and come back alike in another run."""
    task = foreign(
        "text", repeats=3, generation_kwargs={"until": [], "do_sample": True, "temperature": 1.5, "max_gen_toks": 12}
    )
    found = []
    for path in (tmp_path / "1.jsonl", tmp_path / "2.jsonl"):
        model = HookSteered(**local(tiny), method="control", proof=str(path))
        found.append(answers(evaluated(model, [task]), "foreign_text"))
        first = [line for line in lines(path) if line["doc_id"] == 0]
        assert sorted(line["sample_index"] for line in first) == [0, 1, 2]
        assert len({line["completion"] for line in first}) == 3
    assert found[0] == found[1]
