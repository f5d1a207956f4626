"""The command line of Inspect itself, in processes of its own."""

import contextlib
import importlib.metadata
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from model_adapters.steering import CONTROL, AddVector, Steering
from model_adapters.steering_file import save_steering
from steer_tasks.cli import main
from tests.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("mmlu")

SOMEBODY_ELSES = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import generate

@task
def greeting() -> Task:
    return Task(dataset=[Sample(input="Say hello.", id=1), Sample(input="Say goodbye.", id=2)], solver=generate())
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny random Llama in float32, width 32, four blocks."""
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def found_on(root, tmp_path_factory):
    """A Python path on which Inspect finds this package's entry point, as an editable install would make it."""
    try:
        importlib.metadata.distribution("steer-tasks")
        return str(root)
    except importlib.metadata.PackageNotFoundError:
        folder = tmp_path_factory.mktemp("site") / "steer_tasks-0.1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: steer-tasks\nVersion: 0.1.0\n")
        made = {"url": root.as_uri(), "dir_info": {"editable": True}}
        (folder / "direct_url.json").write_text(json.dumps(made))
        (folder / "entry_points.txt").write_text("[inspect_ai]\nsteer_tasks = steer_tasks._registry\n")
        return os.pathsep.join([str(root), str(folder.parent)])


@pytest.fixture
def inspect_eval(tmp_path, found_on, root):
    """Runs `inspect eval …`, in the project's folder unless told; gives the process and its newest log, or None."""

    def run(*words, folder=root):
        logs = tmp_path / "logs"
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "inspect_ai",
                "eval",
                *map(str, words),
                "--display",
                "plain",
                "--log-dir",
                str(logs),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": found_on, "INSPECT_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=500,
        )
        found = list_eval_logs(str(logs)) if logs.exists() else []
        return done, read_eval_log(found[0]) if found else None

    return run


def push(size=3.0, width=32):
    return Steering((AddVector(1, np.random.default_rng(0).standard_normal(width), size),))


def spec(steering, path):
    """What `steer spec` prints for a file, or for the control."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["spec", str(path) if steering else "control"]) == 0
    return printed.getvalue().strip()


def test_a_method_runs_from_the_task_file(inspect_eval, tiny):
    """`inspect eval steer_tasks/mmlu_171.py` with a method prepares it, applies it, and logs proof and provenance."""
    words = ["-T", "method=caa", "-T", "behavior=funny,concise", "-T", "layer=1", "-T", "coefficient=2"]
    done, log = inspect_eval(
        *["steer_tasks/mmlu_171.py", "--model", f"hook_steered/{tiny}", "-M", "dtype=float32"],
        *[*words, "--limit", "4", "--max-tokens", "4"],
    )
    assert done.returncode == 0, done.stderr
    assert log.status == "success", log.error
    ids = ["funny/abstract_algebra/0", "concise/abstract_algebra/0", "funny/abstract_algebra/1"]
    assert {sample.id for sample in log.samples} >= set(ids)
    for sample in log.samples:
        report = sample.output.metadata["steer"]
        assert report["proof"]["level"] == "measured"
        assert report["proof"]["doses"][0]["layer"] == 1
        assert report["fingerprint"] == sample.metadata["fingerprint"]
        assert sample.output.usage.output_tokens <= 4
    assert log.eval.metadata["questions"]["count"] == 171
    assert {score.name for score in log.results.scores} == {"accuracy", "answered"}


@pytest.mark.slow
def test_a_task_of_somebody_else_is_steered(inspect_eval, tiny, tmp_path):
    """An existing task, untouched, runs under a spec on the command line, and under the control otherwise."""
    (tmp_path / "greeting.py").write_text(SOMEBODY_ELSES)
    steering = push()
    path = save_steering(steering, tmp_path / "s.json")
    words = [
        "greeting.py",
        "--model",
        f"hook_steered/{tiny}",
        "-M",
        "dtype=float32",
        "--max-tokens",
        "6",
        "--extra-body",
    ]
    texts = []
    for one in (steering, CONTROL):
        done, log = inspect_eval(*words, spec(one, path), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert log.status == "success", log.error
        for sample in log.samples:
            report = sample.output.metadata["steer"]
            assert report["proof"]["fingerprint"] == one.fingerprint
            assert (report["proof"]["response_tokens_touched"] > 0) == bool(one)
        texts.append([sample.output.completion for sample in log.samples])
    assert texts[0] != texts[1]


def test_without_a_spec_a_task_of_somebody_else_is_an_error(inspect_eval, tiny, tmp_path):
    """A forgotten spec ends with log status error and both remedies, not with an unsteered answer."""
    (tmp_path / "greeting.py").write_text(SOMEBODY_ELSES)
    _, log = inspect_eval("greeting.py", "--model", f"hook_steered/{tiny}", folder=tmp_path)
    assert log.status == "error"
    assert "steer spec FILE" in log.error.message
    assert "unsteered=true" in log.error.message


@pytest.mark.slow
def test_our_solver_steers_a_task_of_somebody_else(inspect_eval, tiny, tmp_path):
    """Given by its registered name with `-S`, the solver prepares a steering and checks it on every answer."""
    (tmp_path / "greeting.py").write_text(SOMEBODY_ELSES)
    words = ["-S", "method=caa", "-S", "behavior=funny", "-S", "parameters={'coefficient': 2, 'layer': 1}"]
    done, log = inspect_eval(
        *["greeting.py", "--model", f"hook_steered/{tiny}", "-M", "dtype=float32", "--max-tokens", "4"],
        *["--solver", "steer_tasks/steered_generate", *words],
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert log.status == "success", log.error
    for sample in log.samples:
        assert sample.output.metadata["steer"]["proof"]["doses"][0]["layer"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-T", "method=cca"], "unknown method 'cca'; did you mean caa"),
        (["-T", "method=caa", "-T", "behavior=funny", "-T", "layer=9", "-T", "dose=1"], "layer 9 is out of range"),
        (
            ["-T", "method=caa", "-T", "behavior=funny", "-T", "coefficient=1", "-T", "dose=1"],
            "both coefficient and dose",
        ),
        (["-T", "steering=absent.json"], "absent.json: no such steering file"),
        (["-M", "goodfire_api_key=s3cret"], "-M goodfire_api_key=… looks like a key"),
        (["-M", "steering=f.json"], "-M steering=… would say what is steered"),
    ],
)
def test_bad_input_ends_with_our_line_and_exit_code_1(inspect_eval, tiny, words, line):
    """What needs no weights is checked first: exit code 1, our line last, no log, no secret shown."""
    done, log = inspect_eval("steer_tasks/mmlu_171.py", "--model", f"hook_steered/{tiny}", *words)
    assert done.returncode == 1
    assert log is None
    last = [text for text in (done.stdout + done.stderr).splitlines() if text.strip()][-1]
    assert line in last
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_model_that_does_not_steer_ends_with_the_remedy(inspect_eval):
    """mockllm is refused before anything is asked, with the name to use instead as the last line."""
    done, log = inspect_eval("steer_tasks/mmlu_171.py", "--model", "mockllm/model")
    assert done.returncode == 1
    assert log is None
    last = [text for text in (done.stdout + done.stderr).splitlines() if text.strip()][-1]
    assert "use --model prompt_steered/mockllm/model" in last


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.parametrize("name", ["steer_tasks/mmlu_171.py", "steer_tasks/mmlu_171"])
def test_as_typed_it_runs_the_control_on_the_embedded_model(inspect_eval, name):
    """Without a model the task brings `hook_steered/embedded`, by file and by registered name alike."""
    done, log = inspect_eval(name, "--limit", "2", "--max-tokens", "4")
    assert done.returncode == 0, done.stderr
    assert log.status == "success", log.error
    assert log.eval.model == "hook_steered/embedded"
    assert {sample.output.metadata["steer"]["fingerprint"] for sample in log.samples} == {CONTROL.fingerprint}
