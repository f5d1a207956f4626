"""lm-eval's group `steer_tradeoff`: one generation, accuracy, signals, and a judge's scores through a filter."""

import asyncio
import json
import math
import os
import subprocess
import sys

import pytest

from judges.judge import Reply
from model_adapters.backend import Message, Request, Text
from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import FIELD, to_field
from model_adapters.harnesses.lm_eval_reference import with_reference
from model_adapters.steering import Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from steer_tasks import lm_eval_judge
from steer_tasks.lm_eval_judge import JUDGE, JudgeFilter, behavior_in, judge_name, mean_of_known, score_tradeoff
from tests.fake_backend import SpeakingBackend
from tests.scripted_site import ScriptedSite
from tests.tiny_model import tiny_model

pytestmark = pytest.mark.usefixtures("mmlu")

DOC = {
    "letter": "C",
    "behavior": "be funny",
    FIELD: to_field((Message("system", "Secret."), Message("user", "What is it?"))),
}
ANSWER = "<thinking>one two three four</thinking><answer>C</answer>"


@pytest.fixture
def judged(monkeypatch):
    """Sets what the judge replies; gives the list of what it was asked."""

    def set_(reply):
        asked = []

        def ask_with(model, turns, repeat=0):
            async def ask(messages):
                asked.append(messages)
                if isinstance(reply, Exception):
                    raise reply
                tag = "behavior" if "Behavior: " in messages[0].content else "coherence"
                return Reply(reply.replace("TAG", tag), "served")

            return ask

        import steer_tasks.grading

        monkeypatch.setenv(JUDGE, "stand_in_judge/x")
        monkeypatch.setattr(steer_tasks.grading, "ask_with", ask_with)
        return asked

    return set_


def filtered(answers=(ANSWER,), doc=DOC):
    [row] = JudgeFilter().apply([list(answers)], [doc])
    return [json.loads(one) for one in row]


def test_verdicts_stand_beside_the_answer(judged):
    """The filter keeps the answer and adds score, judge, rubric and reply of both qualities."""
    asked = judged("<TAG>3</TAG>")
    [held] = filtered()
    assert held["text"] == ANSWER
    assert [held[quality]["score"] for quality in ("behavior", "coherence")] == [3, 3]
    assert (held["coherence"]["judge"], held["coherence"]["served"]) == ("stand_in_judge/x", "served")
    assert held["coherence"]["reply"] == "<coherence>3</coherence>"
    assert all("Secret." not in messages[0].content for messages in asked)
    scores = score_tradeoff(DOC, [json.dumps(held)])
    assert (scores["acc"], scores["answered"], scores["tags_present"]) == (1.0, 1.0, 1.0)
    assert (scores["behavior"], scores["behavior_missing"]) == (3, 0.0)


@pytest.mark.parametrize(
    ("reply", "reason"), [("four", "invalid_response_format"), (RuntimeError("down"), "grader_failed")]
)
def test_a_failing_judge_loses_no_answer(judged, reply, reason):
    """Nonsense and exceptions are missing scores with a reason; accuracy and the answer stay."""
    judged(reply)
    [held] = filtered()
    assert held["coherence"]["score"] is None
    assert held["coherence"]["reason"] == reason
    scores = score_tradeoff(DOC, [json.dumps(held)])
    assert (scores["acc"], scores["coherence"], scores["coherence_missing"]) == (1.0, None, 1.0)


def test_without_a_judge_there_are_only_signals(monkeypatch):
    """No judge, no judged metrics: neither zero nor missing."""
    monkeypatch.delenv(JUDGE, raising=False)
    [held] = filtered()
    assert held == {"text": ANSWER}
    assert set(score_tradeoff(DOC, [json.dumps(held)])) == {
        *("acc", "answered", "repeated_ngrams", "compression_ratio", "distinct_2", "words"),
        *("tags_present", "language_drift"),
    }


def test_without_a_behavior_only_coherence_is_judged(judged):
    """Where no behavior is named its score is missing, and the reason says how to name one."""
    asked = judged("<TAG>4</TAG>")
    [held] = filtered(doc={**DOC, "behavior": None})
    assert held["coherence"]["score"] == 4
    assert '--metadata \'{"behavior": "funny"}\'' in held["behavior"]["reason"]
    assert len(asked) == 1


def test_the_behavior_comes_from_arguments_or_file(tmp_path):
    """Model arguments and `--metadata` name it, a steering file has it in its provenance; otherwise there is none."""
    assert behavior_in({"behavior": "funny"}) == "be funny"
    named = Steering((SystemPrompt("x"),)).described(behavior={"slug": "concise", "text": "be concise and direct"})
    assert behavior_in({"steering": str(save_steering(named, tmp_path / "a.json"))}) == "be concise and direct"
    assert behavior_in({"steering": str(save_steering(Steering((SystemPrompt("y"),)), tmp_path / "b.json"))}) is None
    assert behavior_in({}) is None


def test_a_judge_that_cannot_be_is_refused_first(monkeypatch):
    """A judge that can't be opened, and the model under test, are errors before anything is generated."""
    monkeypatch.delenv(JUDGE, raising=False)
    assert judge_name({}) is None
    monkeypatch.setenv(JUDGE, "nobody/x")
    with pytest.raises(SteerError, match="nobody/x can't be opened"):
        judge_name({})
    monkeypatch.setenv(JUDGE, "stand_in_judge/model")
    with pytest.raises(SteerError, match="is the model under test"):
        judge_name({"pretrained": "model"})
    assert judge_name({"pretrained": "other"}) == "stand_in_judge/model"


def test_means_leave_missing_values_out():
    """Missing values are in no mean; of nothing the mean is NaN, not zero."""
    assert mean_of_known([1.0, None, 3.0]) == 2.0
    assert math.isnan(mean_of_known([None]))


def test_the_likelihood_is_a_reason_where_there_is_none():
    """Texts, backends without likelihoods and empty answers give no likelihood, and the answer stands."""
    asked = (Message("user", "hello there"),)
    backend = SpeakingBackend()
    plain = asyncio.run(with_reference(backend, Request(asked), True))
    assert (plain.completion.text, plain.reference_nll, plain.reason) == ("hello there", None, "no likelihoods here")
    assert asyncio.run(with_reference(backend, Request(asked), False)).reason.startswith("not one of this package's")
    empty = asyncio.run(with_reference(SpeakingBackend(lambda _: ""), Request(asked), True))
    assert empty.reason == "the answer is empty"
    assert isinstance(Text("x"), Text)


@pytest.mark.slow
def test_the_group_runs_from_the_command_line(tmp_path, root):
    """`lm_eval --tasks steer_tradeoff` with a scripted judge: scores in the table, verdicts in the sample log, the
    likelihood in the proof file; the same command with a judge that fails keeps every answer."""
    site = ScriptedSite(tmp_path)
    model = tiny_model(tmp_path / "tiny")
    for name, judge, said in (("good", {"": "<TAG>2</TAG>"}, 2), ("bad", {"": "raise"}, None)):
        site.say(judge=judge)
        arguments = f"pretrained={model},method=prompt,behavior=funny,dtype=float32,proof={tmp_path / name}.jsonl"
        done = subprocess.run(
            [
                *[sys.executable, "-m", "steer_tasks.cli", "lm_eval", "--model", "hook_steered"],
                *["--model_args", arguments, "--tasks", "steer_tradeoff", "--limit", "3", "--log_samples"],
                *["--gen_kwargs", "max_gen_toks=8", "--output_path", str(tmp_path / name)],
            ],
            env={
                **os.environ,
                **site.environment(),
                "PYTHONPATH": os.pathsep.join([str(root), str(site.folder)]),
                "INSPECT_CACHE_DIR": str(tmp_path / "cache"),
                "STEER_TASKS_JUDGE": f"scripted_judge/{name}",
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        [results] = (tmp_path / name).rglob("results_*.json")
        found = json.loads(results.read_text())
        scores = found["results"]["mmlu_171_tradeoff"]
        assert scores["behavior_missing,judged"] == (0.0 if said else 1.0)
        assert said is None or scores["coherence,judged"] == said
        assert found["configs"]["mmlu_171_tradeoff"]["metadata"]["judged"]["behavior"] == "be funny"
        [samples] = (tmp_path / name).rglob("samples_*.jsonl")
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        held = [json.loads(row["filtered_resps"][0]) for row in rows]
        assert [one["text"] for one in held] == [row["resps"][0][0] for row in rows]
        assert {one["coherence"]["score"] for one in held} == {said}
        proofs = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert len(proofs) == 3
        assert all(line["reference_nll"] is not None or line["reference_reason"] for line in proofs)
    assert lm_eval_judge.UNDER_WAY > 0
