"""The real `lm_eval` command line, in processes of its own, with our start-up folder on the path."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import save_steering
from tests.tiny_model import tiny_model

# What site-packages does for an installed package: its start-up file runs, then the stock program.
STOCK = "import site, runpy, sys; site.addsitedir(sys.argv.pop(1)); runpy.run_module('lm_eval', run_name='__main__')"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))


@pytest.fixture(scope="module")
def vector(tmp_path_factory):
    direction = np.random.default_rng(0).standard_normal(32).astype("f4")
    return str(save_steering(Steering((AddVector(1, direction, 1.0),)), tmp_path_factory.mktemp("s") / "vector.json"))


def command(root, *words):
    environment = dict(
        os.environ, PYTHONPATH=os.pathsep.join([str(root), str(root / "startup")]), PYTHONWARNINGS="ignore"
    )
    return [sys.executable, "-c", STOCK, str(root / "startup"), *words], environment


def lm_eval(root, *words):
    """Run the command to its end; returns the finished process."""
    line, environment = command(root, *words)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=500, check=False)


def results(folder):
    (path,) = Path(folder).rglob("results_*.json")
    return json.loads(path.read_text())


def test_the_plain_command_finds_model_and_task(root, mmlu, tiny, vector, tmp_path):
    """`lm_eval --model hook_steered --tasks mmlu_171_mc` runs, prints the task, and its results say what ran."""
    done = lm_eval(
        root,
        "--model",
        "hook_steered",
        "--model_args",
        f"pretrained={tiny},steering={vector}",
        "--tasks",
        "mmlu_171_mc",
        "--limit",
        "2",
        "--output_path",
        str(tmp_path),
        "--log_samples",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "mmlu_171_mc" in done.stdout
    found = results(tmp_path)
    assert found["config"]["steer"]["fingerprint"] == json.loads(Path(vector).read_text())["fingerprint"]
    assert found["configs"]["mmlu_171_mc"]["metadata"]["questions"]["count"] == 171
    proof = Path(found["config"]["steer"]["proof"]).read_text().splitlines()
    # The file is appended to: another run of the same identity may have begun it.
    proof = proof[-8:]
    assert len(proof) == 8
    assert {json.loads(line)["proof"]["level"] for line in proof} == {"measured"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrained=embedded", "SteerError: no steering is named; give steering=FILE, or method=…"),
        ("pretrained=embedded,method=cca", "did you mean caa"),
        ("pretrained=embedded,method=control,hf_key=x", "'hf_key' looks like a key"),
    ],
)
def test_the_last_line_of_an_error_is_ours(root, mmlu, arguments, said):
    """A wrong model argument ends the command with our line last, and a status that says so."""
    done = lm_eval(root, "--model", "hook_steered", "--model_args", arguments, "--tasks", "mmlu_171_mc")
    assert done.returncode != 0
    assert said in done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_every_task_of_ours_is_listed(root):
    """`lm_eval ls tasks` lists the six."""
    done = lm_eval(root, "ls", "tasks")
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("mmlu_171", "mmlu_114"):
        for suffix in ("", "_mc", "_cloze"):
            assert f"{name}{suffix}" in done.stdout


@pytest.mark.slow
def test_negative_numbers_devices_and_batch_sizes_pass_the_command_line(root, mmlu, tiny, tmp_path):
    """What lm-eval's own parser makes of numbers, a device given twice and a batch size is understood."""
    done = lm_eval(
        root,
        "--model",
        "hook_steered",
        "--model_args",
        f"pretrained={tiny},device=cpu,method=random_vector,layer=2,dose=0.25,draw=3,dtype=float32",
        "--device",
        "cpu",
        "--batch_size",
        "4",
        "--tasks",
        "mmlu_171_mc",
        "--limit",
        "1",
        "--output_path",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    provenance = results(tmp_path)["config"]["steer"]["provenance"]
    assert provenance["draw"] == 3
    assert (provenance["parameters"]["layer"], provenance["parameters"]["dose"]) == (2, 0.25)
    refused = lm_eval(
        root,
        "--model",
        "hook_steered",
        "--model_args",
        f"pretrained={tiny},method=caa,behavior=funny,layer=-1,dose=0.25",
        "--tasks",
        "mmlu_171_mc",
    )
    assert "layer is -1" in refused.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_prompt_steered_runs_from_the_command_line(root, mmlu, tiny, tmp_path):
    """`--model prompt_steered --model_args base=hf,…` runs, and its proof says that a prompt was sent."""
    done = lm_eval(
        root,
        "--model",
        "prompt_steered",
        "--model_args",
        f"base=hf,pretrained={tiny},behavior=funny",
        "--tasks",
        "mmlu_171_cloze",
        "--limit",
        "1",
        "--output_path",
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steer = results(tmp_path)["config"]["steer"]
    first = json.loads(Path(steer["proof"]).read_text().splitlines()[0])
    assert (first["proof"]["level"], steer["provenance"]["behavior"]["slug"]) == ("sent", "funny")


@pytest.mark.slow
def test_a_killed_run_finds_its_answers_and_its_own_steering_again(root, mmlu, tiny, tmp_path):
    """After kill -9 half-way the rerun prepares nothing, runs what is missing, and gives what a whole run gives."""
    proof, cache = tmp_path / "proof.jsonl", tmp_path / "answers"
    words = [
        "--model",
        "hook_steered",
        "--model_args",
        f"pretrained={tiny},method=caa,behavior=funny,layer=1,coefficient=2,max_rows=1,proof={proof}",
        "--tasks",
        "mmlu_171",
        "--limit",
        "22",
        "--gen_kwargs",
        "max_gen_toks=150",
        "--log_samples",
    ]
    line, environment = command(root, *words, "--use_cache", str(cache), "--output_path", str(tmp_path / "killed"))
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_lines(proof, 6, process)
        finally:
            process.send_signal(signal.SIGKILL)
    assert not list((tmp_path / "killed").rglob("results_*.json"))
    before = [json.loads(text) for text in proof.read_text().splitlines()]
    assert 6 <= len(before) < 22
    preparations = preparation_times()

    done = lm_eval(root, *words, "--use_cache", str(cache), "--output_path", str(tmp_path / "resumed"))
    assert done.returncode == 0, done.stderr[-2000:]
    after = [json.loads(text) for text in proof.read_text().splitlines()][len(before) :]
    answered = {entry["doc_id"] for entry in before}
    # The answer at hand when the process died may be proved and not yet stored, so one may run twice.
    assert {entry["doc_id"] for entry in after} | answered == set(range(22))
    assert len({entry["doc_id"] for entry in after} & answered) <= 1
    assert {entry["run"] for entry in before + after} == {results(tmp_path / "resumed")["config"]["steer"]["run"]}
    assert preparation_times() == preparations

    whole = lm_eval(root, *words, "--output_path", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr[-2000:]
    assert samples(tmp_path / "resumed") == samples(tmp_path / "whole")


def wait_for_lines(path, count, process):
    """Wait until the file has that many lines; the process must still be running then."""
    end = time.monotonic() + 300
    while not path.exists() or len(path.read_bytes().splitlines()) < count:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < end, "the run gave no answers"
        time.sleep(0.02)


def preparation_times():
    folder = Path(os.environ["STEER_TASKS_CACHE"]) / "preparations"
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}


def samples(folder):
    (path,) = Path(folder).rglob("samples_*.jsonl")
    return {entry["doc_id"]: entry["resps"] for entry in map(json.loads, path.read_text().splitlines())}
