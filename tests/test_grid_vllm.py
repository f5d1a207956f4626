"""Grids on a vLLM server: where it is, what is refused before anything is generated, and that a run goes on."""

import json
import re
from contextlib import contextmanager

import numpy as np
import pytest
import yaml
from inspect_ai.log import list_eval_logs, read_eval_log
from transformers import AutoModelForCausalLM

from model_adapters.errors import SteerError
from model_adapters.steering import AddVector, ClampFeature, Steering
from model_adapters.steering_file import save_steering
from steer_tasks.cli import main
from steer_tasks.grid import load_grid
from steer_tasks.grid_models import ANYWHERE, addressed
from tests import lm_eval_cases
from tests.fake_vllm import FakeVllm, listening

tiny = lm_eval_cases.tiny

ARMS = [
    {"name": "control", "method": "control"},
    {"name": "asked", "method": "prompt"},
    {"name": "pushed", "method": "caa", "layer": 1, "sweep": {"dose": [0.2, 0.4]}},
]


@pytest.fixture
def written(tmp_path, monkeypatch, tiny, empty_cache, mmlu):
    """Writes a grid of one model on a server, with folders of its own for all that it leaves; gives its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "inspect"))
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))

    def write(arms=ARMS, **model):
        entry = {"name": f"hook_steered/{tiny}", "args": {"runner": "vllm"}, **model}
        grid = {"name": "served", "models": [entry], "behaviors": "funny", "questions_per_behavior": 2, "arms": arms}
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump(grid))
        return path

    return write


@contextmanager
def served(**options):
    """A fake server that is wide and long enough for the tiny model, and its address."""
    fake = FakeVllm(**{"length": 4096, "d_model": 32, **options})
    with listening(fake) as url:
        yield fake, url


def ran(path, *words, code=0):
    """Run a grid without a display; it must end with this code."""
    assert main(["run", str(path), "--display", "none", "--retry-attempts", "1", *words]) == code


def logs_of(tmp_path):
    """The whole logs of the grid."""
    return [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "logs"))]


def asked_of(fake):
    """Long answers that were asked for: no probes, no measuring of doses."""
    return [body for body in fake.bodies if body["max_tokens"] > 1000]


def test_a_grid_runs_on_a_server_and_is_judged_when_that_is_gone(written, tmp_path):
    """Every answer says that the server was probed; the judge comes later, over the same logs, and asks no server."""
    with served() as (fake, url):
        path = written(base_url=url)
        ran(path)
        assert len(asked_of(fake)) == 8
        logs = logs_of(tmp_path)
        steer = [sample.output.metadata["steer"] for log in logs for sample in log.samples]
        assert [(one["proof"]["level"], one["model"]["url"]) for one in steer] == [("probed", url)] * 8
        assert len({one["fingerprint"] for one in steer}) == 4
        assert {log.eval.model_base_url for log in logs} == {url}
        before = len(fake.bodies)
        ran(path)
        assert len(fake.bodies) == before
    ran(path, "--judge", "stand_in_judge/try")
    scores = [sample.scores["coherence"].value for log in logs_of(tmp_path) for sample in log.samples]
    assert len(scores) == 8
    assert all(1 <= value <= 5 for value in scores)


def test_answers_come_from_the_store_in_other_logs(written, tmp_path, capsys):
    """A grid that is run again into other logs asks the server for probes only."""
    with served() as (fake, url):
        path = written(base_url=url)
        ran(path)
        ran(path, "--log-dir", str(tmp_path / "other"))
        assert len(asked_of(fake)) == 8
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"16 answers and scores came from the store \S+, 0 were asked for", printed)


def test_a_run_that_lost_its_server_goes_on(written, tmp_path, capsys):
    """Cells that failed are named in one line; the same command asks only for what they lack."""
    with served() as (fake, url):
        path = written(ARMS[:2], base_url=url)
        answer = fake.answer
        done = []

        def refuses(request):
            if request.url.path == "/v1/completions" and json.loads(request.content)["max_tokens"] > 1000:
                done.append(request)
                if len(done) > 2:
                    request = type(request)("GET", request.url, content=b"not json")
            return answer(request)

        fake.answer = refuses
        ran(path, code=2)
        assert "didn't finish" in capsys.readouterr().err
        had = len(asked_of(fake))
        assert had < 4
        fake.answer = answer
        ran(path)
        assert len(asked_of(fake)) == 4
    assert sorted(len(log.samples) for log in logs_of(tmp_path) if log.status == "success") == [2, 2]


def test_a_dry_run_needs_no_server(written, capsys):
    """No address is needed and none is asked; everything else is checked."""
    ran(written(), "--dry-run")
    assert "dry run: 4 of 4 cells ran on the stand-in" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SteerError, match="'dtype' under runner=vllm"):
        addressed(load_grid(written(args={"runner": "vllm", "dtype": "float32"})), None, is_dry=True)


def test_the_option_wins_over_the_grid_and_both_over_the_environment(written, monkeypatch):
    """As a judge's name does; a model in this process takes no address from anywhere."""
    monkeypatch.setenv("VLLM_BASE_URL", "http://from:1")

    def found(option, **model):
        return addressed(load_grid(written(**model)), option).models[0].base_url

    assert found("http://option:3", base_url="http://grid:2") == "http://option:3"
    assert found(None, base_url="http://grid:2") == "http://grid:2"
    assert found(None) == "http://from:1"
    assert found(None, args={}) is None
    monkeypatch.delenv("VLLM_BASE_URL")
    assert addressed(load_grid(written()), None, is_dry=True).models[0].base_url == ANYWHERE


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ({}, [], "runs on a vLLM server; give --base-url http://HOST:PORT, base_url, or VLLM_BASE_URL"),
        ({"base_url": "there"}, [], "base_url='there' is not an address"),
        ({"base_url": "http://me:hush@there"}, [], "set VLLM_API_KEY"),
        ({"args": {"runner": "vllm", "base_url": "http://x:1"}}, [], "not one of args; move it there"),
        ({"args": {"runner": "vllm", "dtype": "float32"}}, ["--base-url", "http://x:1"], "'dtype' under runner=vllm"),
        ({"args": {"runner": "vlm"}}, [], "hook_steered has runner=local and runner=vllm"),
        ({"args": {}}, ["--base-url", "http://x:1"], "has no model with args: {runner: vllm}"),
        ({"args": {}, "base_url": "http://x:1"}, [], "add -M runner=vllm"),
        ({"base_url": "http://127.0.0.1:9"}, [], "can't be reached"),
    ],
)
def test_what_is_wrong_with_a_model_is_one_line(written, tmp_path, capsys, model, words, said):
    """It names the grid, the model and the remedy, shows no secret, and comes before any log."""
    ran(written(**model), *words, code=2)
    printed = capsys.readouterr().err.splitlines()[-1]
    assert said in printed
    assert printed.startswith("steer: grid served")
    assert "hush" not in printed
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("steering", "said"),
    [
        (Steering((AddVector(4, np.ones(32, "f4"), 1.0),)), "arm 'odd': layer 4 is out of range"),
        (Steering((AddVector(1, np.ones(33, "f4"), 1.0),)), "arm 'odd': .*width 33, the model has 32"),
        (Steering((ClampFeature(1, np.ones(32, "f4"), 0.0, np.ones(32, "f4"), 1.0),)), "ClampFeature: vLLM only adds"),
    ],
)
def test_a_steering_that_the_server_does_not_take_costs_nothing(written, tmp_path, capsys, steering, said):
    """The server is probed, the arm is named, and no answer of any arm is asked for."""
    about = {"behavior": {"slug": "funny", "text": "be funny"}}
    file = save_steering(steering.described(**about), tmp_path / "odd.json")
    with served() as (fake, url):
        ran(written([*ARMS, {"name": "odd", "steering": str(file)}], base_url=url), code=2)
        assert {body["cache_salt"] for body in fake.bodies} == {"probe"}
    assert re.search(said, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steers": False}, "doesn't steer as asked"),
        ({"lens": False}, "plugin vllm-lens"),
        ({"d_model": 16}, "serves served of 4 layers of width 16"),
    ],
)
def test_a_server_that_does_not_steer_costs_nothing(written, capsys, options, said):
    """One without the plugin, and one with another model, end the run before an answer is asked for."""
    with served(**options) as (fake, url):
        ran(written(base_url=url), code=2)
        assert not asked_of(fake)
    assert said in capsys.readouterr().err.splitlines()[-1]
