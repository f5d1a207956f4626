"""lm-eval's output as records: real files, written by the `lm_eval` command line on a tiny model."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model_adapters.errors import SteerError
from steer_tasks.analysis.lm_eval_proofs import prompt_digest
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.pairing import paired
from tests.test_lm_eval_command import STOCK
from tests.tiny_model import tiny_model

TASKS = "mmlu_171_tradeoff,mmlu_171_mc,mmlu_171_cloze"


@pytest.fixture(scope="module")
def run(tmp_path_factory, mmlu_dev, root):
    """Runs `lm_eval` on the tiny model, judged by the stand-in; gives the folder of its output."""
    model = str(tiny_model(tmp_path_factory.mktemp("tiny") / "model"))

    def command(arguments, tasks, *more):
        folder = tmp_path_factory.mktemp("out")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "startup")]),
            "STEER_TASKS_MMLU": str(mmlu_dev),
            "STEER_TASKS_JUDGE": "stand_in_judge/try",
            "INSPECT_CACHE_DIR": str(folder / "inspect"),
        }
        words = [
            "--model",
            "hook_steered",
            "--model_args",
            f"pretrained={model},proof={folder}/proof.jsonl,{arguments}",
        ]
        words += ["--tasks", tasks, "--limit", "2", "--gen_kwargs", "max_gen_toks=8"]
        words += ["--output_path", str(folder), "--log_samples", *more]
        line = [sys.executable, "-c", STOCK, str(root / "startup"), *words]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return folder

    return command


@pytest.fixture(scope="module")
def output(run):
    return run("method=prompt,behavior=funny", TASKS)


@pytest.fixture
def copied(output, tmp_path):
    """A copy of the output for a test to damage: its results file, and the folder that it is in."""
    shutil.copytree(output, tmp_path / "copy")
    (results,) = (tmp_path / "copy").rglob("results_*.json")
    held = json.loads(results.read_text())
    held["config"]["steer"]["proof"] = str(tmp_path / "copy" / "proof.jsonl")
    results.write_text(json.dumps(held))
    return results


def samples_of(folder, task):
    (path,) = Path(folder).rglob(f"samples_{task}_2*.jsonl")
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def test_each_task_is_a_log_with_its_questions_and_form(output):
    """A results file gives a log for each task, whose question set names the form; everything has its proof."""
    logs = {log.source.task: log for log in read_logs([output])}
    assert {task: log.records[0].question_set for task, log in logs.items()} == {
        **{"mmlu_171_tradeoff": "mmlu_171", "mmlu_171_mc": "mmlu_171 letter", "mmlu_171_cloze": "mmlu_171 cloze"}
    }
    for log in logs.values():
        assert [record.question for record in log.records] == ["abstract_algebra/0", "abstract_algebra/1"]
        assert {(record.arm, record.method, record.behavior) for record in log.records} == {
            ("prompt", "prompt", "funny")
        }
        assert {record.proof for record in log.records} == {"measured"}
        assert {record.protocol for record in log.records} == {"isolated"}
        assert log.source.remarks == ()
        assert (log.source.kind, log.source.versions["lm-eval"]) == ("lm_eval", "0.4.13")
    assert logs["mmlu_171_tradeoff"].source.judge == "stand_in_judge/try"
    assert logs["mmlu_171_mc"].source.judge is None


def test_a_record_has_what_its_sample_and_its_proof_have(output):
    """Scores and signals are those of the samples file, messages and the likelihood signal those of the proof file."""
    _, samples = samples_of(output, "mmlu_171_tradeoff")
    lines = [json.loads(line) for line in (output / "proof.jsonl").read_text().splitlines()]
    (log,) = [log for log in read_logs([output]) if log.source.task == "mmlu_171_tradeoff"]
    for sample, record in zip(samples, log.records, strict=True):
        (line,) = [one for one in lines if (one["task"], one["doc_id"]) == (log.source.task, sample["doc_id"])]
        assert record.completion == sample["resps"][0][0]
        assert (record.accuracy, record.answered) == (sample["acc"], sample["answered"])
        assert (record.behavior_score, record.coherence_score) == (sample["behavior"], sample["coherence"])
        assert record.signals["words"] == sample["words"]
        assert record.signals["reference_nll"] == line["reference_nll"]
        assert record.signals["truncated"] == float(line["stop_reason"] == "max_tokens")
        assert [message.content for message in record.messages] == [one["content"] for one in line["messages_sent"]]
        assert (record.run, record.fingerprint) == (line["run"], line["proof"]["fingerprint"])
        assert record.prompts == ("In everything you write, be funny.",)
        assert record.prompted_by == "arm"


def test_likelihood_tasks_have_accuracy_and_margin_only(output):
    """A likelihood task's records have no completion; what isn't scored there says so."""
    logs = {log.source.task: log for log in read_logs([output])}
    _, samples = samples_of(output, "mmlu_171_cloze")
    for sample, record in zip(samples, logs["mmlu_171_cloze"].records, strict=True):
        assert (record.completion, record.answered) == (None, None)
        assert (record.accuracy, record.signals) == (sample["acc"], {"margin": sample["margin"]})
        assert record.missing["answered"] == "the task has no such score"
        assert record.messages[-1].content.endswith("Reply with the answer and nothing else.")
    assert logs["mmlu_171_mc"].records[0].signals == {}


def test_a_missing_proof_file_is_said_and_costs_no_scores(copied):
    """Without the proof file there are scores, but no proof, no messages and no likelihood, each with its reason."""
    (copied.parent.parent / "proof.jsonl").unlink()
    logs = {log.source.task: log for log in read_logs([copied])}
    log = logs["mmlu_171_tradeoff"]
    assert "can't be read (No such file or directory)" in log.source.remarks[0]
    for record in log.records:
        assert (record.proof, record.messages, record.signals["reference_nll"]) == (None, None, None)
        assert record.missing["reference_nll"] == log.source.remarks[0]
        assert record.accuracy is not None


def test_the_latest_line_of_an_answer_counts(copied):
    """The proof file is appended to: the last line of an answer is the one of the run; another run's are not taken."""
    proof = copied.parent.parent / "proof.jsonl"
    lines = [json.loads(line) for line in proof.read_text().splitlines()]
    mine = next(line for line in lines if line["task"] == "mmlu_171_tradeoff")
    later = [{**mine, "reference_nll": 7.5}, {**mine, "run": "another", "reference_nll": 9.5}]
    later.append({**mine, "prompt_sha256": "0" * 16, "reference_nll": 8.5})
    with proof.open("a") as file:
        file.write("\n".join(map(json.dumps, later)) + '\n{"run": "torn')
    (log,) = [log for log in read_logs([copied]) if log.source.task == "mmlu_171_tradeoff"]
    assert next(one for one in log.records if one.question == mine["question"]).signals["reference_nll"] == 7.5


def test_answers_without_a_line_are_counted(copied):
    """Where single lines are missing from the proof file, a remark says how many."""
    proof = copied.parent.parent / "proof.jsonl"
    kept = [line for line in proof.read_text().splitlines() if json.loads(line)["idx"] == 0]
    proof.write_text("\n".join(kept) + "\n")
    logs = {log.source.task: log for log in read_logs([copied])}
    assert logs["mmlu_171_tradeoff"].source.remarks == ()
    assert logs["mmlu_171_mc"].source.remarks == (f"2 answers have no line in the proof file {proof}",)
    assert logs["mmlu_171_mc"].records[0].accuracy is not None


def test_truncated_and_missing_samples_are_said(copied):
    """A broken line is counted and left out; a task without a samples file is a log without records that says so."""
    path, _ = samples_of(copied.parent, "mmlu_171_tradeoff")
    path.write_text(path.read_text()[:-200])
    other, _ = samples_of(copied.parent, "mmlu_171_mc")
    other.unlink()
    logs = {log.source.task: log for log in read_logs([copied.parent])}
    assert len(logs["mmlu_171_tradeoff"].records) == 1
    assert "1 lines of the samples file are broken" in logs["mmlu_171_tradeoff"].source.remarks[0]
    assert logs["mmlu_171_mc"].records == ()
    assert "run lm-eval with --log_samples" in logs["mmlu_171_mc"].source.remarks[0]


def test_truncated_results_are_an_error_and_orphans_are_said(copied):
    """Results that break off are refused by name; samples without results are left out with a remark."""
    copied.write_text(copied.read_text()[:-500])
    with pytest.raises(SteerError, match=r"results_.*\.json isn't whole JSON"):
        read_logs([copied])
    copied.unlink()
    with pytest.raises(SteerError, match="without the results file that says which model"):
        read_logs([copied.parent])


def test_samples_named_with_their_results_are_read_once(output):
    """`steer report OUT/*` names samples, results and proofs alike; each answer is read once."""
    files = sorted(path for path in Path(output).rglob("*.json*") if "inspect" not in path.parts)
    assert [len(log.records) for log in read_logs(files)] == [2, 2, 2]
    with pytest.raises(SteerError, match="holds samples; give the results file beside it"):
        read_logs([path for path in files if path.name.startswith("samples_")])


def test_a_model_that_is_not_ours_has_no_steering(copied):
    """Results of lm-eval's own models are read without method or proof, and a remark says so."""
    held = json.loads(copied.read_text())
    del held["config"]["steer"]
    held["config"]["model"] = "hf"
    copied.write_text(json.dumps(held))
    log = read_logs([copied])[0]
    assert {(record.arm, record.method, record.proof) for record in log.records} == {("unsteered hf", None, None)}
    assert log.source.remarks == ("the model isn't one of ours, so nothing says what was steered",)


def test_a_prompts_digest_is_the_proof_files():
    """Plain prompts and conversations, which lm-eval logs as lists, are named as the proof file names them."""
    from lm_eval.models.api_models import JsonChatStr

    chat = JsonChatStr('[{"role": "user", "content": "é"}]')
    assert prompt_digest(list(chat)) == hashlib.sha256(str(chat).encode()).hexdigest()[:16]
    assert prompt_digest("plain") == hashlib.sha256(b"plain").hexdigest()[:16]


def test_repeats_are_records_of_their_own(copied):
    """Each repeat of a generation is a record; lm-eval scores the first, the others are read from their texts."""
    path, samples = samples_of(copied.parent, "mmlu_171_tradeoff")
    right = f"<answer>{samples[0]['doc']['letter']}</answer>"
    samples[0]["resps"] = [[*samples[0]["resps"][0], right, "nothing"]]
    path.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (log,) = [log for log in read_logs([copied]) if log.source.task == "mmlu_171_tradeoff"]
    first, second, third, other = log.records
    assert [one.sample_index for one in log.records] == [0, 1, 2, 0]
    assert (second.completion, second.accuracy, second.answered) == (right, 1.0, 1.0)
    assert (third.accuracy, third.answered) == (0.0, 0.0)
    assert first.coherence_score == samples[0]["coherence"]
    assert second.missing["coherence_score"] == "lm-eval scores the first of repeated answers only"
    assert (second.proof, first.question, other.question) == (None, "abstract_algebra/0", "abstract_algebra/1")


@pytest.mark.slow
def test_arms_of_two_commands_pair(run):
    """A control and a placebo, run by two commands, are paired; the placebo's draw, dose and search are known."""
    control = run("method=control", "mmlu_171")
    placebo = run("method=random_vector,layer=1,dose=0.4,draw=2,behavior=funny", "mmlu_171")
    logs = read_logs([control, placebo])
    (first, second) = logs
    assert {(one.arm, one.behavior) for one in first.records} == {("control", None)}
    assert {(one.arm, one.draw, one.dose) for one in second.records} == {("random_vector layer=1 dose=0.4", 2, 0.4)}
    assert all(0.3 < one.measured_dose < 0.5 for one in second.records)
    assert all(one.source_fingerprint not in (None, one.fingerprint) for one in second.records)
    found = paired([record for log in logs for record in log.records])
    assert (found.control, len(found.pairs), found.unpaired) == ("control", 2, ())
