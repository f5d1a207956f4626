"""`steer calibrate` as it is typed: in a process of its own, its files, its last lines and its exit codes."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from model_adapters.errors import SteerError
from model_adapters.steering_file import load_steering
from steer_tasks.calibrate.arguments import writable
from steer_tasks.calibrate.outcomes import LOSSES
from steer_tasks.calibrate.trace import read_trace
from steer_tasks.cli import main
from tests.fake_vllm import FakeVllm, listening
from tests.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("mmlu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Its context is wide enough for every question's bytes."""
    folder = tiny_model(tmp_path_factory.mktemp("tiny") / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return str(folder)


def steer(root, folder, *words, **environment):
    """Run the command in `folder` to its end."""
    bin_folder = str(Path(sys.executable).parent)
    paths = os.pathsep.join([str(root), str(root / "startup")])
    known = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": paths,
        "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
    }
    line = [sys.executable, "-m", "steer_tasks.cli", "calibrate", *words]
    return subprocess.run(
        line, cwd=folder, env={**known, **environment}, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.fixture(scope="module")
def giggle(tmp_path_factory):
    """A behavior whose contrasts are so alike that even a random model's vector carries from some to the others."""
    things = ("cats", "dogs", "rain", "snow", "tea", "milk", "cars", "trees")
    contrasts = [
        {"prompt": f"Tell me about {one}", "positive": f"ha ha ha! {one}", "negative": f"no no no. {one}"}
        for one in things
    ]
    about = {"slug": "giggle", "text": "giggle a lot", "description": "Laughs.", "contrasts": contrasts}
    path = tmp_path_factory.mktemp("behavior") / "giggle.yaml"
    path.write_text(yaml.safe_dump({**about, "dev_prompts": ["How are you?", "Who is there?"]}))
    return str(path)


def asked(tiny, giggle, *words, doses="0.1:0.4"):
    """A small calibration of the tiny model."""
    common = ["--model", tiny, "--dtype", "float32", "--method", "caa", "--behavior", giggle, "--questions", "8"]
    return [*common, "--doses", doses, *words]


@pytest.fixture(scope="module")
def confirmed(root, tiny, giggle, mmlu_dev, tmp_path_factory):
    """A calibration of the tiny model that ended with a confirmed dose, and the folder it was typed in.

    In its file of questions every test row is poison.
    """
    folder = tmp_path_factory.mktemp("confirmed")
    rows = json.loads(mmlu_dev.read_text())
    for place, row in enumerate(rows):
        if place % 5 < 3:
            row["question"], row["choices"] = f"poison {place}", ["p", "o", "i", "s"]
    (folder / "questions.json").write_text(json.dumps(rows))
    words = asked(tiny, giggle, "--budget", "margin:3", "--out", "funny")
    done = steer(root, folder, *words, STEER_TASKS_MMLU=str(folder / "questions.json"))
    assert done.returncode == 0, done.stderr
    return done, folder


def test_a_confirmed_calibration_writes_steering_and_trace(confirmed):
    """Exit code 0, a steering whose provenance is the trace beside it, and last lines that name both its use."""
    done, folder = confirmed
    steering = load_steering(folder / "funny.json")
    trace = read_trace(json.loads((folder / "funny.trace.json").read_text()))
    assert read_trace(steering.provenance["calibration"]) == trace
    assert (trace.verdict, len(trace.selecting["questions"])) == ("confirmed", 4)
    assert steering.provenance["parameters"]["dose"] == trace.chosen
    ids = [*trace.selecting["questions"], *trace.confirming["questions"]]
    assert {int(id_.rpartition("/")[2]) for id_ in ids} <= {3, 4}
    assert steering.provenance["behavior"]["slug"] == "giggle"
    *_, chosen, use = done.stdout.splitlines()
    assert chosen == f"chosen: dose {trace.chosen:.4g}, confirmed; {folder.resolve() / 'funny.json'}"
    assert use.startswith("use: lm_eval --model hook_steered --model_args pretrained=")
    assert f"cost: {len(trace.points) + len(trace.confirmations)} trials" in done.stdout
    assert re.search(r"[1-9][\d,]* prompt, [1-9][\d,]* generated and [1-9][\d,]* scored tokens", done.stdout)
    for point in trace.points:
        assert point.kl > 0
        assert f"selecting: dose {point.size:.4g}, kl {point.kl:.4g}" in done.stderr


@pytest.mark.slow
def test_the_last_lines_commands_run(root, confirmed, tmp_path):
    """Both commands of the last line run the written steering in their harness."""
    done, folder = confirmed
    fingerprint = load_steering(folder / "funny.json").fingerprint
    first, second = done.stdout.splitlines()[-1].removeprefix("use: ").split("; ")
    lm_eval, inspect = shlex.split(first), shlex.split(second)
    assert (lm_eval[0], inspect[:2]) == ("lm_eval", ["inspect", "eval"])
    words = [sys.executable, "-m", "steer_tasks.cli", *lm_eval, "--limit", "2", "--output_path", "out"]
    environment = {**os.environ, "PYTHONPATH": str(root) + os.pathsep + str(root / "startup")}
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (path,) = (tmp_path / "out").rglob("results_*.json")
    assert fingerprint in path.read_text()
    words = [sys.executable, "-m", "inspect_ai._cli.main", *inspect[1:], "-T", "questions_per_behavior=1"]
    words += ["--log-dir", "logs", "--log-format", "json", "--display", "none", "--max-tokens", "8"]
    ran = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    (log,) = (tmp_path / "logs").glob("*.json")
    assert json.loads(log.read_text())["status"] == "success"
    assert fingerprint in log.read_text()


def test_nothing_confirmed_is_exit_code_3_and_no_steering(root, tiny, giggle, tmp_path):
    """Where the budget can't be kept, the trace is written and the steering isn't; an older file stays and is named."""
    (tmp_path / "funny.json").write_text("older")
    done = steer(root, tmp_path, *asked(tiny, giggle, "--budget", "kl:0.000001", "--out", "funny"))
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith("steer: no size keeps the budgets")
    assert "is of an earlier run and stays as it was" in done.stderr.splitlines()[-1]
    assert (tmp_path / "funny.json").read_text() == "older"
    trace = read_trace(json.loads((tmp_path / "funny.trace.json").read_text()))
    assert (trace.verdict, trace.chosen) == ("nothing within budget", None)


def test_a_second_run_takes_its_answers_from_the_store(tiny, giggle, tmp_path, empty_cache, capsys):
    """The same command again asks the model for nothing, KL included, and comes to the same trace."""
    found = asked(tiny, giggle, "--budget", "margin:3", "--out", str(tmp_path / "funny"), doses="0.1:0.1")
    traces = []
    for _ in range(2):
        assert main(["calibrate", *found]) == 0
        traces.append(read_trace(json.loads((tmp_path / "funny.trace.json").read_text())))
    first, again = (trace.cost for trace in traces)
    assert (again.requests, again.generated, again.scored) == (0, 0, 0)
    assert [point.kl for point in traces[1].points] == [point.kl for point in traces[0].points]
    assert first.requests - again.requests == again.stored - first.stored
    assert "more from the store" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --budget"),
        (["--budget", "margn:1"], "did you mean margin"),
        (["--budget", "coherence:1"], "without a judge"),
        (["--budget", "margin:1", "--objective", "behavior"], "without a judge"),
        (["--budget", "accuracy:0.02"], "56 items"),
        (["--budget", "margin:1", "--layers", "1,x"], "whole numbers"),
        (["--budget", "margin:1", "--layers", "1,9"], "layers 0 to 3"),
        (["--budget", "margin:1", "--doses", "2:1"], "LOW:HIGH"),
        (["--budget", "margin:1", "--doses", "nan:1"], "LOW:HIGH"),
        (["--budget", "margin:1", "--out", "."], "is a folder"),
        (["--budget", "margin:1", "--runner", "vllm"], "--base-url http://HOST:PORT, or VLLM_BASE_URL"),
        (["--budget", "margin:1", "--runner", "vllm", "--base-url", "there"], "not an address"),
        (["--budget", "margin:1", "--tokenizer", "x"], "--tokenizer belongs to --runner vllm"),
        (["--budget", "kl:1", "--runner", "vllm", "--base-url", "http://x"], "kl: a vLLM server"),
        (["--budget", "margin:1", "--method", "prompt"], "given twice"),
        (["--budget", "coherence:1", "--judge", "hook_steered/TINY"], "model under test"),
        (["--budget", "coherence:1", "--objective", "llr", "--judge", "no_such/judge"], "can't be asked"),
        (["--budget", "margin:1", "--match", "kl=1"], "leave --budget out"),
        (["--budget", "margin:1", "--questions", "3"], "--questions"),
        (["--budget", "margin:1", "-p", "dose=1"], "leave it out"),
        (["--budget", "margin:1", "--draw", "-1"], "--draw is -1"),
        (["--budget", "margin:1", "--out", "/dev/null/x"], "can't be made"),
    ],
)
def test_what_can_not_be_done_is_one_line_and_exit_code_2(tiny, words, said, capsys):
    """Options that contradict each other, and budgets that can't be measured or certified, end before anything runs."""
    words = [word.replace("TINY", tiny) for word in words]
    assert main(["calibrate", "--model", tiny, "--method", "caa", "--behavior", "funny", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err.splitlines()[-1]
    assert captured.err.splitlines()[-1].startswith("steer: ")


@pytest.mark.parametrize("behavior", ["all", "funny,concise", "funny, concise,"])
def test_several_behaviors_are_calibrated_one_by_one(tiny, behavior, capsys):
    """A list of behaviors, or all, is refused with what to do."""
    words = ["--model", tiny, "--method", "caa", "--behavior", behavior, "--budget", "margin:1"]
    assert main(["calibrate", *words]) == 2
    assert capsys.readouterr().err == (
        f"steer: --behavior {behavior}: a calibration is of one behavior; run it once for each\n"
    )


@pytest.mark.parametrize("option", ["--budget", "--behavior", "--judge", "--out", "--doses", "--match"])
def test_an_option_that_is_given_twice_is_refused(option, capsys):
    """Of two budgets none is dropped without a word: the command ends with a usage error that names the option."""
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--model", "m", "--method", "caa", option, "a", option, "b"])
    assert ended.value.code == 2
    assert f"{option} is given twice" in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_is_refused_before_the_search():
    """Where a file can't be made, it is said at once and not after the last trial."""
    if not Path("/proc/self").is_dir():
        pytest.skip("needs /proc, a folder in which nobody can write")
    with pytest.raises(SteerError, match="can't be written"):
        writable("/proc/funny")


def test_help_names_every_loss_and_its_unit(capsys):
    """`steer calibrate --help` lists what a budget can bound, in which unit, and what needs a judge."""
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for loss in LOSSES.values():
        assert f"{loss.name} ({loss.unit}{', by --judge' if loss.is_judged else ''})" in said


def test_a_judge_from_the_command_line_scores_behavior_and_coherence(tiny, tmp_path, capsys):
    """With a stand-in for a judge the objective is the behavior, its verdicts are counted, and the trace names it."""
    words = ["--budget", "coherence:4", "--judge", "stand_in_judge/try", "--questions", "8", "--max-tokens", "4"]
    words += ["--doses", "0.1:0.1", "--method", "caa", "--behavior", "funny", "--out", str(tmp_path / "funny")]
    assert main(["calibrate", "--model", tiny, *words]) in (0, 3)
    trace = read_trace(json.loads((tmp_path / "funny.trace.json").read_text()))
    assert (trace.objective, trace.judge, trace.max_tokens) == ("behavior", "stand_in_judge/try", 4)
    assert trace.cost.verdicts == 2 * 7 * (1 + len(trace.points)) + 2 * 7 * (
        len(trace.confirmations) + bool(trace.confirmations)
    )
    assert trace.points[0].losses["coherence"].items == 7
    assert "verdicts" in capsys.readouterr().out


def test_a_vllm_server_is_calibrated_without_kl(tiny, tmp_path, empty_cache, capsys, monkeypatch):
    """The server, named by the environment, answers the whole calibration; as this fake one is moved by nothing, the
    verdict is that none is."""
    with listening(FakeVllm(length=4096, d_model=32)) as url:
        monkeypatch.setenv("VLLM_BASE_URL", f"{url}/v1")
        words = ["--runner", "vllm", "--method", "caa", "--behavior", "funny", "--questions", "8", "--layers", "2"]
        words += ["--budget", "margin:0.5", "--doses", "0.1:0.2", "--no-store", "--out", str(tmp_path / "funny")]
        assert main(["calibrate", "--model", tiny, *words]) == 3
    assert not (empty_cache / "responses").exists()
    trace = read_trace(json.loads((tmp_path / "funny.trace.json").read_text()))
    assert (trace.verdict, trace.model["backend"], trace.model["url"]) == ("no gain", "vllm", url)
    assert {point.kl for point in trace.points} == {None}
    assert trace.cost.scored > 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("steer: not confirmed")


def test_layers_of_a_model_that_only_the_server_knows_are_checked_there(tiny, empty_cache, capsys):
    """Without a config here the layers wait for the server, which has no such block; no question is asked."""
    fake = FakeVllm(length=4096, d_model=32)
    with listening(fake) as url:
        words = ["--runner", "vllm", "--base-url", url, "--tokenizer", tiny, "--method", "caa", "--behavior", "funny"]
        words += ["--budget", "margin:0.5", "--layers", "9", "--no-store"]
        assert main(["calibrate", "--model", "no/such-model", *words]) == 2
    assert "layer 9 is out of range; the model has layers 0 to 3" in capsys.readouterr().err.splitlines()[-1]
    assert not any("prompt_logprobs" in body for body in fake.bodies)


@pytest.mark.embedded
@pytest.mark.slow
def test_the_embedded_model_is_calibrated_without_a_judge(root, tmp_path):
    """CAA towards funny gains likelihood of its own texts within a budget of margin, confirmed on the other half."""
    words = ["--model", "embedded", "--method", "caa", "--behavior", "funny", "--objective", "llr"]
    words += ["--budget", "margin:0.5", "--questions", "40", "--doses", "0.1:0.4", "--out", "funny.json"]
    done = steer(root, tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    trace = read_trace(json.loads((tmp_path / "funny.trace.json").read_text()))
    (confirmed,) = [point for point in trace.confirmations if point.size == trace.chosen]
    assert confirmed.losses["margin"].upper <= 0.5
    assert confirmed.gain.lower > 0
    kls = {point.size: point.kl for point in trace.points}
    assert [kls[size] for size in sorted(kls)] == sorted(kls.values())
