"""`goodfire_steered` from the real command lines: as typed, against a service on a port, killed and resumed."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from tests.test_lm_eval_command import command, lm_eval, results, wait_for_lines
from tests.tiny_service import on_a_port, tiny_service


class Counted:
    """An application in front of the service that notes every chat request that was answered, by its messages."""

    def __init__(self, app):
        self.app, self.answered = app, Counter()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http" or not scope["path"].endswith("/chat/completions"):
            await self.app(scope, receive, send)
            return
        body = b""

        async def reading():
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            return message

        async def sending(message):
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.answered[json.dumps(json.loads(body)["messages"])] += 1
            await send(message)

        await self.app(scope, reading, sending)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A counted service on a port, and the environment that points to it."""
    with tiny_service(tmp_path) as service:
        counted = Counted(service.app)
        with on_a_port(counted) as url:
            monkeypatch.setenv("GOODFIRE_BASE_URL", url)
            monkeypatch.delenv("GOODFIRE_API_KEY", raising=False)
            yield counted


ARGUMENTS = "model=tiny,method=features,edits=3@0.5+7@-0.25,num_concurrent=1"


@pytest.mark.slow
def test_a_killed_run_on_a_service_asks_for_no_finished_answer_again(root, mmlu, served, tmp_path):
    """After kill -9 the rerun with the same cache asks only what is missing; the results are those of all questions."""
    proof = tmp_path / "proof.jsonl"
    words = ["--model", "goodfire_steered", "--model_args", f"{ARGUMENTS},proof={proof}", "--tasks", "mmlu_171"]
    words += ["--limit", "16", "--gen_kwargs", "max_gen_toks=100", "--use_cache", str(tmp_path / "answers")]
    line, environment = command(root, *words)
    with subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for_lines(proof, 5, process)
        finally:
            process.send_signal(signal.SIGKILL)
    before = len(proof.read_bytes().splitlines())
    assert 5 <= before < 16
    done = lm_eval(root, *words, "--output_path", str(tmp_path / "resumed"))
    assert done.returncode == 0, done.stderr[-2000:]
    entries = [json.loads(text) for text in proof.read_text().splitlines()]
    assert {entry["doc_id"] for entry in entries} == set(range(16))
    # The answer at hand when the process died may be proved and not yet stored, and one more was under way.
    assert len(entries) <= 17
    assert sum(count - 1 for count in served.answered.values()) <= 2
    assert results(tmp_path / "resumed")["n-samples"]["mmlu_171"]["effective"] == 16


@pytest.mark.slow
def test_a_failed_inspect_eval_on_a_service_is_retried_without_asking_again(root, mmlu, served, tmp_path, monkeypatch):
    """A sample that fails leaves the log in error; `inspect eval-retry` asks the service for that sample only."""
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path / "logs"))
    inspect = [sys.executable, "-m", "inspect_ai"]
    task = tmp_path / "mine.py"
    task.write_text(
        """
from pathlib import Path
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.solver import chain, solver
from steer_tasks.solvers import steered_generate

@solver
def fragile():
    async def solve(state, generate):
        if state.input_text == "four" and not Path("mended").exists():
            raise ValueError("broken on purpose")
        return state
    return solve

@task
def mine():
    samples = [Sample(id=text, input=text) for text in ("one", "two", "three", "four")]
    return Task(dataset=samples, solver=chain(fragile(), steered_generate("features", parameters="edits=3@0.5")))
"""
    )
    words = ["eval", "mine.py", "--model", "goodfire_steered/tiny", "--max-tokens", "12", "--max-samples", "1"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": False}
    subprocess.run([*inspect, *words, "--display", "none"], **run)
    [log] = list_eval_logs(str(tmp_path / "logs"))
    assert read_eval_log(log).status == "error"
    assert sum(served.answered.values()) == 3
    (tmp_path / "mended").touch()
    retried = subprocess.run([*inspect, "eval-retry", log.name, "--display", "none"], **run)
    assert retried.returncode == 0, retried.stderr[-2000:]
    logs = [read_eval_log(one) for one in list_eval_logs(str(tmp_path / "logs"))]
    [good] = [one for one in logs if one.status == "success"]
    assert sorted(sample.id for sample in good.samples) == ["four", "one", "three", "two"]
    assert set(served.answered.values()) == {1}
    assert len(served.answered) == 4


@pytest.mark.slow
@pytest.mark.embedded
def test_as_typed_it_steers_the_embedded_model(root, mmlu, tmp_path, monkeypatch):
    """`lm_eval --model goodfire_steered --tasks mmlu_171` with neither key nor URL runs, and says who answered."""
    for name in ("GOODFIRE_API_KEY", "GOODFIRE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "out"
    words = ["--model", "goodfire_steered", "--tasks", "mmlu_171", "--limit", "2", "--output_path", str(out)]
    done = lm_eval(root, *words, "--gen_kwargs", "max_gen_toks=64")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "so embedded is served in this process with the dictionary demo" in done.stderr + done.stdout
    steer = results(out)["config"]["steer"]
    assert (steer["service"], steer["embedded"]) == ("in this process", True)
    assert steer["provenance"]["method"] == "auto_steer"
    [edits] = steer["interventions"]
    assert 1 <= len(edits["edits"]) <= 3
    labelled = {one["index"]: one["label"] for one in steer["provenance"]["features"]}
    assert all(labelled[edit["index"]] for edit in edits["edits"])
    proofs = [json.loads(line) for line in Path(steer["proof"]).read_text().splitlines()]
    assert {line["proof"]["level"] for line in proofs} == {"acknowledged"}
