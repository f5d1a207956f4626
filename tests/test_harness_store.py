"""The response store under both harnesses and `steer run`: what a repeated run asks, and what it doesn't."""

import asyncio
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from inspect_ai.log import list_eval_logs, read_eval_log
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

import model_adapters.harnesses.inspect_hook as hook_module
import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.errors import Refused
from model_adapters.harnesses.documents import plain_form
from model_adapters.harnesses.inspect_engines import Engines
from model_adapters.harnesses.inspect_spec import Spec, spec_of
from model_adapters.harnesses.lm_eval import HookSteered
from model_adapters.steering import CONTROL, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from steer_tasks.cli import main
from tests import lm_eval_cases
from tests.lm_eval_cases import MESSAGES, ROWS, lines, local, message_request, request
from tests.test_lm_eval_command import lm_eval
from tests.tiny_backend import Passes

tiny = lm_eval_cases.tiny
vector = lm_eval_cases.vector

# lm-eval


def run_all(model):
    """Every kind of request that lm-eval has: greedy, sampled twice, scored, rolling."""
    prompt = plain_form(MESSAGES)
    sampled = {"temperature": 1.0, "do_sample": True}
    return [
        model.generate_until([message_request(prompt)], disable_tqdm=True),
        model.generate_until([message_request(prompt, **sampled) for _ in range(2)], disable_tqdm=True),
        model.loglikelihood([request("loglikelihood", row["q"], " " + row["a"]) for row in ROWS], disable_tqdm=True),
        model.loglikelihood_rolling([request("loglikelihood_rolling", row["q"]) for row in ROWS], disable_tqdm=True),
    ]


def test_a_repeated_lm_eval_run_makes_no_pass(tiny, vector, tmp_path):
    """The second run gives equal answers, its proof lines say `stored`, and the model reads nothing."""
    found, forwards, marks = [], [], []
    for proof in (tmp_path / "1.jsonl", tmp_path / "2.jsonl"):
        model = HookSteered(**local(tiny), steering=vector, store=str(tmp_path / "store"), proof=str(proof))
        with Passes(model.backend.model) as passes:
            found.append(run_all(model))
        forwards.append(len(passes.shapes))
        marks.append({line["stored"] for line in lines(proof)})
        model.close()
    assert found[0] == found[1]
    assert forwards[0] > 0
    assert forwards[1] == 0
    assert marks == [{False}, {True}]
    first, second = (lines(tmp_path / name) for name in ("1.jsonl", "2.jsonl"))
    assert [line["proof"] for line in sorted(first, key=str)] == [line["proof"] for line in sorted(second, key=str)]


@pytest.mark.parametrize(
    "changed",
    [{"method": "control", "steering": None}, {"dtype": "bfloat16"}, {"max_length": 512}, {"seed": 5}],
    ids=["control", "dtype", "max_length", "seed"],
)
def test_another_run_finds_nothing_in_it(tiny, vector, tmp_path, changed):
    """A control, another dtype, length or seed is answered by the model, though the store has this prompt's answers."""
    arguments = {**local(tiny), "steering": vector, "store": str(tmp_path / "store")}
    filled = HookSteered(**arguments, proof=str(tmp_path / "1.jsonl"))
    run_all(filled)
    filled.close()
    other = HookSteered(**{**arguments, **changed}, proof=str(tmp_path / "2.jsonl"))
    run_all(other)
    other.close()
    assert {line["stored"] for line in lines(tmp_path / "2.jsonl")} == {False}


def test_the_store_is_no_part_of_the_identity(tiny, tmp_path):
    """With and without it a run is the same run, and without it nothing is written."""
    plain = HookSteered(**local(tiny), method="control")
    kept = HookSteered(**local(tiny), method="control", store=str(tmp_path / "store"))
    assert kept.run_identity == plain.run_identity
    run_all(plain)
    assert not (tmp_path / "store" / "cache.db").exists()
    with pytest.raises(Refused, match="store=3"):
        HookSteered(**local(tiny), method="control", store=3)


@pytest.mark.slow
def test_the_command_answers_from_the_store(root, mmlu, tiny, tmp_path):
    """`lm_eval … store=true` twice: equal results, and the second run's proofs are all stored ones."""
    proofs = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    found = []
    for proof in proofs:
        arguments = f"pretrained={tiny},method=caa,behavior=funny,layer=1,coefficient=2,store=true,proof={proof}"
        words = ["--tasks", "mmlu_171,mmlu_171_mc", "--limit", "2", "--gen_kwargs", "max_gen_toks=8"]
        folder = tmp_path / proof.stem
        done = lm_eval(root, "--model", "hook_steered", "--model_args", arguments, *words, "--output_path", str(folder))
        assert done.returncode == 0, done.stderr[-2000:]
        (path,) = folder.rglob("results_*.json")
        found.append(json.loads(path.read_text())["results"])
    assert found[0] == found[1]
    assert [{line["stored"] for line in lines(proof)} for proof in proofs] == [{False}, {True}]
    assert len(lines(proofs[1])) == 2 + 8


# Inspect

ASKED = [ChatMessageUser(content="Say something.")]


@pytest.fixture
def scripted(monkeypatch):
    """Opens `hook_steered` with arguments over one scripted backend; gives that, too."""
    backend = ScriptedBackend(lambda request: f"answer {len(backend.requests)}")
    monkeypatch.setattr(hook_module, "ENGINES", Engines(lambda name, **_: backend))
    return lambda **arguments: get_model("hook_steered/scripted", memoize=False, **arguments).api, backend


def said(api, spec, **config):
    asked = GenerateConfig(extra_body={"steer": spec.as_dict()}, **config)
    return asyncio.run(api.generate(list(ASKED), [], "auto", asked))[0]


def test_a_repeated_inspect_request_is_answered_from_the_store(scripted, tmp_path):
    """Its metadata says `stored`, it counts no tokens, its proof is the first answer's; off unless asked for."""
    opened, backend = scripted
    spec = spec_of(CONTROL, None)
    first, second = (said(opened(store=str(tmp_path)), spec) for _ in range(2))
    assert [one.metadata["steer"]["stored"] for one in (first, second)] == [False, True]
    assert second.completion == first.completion
    assert second.usage is None
    assert {**second.metadata["steer"], "stored": False} == first.metadata["steer"]
    assert len(backend.requests) == 1
    said(opened(), spec)
    said(opened(store=False), spec)
    assert len(backend.requests) == 3


def test_each_provider_takes_the_argument(tmp_path):
    """`-M store` is taken by both providers that run on backends of ours, and refused where it is no place."""
    for name in ("hook_steered/m", "goodfire_steered/embedded"):
        assert get_model(name, memoize=False).api.store is None
        assert get_model(name, memoize=False, store=str(tmp_path)).api.store.folder == tmp_path
        with pytest.raises(Refused, match="store=3"):
            get_model(name, memoize=False, store=3)


def test_one_steering_is_not_answered_by_another(scripted, tmp_path):
    """A store full of a steering's answers has none for the control, nor for another steering."""
    opened, backend = scripted
    specs = [spec_of(CONTROL, None)]
    for text in ("Be brief.", "Be loud."):
        steering = Steering((SystemPrompt(text),))
        specs.append(spec_of(steering, save_steering(steering, tmp_path / f"{text}json")))
    api = opened(store=str(tmp_path / "store"))
    texts = [said(api, spec).completion for spec in specs]
    assert len(set(texts)) == len(backend.requests) == 3
    assert [said(api, spec).completion for spec in specs] == texts
    assert len(backend.requests) == 3


def test_samples_that_nobody_numbered_are_not_kept(scripted, tmp_path):
    """Under `steer spec` every sampled request is asked, with a seed or without; numbered ones come back."""
    opened, backend = scripted
    api = opened(store=str(tmp_path))
    bare = spec_of(CONTROL, None)
    for config in ({"temperature": 1.0}, {"temperature": 1.0, "seed": 3}):
        before = len(backend.requests)
        assert [said(api, bare, **config).metadata["steer"]["stored"] for _ in range(2)] == [False, False]
        assert len(backend.requests) == before + 2
    numbered = [Spec(CONTROL.fingerprint, None, None, index) for index in range(2)]
    first = [said(opened(store=str(tmp_path)), spec, temperature=1.0).completion for spec in numbered]
    before, later = len(backend.requests), opened(store=str(tmp_path))
    assert [said(later, spec, temperature=1.0).completion for spec in numbered] == first
    assert len(backend.requests) == before


# steer run

GRID = {
    "name": "small",
    "models": ["stand_in_steered/m"],
    "protocols": ["isolated", "as_run"],
    "behaviors": ["funny", "concise"],
    "questions_per_behavior": 3,
    "arms": [{"name": "control", "method": "control"}, {"name": "prompt", "method": "prompt"}],
}


@pytest.fixture
def steer_run(tmp_path, monkeypatch, empty_cache, mmlu):
    """Runs a grid in this process; gives how often the model was asked, and the answers by protocol, arm and sample."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "inspect"))
    grid = tmp_path / "grid.yaml"
    grid.write_text(yaml.safe_dump(GRID))
    asked = []
    complete = ScriptedBackend.complete

    async def counted(self, request):
        asked.append(request)
        return await complete(self, request)

    monkeypatch.setattr(ScriptedBackend, "complete", counted)

    def run(logs, *words):
        asked.clear()
        assert main(["run", str(grid), "--log-dir", str(tmp_path / logs), "--display", "none", *words]) == 0
        answers = {}
        for path in list_eval_logs(str(tmp_path / logs)):
            log = read_eval_log(path)
            for sample in log.samples if log.status == "success" else []:
                report = sample.output.metadata["steer"]
                place = (log.eval.metadata["grid"]["cell"], sample.id)
                answers[place] = (sample.output.completion, report["stored"], report["proof"]["level"])
        return len(asked), answers

    return run


def test_a_repeated_grid_is_free(steer_run, capsys, empty_cache):
    """Into other logs, the same grid asks the model nothing: greedy and sampled answers are the same, all stored."""
    asked, first = steer_run("first")
    # Greedy control answers serve both behaviors; samples are never shared.
    assert asked == (3 + 6) + (6 + 6)
    assert len(first) == 24
    assert "from the store" in capsys.readouterr().out  # the control's answers for the second behavior
    asked, again = steer_run("again")
    assert asked == 0
    assert {place: text for place, (text, _, _) in again.items()} == {
        place: text for place, (text, _, _) in first.items()
    }
    assert {(kept, level) for _, kept, level in again.values()} == {(True, "sent")}
    printed = " ".join(capsys.readouterr().out.split())
    assert f"24 answers and scores came from the store {empty_cache / 'responses'}, 0 were asked for" in printed
    assert not (empty_cache.parent / "inspect").exists()


def test_what_is_missing_is_asked_and_nothing_else(steer_run):
    """A grid that ran on its first samples asks only for the others when it is run whole, in other logs too."""
    asked, part = steer_run("part", "--limit", "2")
    assert asked == (1 + 2) + (2 + 2)
    asked, whole = steer_run("whole")
    assert asked == 21 - 7
    assert {place for place, (_, kept, _) in whole.items() if kept} >= set(part)


def test_finished_logs_stand_with_and_without_the_store(steer_run, empty_cache):
    """The store is no part of a cell's identity, so that switching it off or on generates nothing again."""
    asked, _ = steer_run("same", "--no-store")
    assert asked == 24
    assert not (empty_cache / "responses").exists()
    assert steer_run("same")[0] == 0
    assert steer_run("same", "--no-store")[0] == 0
    assert steer_run("other", "--no-store")[0] == 24


def test_a_dry_run_keeps_nothing(steer_run, empty_cache):
    """Its stand-in answers by itself, and no store is made."""
    assert steer_run("dry", "--dry-run")[0] == 24
    assert not (empty_cache / "responses").exists()


@pytest.mark.slow
def test_a_repeated_grid_on_a_local_model_is_free(root, mmlu, tiny, tmp_path):
    """`steer run` on a model in this process: the second time every answer and every likelihood is a stored one."""
    grid = tmp_path / "grid.yaml"
    arms = [{"name": "caa", "method": "caa", "layer": 1, "coefficient": 2.0}]
    model = {"name": f"hook_steered/{tiny}", "args": {"dtype": "float32", "max_length": 2048}}
    grid.write_text(yaml.safe_dump({**GRID, "models": [model], "protocols": ["isolated"], "arms": arms}))
    found = []
    for logs in ("first", "again"):
        done = subprocess.run(
            [*(sys.executable, "-m", "steer_tasks.cli", "run", grid, "--log-dir", tmp_path / logs)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root), "INSPECT_DISPLAY": "plain", "COLUMNS": "500"},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        [path] = list_eval_logs(str(tmp_path / logs))
        samples = {sample.id: sample for sample in read_eval_log(path).samples}
        found.append((done.stdout, samples))
    scored = 0
    for place, sample in found[1][1].items():
        before = found[0][1][place]
        assert sample.output.completion == before.output.completion
        assert sample.output.metadata["steer"] == {**before.output.metadata["steer"], "stored": True}
        mine, theirs = (float(one.scores["signals"].value["reference_nll"]) for one in (sample, before))
        assert np.array_equal(mine, theirs, equal_nan=True)
        scored += np.isfinite(mine)
    # An answer that fills the model's length is refused as too long to score, every time.
    assert 0 < scored <= 6
    assert f"{6 + scored} answers and scores came from the store" in found[1][0]
    assert f"{6 - scored} were asked for" in found[1][0]
