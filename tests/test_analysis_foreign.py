"""Logs of tasks that aren't ours: real Inspect logs on the stand-in model, and scores as lm-eval writes them."""

import json

import pytest
from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.scorer import Score, exact, includes
from inspect_ai.solver import generate

import steer_tasks.providers  # noqa: F401 (registers the providers)
from judges.signals import text_signals
from model_adapters.errors import SteerError
from model_adapters.harnesses.inspect_spec import spec_of
from model_adapters.steering import CONTROL, AddVector, Steering, SystemPrompt
from model_adapters.steering_file import save_steering
from steer_tasks.analysis.lm_eval_scores import scores_of
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.pairing import paired

FUNNY = {"slug": "funny", "text": "be funny"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two steerings in files: a prompt that a method found, and a vector that nothing is known of."""
    folder = tmp_path_factory.mktemp("steerings")
    found = {"method": "caa", "parameters": {"dose": 0.5, "layer": None}, "draw": 3, "behavior": FUNNY}
    prompt = save_steering(Steering((SystemPrompt("Hear, hear."),), found), folder / "found.json")
    vector = save_steering(Steering((AddVector(0, [1.0, 2.0]),)), folder / "mine.json")
    return {"found": prompt, "mine": vector}


def spec(path=None):
    """What `steer spec` prints of a file, or of the control."""
    from model_adapters.steering_file import load_steering

    return {"steer": spec_of(load_steering(path) if path else CONTROL, path).as_dict()}


def run(folder, body):
    """The path of a log of somebody's task: three sums, scored by two scorers."""
    sums = [Sample(input=f"What is {n} + {n}?", target=str(2 * n), id=n) for n in range(3)]
    made = Task(name="sums", dataset=sums, solver=generate(), scorer=[includes(), exact()])
    (log,) = inspect_eval(made, model="stand_in_steered/x", log_dir=str(folder), display="none", extra_body=body)
    assert log.status == "success", log.error
    return log.location


def test_a_steered_log_of_any_task_is_read(files, tmp_path):
    """Arms are what the steering's file says, the accuracy is the first scorer's, and signals come from the answer."""
    control = run(tmp_path / "a", spec())
    steered = run(tmp_path / "b", spec(files["found"]))
    unknown = run(tmp_path / "c", spec(files["mine"]))
    logs = read_logs([control, steered, unknown])
    arms = [{(one.arm, one.method, one.behavior, one.draw, one.dose) for one in log.records} for log in logs]
    assert arms == [
        {("control", "control", None, 0, None)},
        {("caa dose=0.5", "caa", "funny", 3, 0.5)},
        {("mine", None, None, 0, None)},
    ]
    for log in logs:
        samples = {str(sample.id): sample for sample in read_eval_log(log.source.path).samples}
        assert [one.question for one in log.records] == ["0", "1", "2"]
        assert "its accuracy is the task's scorer includes; not read: exact" in log.source.remarks
        for one in log.records:
            sample = samples[one.question]
            assert one.accuracy == {"C": 1.0, "I": 0.0}[sample.scores["includes"].value]
            assert (one.question_set, one.model, one.protocol) == ("sums", "stand_in_steered/x", None)
            assert one.fingerprint == sample.output.metadata["steer"]["fingerprint"]
            signals = text_signals(one.completion, prompt=sample.input, truncated=False, tagged=False)
            assert one.signals == signals.as_dict()
            assert one.missing["behavior_score"] == "no judge scored it"
    assert logs[1].records[0].prompts == ("Hear, hear.",)
    assert logs[1].records[0].prompted_by == "arm"


def test_any_task_pairs_with_its_control(files, tmp_path):
    """The control has no behavior and pairs with a steering of one, question by question."""
    run(tmp_path, spec())
    run(tmp_path, spec(files["found"]))
    found = paired([record for log in read_logs([tmp_path]) for record in log.records])
    assert (found.control, len(found.pairs), found.unpaired) == ("control", 3, ())
    assert all(pair.scores("accuracy") is not None for pair in found.pairs)


def test_a_gone_steering_leaves_its_name(files, tmp_path):
    """Where the steering's file is gone or holds another one, the arm is called by the file, and a remark says why."""
    path = save_steering(Steering((SystemPrompt("Aye."),), {"method": "prompt"}), tmp_path / "aye.json")
    log = run(tmp_path / "logs", spec(path))
    save_steering(Steering((SystemPrompt("Nay."),)), path)
    (other,) = read_logs([log])
    assert {(one.arm, one.method) for one in other.records} == {("aye", None)}
    assert f"method and behavior are unknown: {path} no longer holds the steering that ran" in other.source.remarks
    path.unlink()
    (gone,) = read_logs([log])
    assert {one.arm for one in gone.records} == {"aye"}
    assert any("method and behavior are unknown" in remark for remark in gone.source.remarks)


def test_unproved_and_mixed_logs_are_refused(files, tmp_path):
    """A model that isn't one of ours and a log of two steerings are refused by name; in a folder they are left out."""
    strange = read_eval_log(run(tmp_path / "logs", spec()))
    for sample in strange.samples:
        sample.output.metadata = None
    write_eval_log(strange, str(tmp_path / "logs" / "strange.eval"))
    with pytest.raises(SteerError, match="task sums, and no answer in it says how it was steered"):
        read_logs([tmp_path / "logs" / "strange.eval"])
    assert sorted(len(log.records) for log in read_logs([tmp_path / "logs"])) == [0, 3]
    mixed = read_eval_log(run(tmp_path / "mixed", spec()))
    mixed.samples[1].output.metadata["steer"]["fingerprint"] = "0" * 16
    write_eval_log(mixed, str(tmp_path / "mixed.eval"))
    with pytest.raises(SteerError, match=f"under the steerings {CONTROL.fingerprint} and {'0' * 16}"):
        read_logs([tmp_path / "mixed.eval"])


@pytest.mark.parametrize(
    ("value", "accuracy", "reason"),
    [
        ("P", 0.5, None),
        ("N", 0.0, None),
        (True, 1.0, None),
        (0.25, 0.25, None),
        (7, None, "the scorer includes gives 7, which is no share of right"),
        ("fine", None, "the scorer includes gives fine, which is no share of right"),
        (float("nan"), None, "the scorer includes gives nan, which is no share of right"),
    ],
)
def test_a_share_of_right_is_an_accuracy_and_nothing_else_is(tmp_path, value, accuracy, reason):
    """Letters, truths and numbers from 0 to 1 are accuracies; what else a scorer gives is missing, with the reason."""
    log = read_eval_log(run(tmp_path, spec()))
    log.samples[0].scores["includes"] = Score(value=value)
    write_eval_log(log, str(tmp_path / "other.eval"))
    (read,) = read_logs([tmp_path / "other.eval"])
    assert read.records[0].accuracy == accuracy
    assert read.records[0].missing.get("accuracy") == reason


@pytest.mark.parametrize(
    ("sample", "accuracy"),
    [
        ({"acc": 1.0, "exact_match": 0.0}, 1.0),
        ({"exact_match": 1.0}, 1.0),
        ({"exact_match": 0}, 0.0),
        ({"bleu": 0.5}, None),
        ({"acc": float("nan"), "exact_match": 1.0}, None),
    ],
)
def test_lm_evals_exact_match_is_an_accuracy_too(sample, accuracy):
    """`acc` where a task has it, else `exact_match`; a task with neither has no accuracy, and the reason says so."""
    missing = {}
    assert scores_of(json.loads(json.dumps(sample)), {}, 0, "text", False, missing)["accuracy"] == accuracy
    assert missing.get("accuracy") == (None if accuracy is not None else "the task has no such score")
