"""A real vLLM server, steered: the same answers as the local engine, one by one and in one batch, from every command.

`make test-vllm` builds the server's environment and runs these; STEER_TASKS_VLLM names the environment.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from inspect_ai.log import list_eval_logs, read_eval_log

from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.local import open_local
from model_adapters.backends.local.embedded import embedded_model_path
from model_adapters.backends.local.loading import model_tokenizer
from model_adapters.backends.vllm import open_vllm
from model_adapters.behavior import find_behavior
from model_adapters.errors import Refused
from model_adapters.methods import build_method
from model_adapters.preparation import prepare
from model_adapters.steering import CONTROL, AddVector, ClampFeature, Steering
from model_adapters.steering_file import load_steering
from tests.vllm_process import serving

pytestmark = [pytest.mark.vllm, pytest.mark.embedded, pytest.mark.timeout(900)]

WIDTH = 576
PER_TOKEN, GAP = 1e-4, 1e-3
"""The rule of equality between two float32 engines: log-probability of a token, top-two gap of a step that may turn."""

HALF_MEAN, HALF_MOST = 0.08, 0.4
"""How far bfloat16 may be from float32 here, in nats of a token; the local engine in bfloat16 is as far from itself."""

SKY = (Message("user", "Why is the sky blue?"),)
LONG = (Message("user", "Count the words of this. " + "One word follows another in a long row. " * 40),)
ANSWER = " The sky looks blue because air scatters short waves more than long ones."


def push(layer, positions, size=30.0, seed=0):
    """A random vector of this length; the model's residual is about four times as long."""
    drawn = np.random.default_rng([seed, layer]).standard_normal(WIDTH)
    return Steering((AddVector(layer, (drawn / np.linalg.norm(drawn)).astype(np.float32), size, positions),))


STEERINGS = {
    "control": CONTROL,
    "response": push(14, "response"),
    "all": push(14, "all"),
    "prompt": push(14, "prompt"),
    "first and last block": push(0, "response", 2.0) + push(29, "all"),
    "three layers": push(8, "prompt", 15.0) + push(14, "response", 20.0) + push(20, "all", 10.0),
    "two at one layer": push(14, "prompt", 20.0) + push(14, "all", 20.0, seed=1),
}


@pytest.fixture(scope="session")
def environment():
    """The environment that vLLM and its plugin are installed in."""
    named = os.environ.get("STEER_TASKS_VLLM")
    if not named:
        pytest.skip("needs STEER_TASKS_VLLM, the environment of a vLLM server; `make test-vllm` makes one and names it")
    return Path(named)


@pytest.fixture(scope="session")
def server(environment, tmp_path_factory):
    """The address of a float32 server; prompts above 256 tokens are read in pieces."""
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    words = ("--dtype", "float32", "--max-num-seqs", "64", "--max-num-batched-tokens", "256")
    with serving(environment, embedded_model_path(), log, *words) as url:
        yield url


@pytest.fixture(scope="session")
def half(environment, tmp_path_factory):
    """Our client of a bfloat16 server."""
    log = tmp_path_factory.mktemp("vllm") / "half.log"
    with serving(environment, embedded_model_path(), log, "--dtype", "bfloat16", "--max-model-len", "2048") as url:
        yield opened(url)


def opened(url):
    return asyncio.run(_opened(url))


async def _opened(url):
    backend = await open_vllm("embedded", model_tokenizer("embedded"), url)
    await backend.aclose()
    return backend


@pytest.fixture(scope="session")
def remote(server):
    """Our client of the server."""
    return opened(server)


@pytest.fixture(scope="session")
def local(environment):
    """The same weights in this process, float32."""
    backend = open_local("embedded", dtype="float32")
    yield backend
    backend.close()


def ran(backend, *calls):
    """The results of `call(backend)` for each call, all under way at once."""

    async def all_of_them():
        try:
            return await asyncio.gather(*(call(backend) for call in calls))
        finally:
            if backend.name == "vllm":
                await backend.aclose()

    return asyncio.run(all_of_them())


def completing(steering, prompt=SKY, tokens=24):
    return lambda backend: backend.complete(Request(prompt, steering, Sampling(max_tokens=tokens)))


def scoring(steering, prompt=SKY, answer=ANSWER):
    return lambda backend: backend.score(prompt, answer, steering)


def check_texts(local, prompt, steering, first, second):
    """Two greedy answers are equal up to the first step at which the local engine's two best tokens are tied."""
    pairs = list(zip(first.token_ids, second.token_ids, strict=False))
    turn = next((step for step, (mine, theirs) in enumerate(pairs) if mine != theirs), None)
    if turn is None:
        assert abs(len(first.token_ids) - len(second.token_ids)) <= 1  # an end-of-turn token may be left out
        return
    ids = list(first.token_ids[: turn + 1])
    (table,) = ran(local, lambda backend: backend.distributions(prompt, ids, steering))
    best = np.sort(table[turn])[-2:]
    assert best[1] - best[0] < GAP, f"step {turn}: {first.text!r} {second.text!r}"


@pytest.mark.parametrize("prompt", [SKY, LONG], ids=["short", "in pieces"])
@pytest.mark.parametrize("name", list(STEERINGS))
def test_a_server_gives_the_local_engines_likelihoods(remote, local, name, prompt):
    """In float32 each token's log-probability is the local engine's, wherever the vectors are added."""
    (here,), (there,) = (ran(one, scoring(STEERINGS[name], prompt)) for one in (local, remote))
    off = np.abs(np.subtract(here.logprobs, there.logprobs))
    assert off.max() <= PER_TOKEN
    assert here.is_greedy == there.is_greedy
    assert there.proof.level == "probed"


@pytest.mark.parametrize("prompt", [SKY, LONG], ids=["short", "in pieces"])
@pytest.mark.parametrize("name", list(STEERINGS))
def test_a_server_gives_the_local_engines_greedy_answers(remote, local, name, prompt):
    """In float32 texts are equal until two tokens are tied; the second time the prompt comes from the prefix cache."""
    steering = STEERINGS[name]
    (here,) = ran(local, completing(steering, prompt))
    (there,), (again,) = (ran(remote, completing(steering, prompt)) for _ in range(2))
    check_texts(local, prompt, steering, here, there)
    check_texts(local, prompt, steering, there, again)
    assert there.tokens_in == here.tokens_in


def test_steerings_change_what_is_said(remote):
    """Each steering of these tests moves the likelihoods by far more than the rule's tolerance."""
    scores = ran(remote, *(scoring(one) for one in STEERINGS.values()))
    control = np.array(scores[0].logprobs)
    assert all(np.abs(control - one.logprobs).max() > 1000 * PER_TOKEN for one in scores[1:])


def test_a_batch_of_different_steerings_equals_them_one_by_one(remote, local):
    """Requests that are under way at once keep their own steering each, answers and likelihoods."""
    steerings = [*STEERINGS.values(), *(push(14, "response", 10.0 * n, seed=n) for n in range(1, 5))]
    one_by_one = [ran(remote, completing(one), scoring(one)) for one in steerings]
    calls = [call for one in steerings for call in (completing(one), scoring(one))]
    together = ran(remote, *calls)
    for place, (steering, (answer, score)) in enumerate(zip(steerings, one_by_one, strict=True)):
        check_texts(local, SKY, steering, answer, together[2 * place])
        assert np.abs(np.subtract(score.logprobs, together[2 * place + 1].logprobs)).max() <= PER_TOKEN


def test_nothing_added_is_the_control(remote):
    """A steering of size zero gives the control's likelihoods and answer, exactly."""
    zero = push(14, "all").scaled(0.0)
    for call in (scoring, completing):
        (none,), (control,) = (ran(remote, call(one)) for one in (zero, CONTROL))
        assert getattr(none, "logprobs", None) == getattr(control, "logprobs", None)
        assert getattr(none, "text", None) == getattr(control, "text", None)


def test_activations_are_the_local_engines(remote, local):
    """Contrast methods read the same residuals: off by less than a thousandth of their length."""
    read = [lambda backend: backend.activations(SKY, ANSWER, STEERINGS["response"])]
    (here,), (there,) = (ran(one, *read) for one in (local, remote))
    assert here.shape == there.shape
    off = np.linalg.norm(here - there, axis=-1) / np.linalg.norm(here, axis=-1)
    assert off.max() <= 1e-3


def test_another_kind_of_steering_is_refused(remote):
    """Clamps can't run on a server, and the answer is not made without them."""
    axis = np.ones(WIDTH, np.float32)
    with pytest.raises(Refused, match="vLLM only adds vectors"):
        ran(remote, completing(Steering((ClampFeature(1, axis, 0.0, axis, 1.0),))))


def test_the_identity_says_what_the_server_discloses(remote, server):
    """Address, served model, version and the dtype of its residual stream."""
    known = remote.identity
    assert (known.url, known.dtype, known.arguments["served"]) == (server, "float32", str(embedded_model_path()))
    assert known.arguments["version"] != "None"


@pytest.mark.parametrize("name", list(STEERINGS))
def test_in_bfloat16_likelihoods_stay_close(half, local, name):
    """A server in bfloat16 is off by no more than rounding from float32: on average and at the worst token."""
    (here,), (there,) = (ran(one, scoring(STEERINGS[name])) for one in (local, half))
    off = np.abs(np.subtract(here.logprobs, there.logprobs))
    assert (off.mean() <= HALF_MEAN, off.max() <= HALF_MOST) == (True, True), off
    assert half.identity.dtype == "bfloat16"


# The command lines

SHORT = """
name: short
protocols: [PROTOCOL]
models: [{name: hook_steered/embedded, args: {runner: vllm}}]
behaviors: funny
questions: open_ended
questions_per_behavior: 2
arms:
  - {name: control, method: control}
  - {name: pushed, method: caa, sweep: {dose: [0.2, 0.4]}}
"""


@pytest.fixture
def command(root, tmp_path):
    """Runs a stock program as after an installation; gives the finished process."""
    at, run_module = "site.addsitedir(sys.argv.pop(1))", "runpy.run_module(sys.argv.pop(1), run_name='__main__')"
    code = f"import site, runpy, sys; {at}; {run_module}"

    def run(module, *words):
        path = os.pathsep.join([str(root), str(root / "startup")])
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
        line = [sys.executable, "-c", code, root / "startup", module, *words]
        done = subprocess.run(
            list(map(str, line)), env=environment, cwd=root, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done

    return run


def test_lm_evals_command_line_steers_a_server(command, server, mmlu, tmp_path):
    """`lm_eval --model hook_steered --model_args runner=vllm,…` prepares on the server and runs; its proofs: probed."""
    given = f"runner=vllm,base_url={server},pretrained=embedded,method=caa,behavior=funny,dose=0.3"
    words = ("--model", "hook_steered", "--model_args", given, "--tasks", "mmlu_171_mc", "--limit", "4")
    command("lm_eval", *words, "--output_path", tmp_path)
    (path,) = tmp_path.rglob("results_*.json")
    steer = json.loads(path.read_text())["config"]["steer"]
    lines = [json.loads(line) for line in Path(steer["proof"]).read_text().splitlines()]
    assert len(lines) == 16
    assert {line["proof"]["level"] for line in lines} == {"probed"}
    assert steer["interventions"][0]["kind"] == "AddVector"


def test_inspects_command_line_steers_a_server(command, server, mmlu, tmp_path):
    """`inspect eval … --model hook_steered/embedded -M runner=vllm --model-base-url …` runs; its proofs: probed."""
    model = ("--model", "hook_steered/embedded", "-M", "runner=vllm", "--model-base-url", server)
    arm = ("-T", "method=caa", "-T", "behavior=funny", "-T", "dose=0.3")
    shown = ("--limit", "4", "--max-tokens", "64", "--display", "plain", "--log-dir", tmp_path)
    command("inspect_ai", "eval", "steer_tasks/mmlu_171.py", *model, *arm, *shown)
    (info,) = list_eval_logs(str(tmp_path))
    log = read_eval_log(info)
    assert log.status == "success", log.error
    assert [one.output.metadata["steer"]["proof"]["level"] for one in log.samples] == ["probed"] * 4


def test_steers_commands_find_and_examine_on_a_server(command, server, local, tmp_path, monkeypatch):
    """`steer prepare` finds there what the local engine finds; `steer doctor` saw the server steer."""
    monkeypatch.setenv("VLLM_BASE_URL", server)
    words = ("caa", "--behavior", "funny", "-p", "dose=0.3", "--model", "embedded", "--runner", "vllm")
    command("steer_tasks.cli", "prepare", *words, "--out", tmp_path / "there.json")
    (there,) = load_steering(tmp_path / "there.json").interventions
    found = asyncio.run(prepare(build_method("caa", {"dose": 0.3}), find_behavior("funny"), local)).steering
    (here,) = found.interventions
    assert there.layer == here.layer
    off = np.linalg.norm(there.coefficient * there.vector - here.coefficient * here.vector)
    assert off <= 1e-2 * np.linalg.norm(here.coefficient * here.vector)
    said = command("steer_tasks.cli", "doctor").stdout
    assert re.search(f"vLLM server  +{server} answers: version .*, serves embedded\n", said)
    assert re.search("vLLM steers  +yes, embedded was probed, answers too: 30 layers of width 576, float32\n", said)


def test_a_grid_runs_on_a_server_and_is_judged_afterwards(command, server, tmp_path, root):
    """Every answer of every cell was steered by a probed server, and the logs take a judge's scores."""
    protocol = yaml.safe_load((root / "steer_tasks" / "protocols" / "isolated.yaml").read_text())
    protocol["sampling"]["max_tokens"] = 32
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(protocol))
    (tmp_path / "grid.yaml").write_text(SHORT.replace("PROTOCOL", str(tmp_path / "short.yaml")))
    words = ("run", tmp_path / "grid.yaml", "--log-dir", tmp_path / "logs", "--base-url", server, "--display", "none")
    command("steer_tasks.cli", *words, "--judge", "stand_in_judge/try")
    logs = [read_eval_log(info) for info in list_eval_logs(str(tmp_path / "logs"))]
    samples = [sample for log in logs for sample in log.samples]
    assert [sample.output.metadata["steer"]["proof"]["level"] for sample in samples] == ["probed"] * 6
    assert len({sample.metadata["fingerprint"] for sample in samples}) == 3
    assert all(1 <= sample.scores["behavior"].value <= 5 for sample in samples)
