"""Inspect logs as records: real ones, made by `steer run` and by Inspect on the stand-in model."""

import math
import shutil
import zipfile
from collections import Counter

import pytest
import yaml
from inspect_ai import eval as inspect_eval
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.scorer import Score

import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.errors import SteerError
from model_adapters.steering import SystemPrompt
from steer_tasks.analysis.leaks import leaks
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.pairing import by_model, paired
from steer_tasks.cli import main
from steer_tasks.mmlu_171 import mmlu_171

GRID = {
    "name": "small",
    "models": ["stand_in_steered/x"],
    "protocols": ["isolated", "as_run"],
    "behaviors": ["funny", "concise"],
    "questions": "mmlu_171",
    "questions_per_behavior": 3,
    "arms": [
        {"name": "control", "method": "control"},
        {"name": "simple prompting", "method": "prompt"},
        {"name": "caa", "method": "caa", "sweep": {"dose": [0.1, 0.3]}, "protocols": ["isolated"]},
        {"name": "auto steer", "method": "auto_steer", "draws": [0, 1]},
        {"name": "combined", "method": "auto_steer", "prompting": True},
    ],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, mmlu_dev):
    """A folder with the logs of a judged grid, and one with those of `mmlu_171`, two epochs, as JSON."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEER_TASKS_MMLU", str(mmlu_dev))
        patch.setenv("INSPECT_CACHE_DIR", str(folder / "cache"))
        patch.setenv("STEER_TASKS_CACHE", str(folder / "steer"))
        (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
        words = ["run", str(folder / "grid.yaml"), "--judge", "stand_in_judge/try", "--log-dir", str(folder / "grid")]
        assert main([*words, "--display", "none", "--no-store"]) == 0
        options = {"log_dir": str(folder / "plain"), "log_format": "json", "display": "none", "limit": 2, "epochs": 2}
        inspect_eval(mmlu_171(), model="stand_in_steered/x", **options)
    return folder


@pytest.fixture(scope="module")
def grid(made):
    return read_logs([made / "grid"])


def records_of(logs, arm):
    return [record for log in logs for record in log.records if record.arm == arm]


def test_logs_of_a_grid_are_in_the_order_of_its_cells(made, grid, tmp_path):
    """However the files are called, logs and so arms and sections are in the grid's own order."""
    assert [log.source.position for log in grid] == list(range(len(grid))) == list(range(12))
    arms = list(dict.fromkeys(record.arm for log in grid for record in log.records))
    plain = ["control", "simple prompting", "caa dose=0.1", "caa dose=0.3", "auto steer", "combined"]
    assert arms == [*plain, *(f"{arm} as_run" for arm in plain if not arm.startswith("caa"))]
    for number, log in enumerate(reversed(grid)):
        shutil.copy(log.source.path, tmp_path / f"{number:02}.eval")
    other = read_logs([made / "plain"])
    renamed = read_logs([made / "plain", tmp_path])
    assert [log.source.position for log in renamed] == [*(log.source.position for log in other), *range(12)]


def one_log(made, arm):
    """The path of a log of the grid whose records are of that arm."""
    return next(log.source.path for log in read_logs([made / "grid"]) if log.records[0].arm == arm)


def test_a_grids_arms_have_their_names_without_the_draw(grid):
    """Arms are called as the grid calls them, with swept values and the protocol; draws share a name."""
    assert Counter(record.arm for log in grid for record in log.records) == {
        **{"control": 6, "simple prompting": 6, "caa dose=0.1": 6, "caa dose=0.3": 6, "auto steer": 12, "combined": 6},
        **{"control as_run": 6, "simple prompting as_run": 6, "auto steer as_run": 12, "combined as_run": 6},
    }
    assert {record.draw for record in records_of(grid, "auto steer")} == {0, 1}
    assert {record.dose for record in records_of(grid, "caa dose=0.3")} == {0.3}
    assert {log.source.kind for log in grid} == {"inspect"}
    assert all(log.source.names_arms for log in grid)


def test_a_record_has_what_its_sample_has(made, grid):
    """Every field of a record equals what Inspect's own reader shows of the sample."""
    path = one_log(made, "simple prompting")
    samples = {sample.id: sample for sample in read_eval_log(path).samples}
    (log,) = read_logs([path])
    assert len(log.records) == len(samples) == 6
    for record in log.records:
        sample = samples[f"{record.behavior}/{record.question}"]
        steer = sample.output.metadata["steer"]
        scores = {name: score.value for name, score in sample.scores.items()}
        assert (record.run, record.fingerprint) == (steer["identity"], sample.metadata["fingerprint"])
        assert (record.question, record.behavior) == (sample.metadata["question_id"], sample.metadata["behavior"])
        assert (record.model, record.method, record.sample_index) == ("stand_in_steered/x", "prompt", 0)
        assert record.completion == sample.output.completion
        assert [message.content for message in record.messages] == [one["content"] for one in steer["messages_sent"]]
        assert record.proof == steer["proof"]["level"] == "sent"
        assert (record.accuracy, record.answered) == (scores["accuracy"], scores["answered"])
        assert (record.behavior_score, record.coherence_score) == (scores["behavior"], scores["coherence"])
        assert record.signals["words"] == scores["signals"]["words"]
        assert record.signals["reference_nll"] is None
        assert record.missing == {"reference_nll": "the model under test is not a local one; name reference_model"}
        text = {"funny": "be funny", "concise": "be concise and direct"}[record.behavior]
        assert record.prompts == (f"In everything you write, {text}.",)
        assert record.prompted_by == "arm"
        assert (record.question_set, record.protocol) == ("mmlu_171", "isolated")
    assert log.source.judge == "stand_in_judge/try"
    assert log.source.questions["count"] == 171
    assert log.source.rubrics["source"] == "steer-tasks"


def test_a_sized_steering_names_what_it_was_made_from(grid):
    """Both doses of a contrast vector share the fingerprint of the search, and differ in their own."""
    weak, strong = (records_of(grid, f"caa dose={dose}") for dose in (0.1, 0.3))
    for one, other in zip(weak, strong, strict=True):
        assert one.source_fingerprint == other.source_fingerprint is not None
        assert one.fingerprint != other.fingerprint


def test_the_protocols_of_a_grid_are_compared_apart(grid):
    """Each protocol's arms pair with its own control, all of them."""
    groups = by_model([record for log in grid for record in log.records])
    assert list(groups) == ["stand_in_steered/x · mmlu_171 · isolated", "stand_in_steered/x · mmlu_171 · as_run"]
    isolated, as_run = (paired(records) for records in groups.values())
    assert (isolated.control, as_run.control) == ("control", "control as_run")
    assert (len(isolated.pairs), len(as_run.pairs)) == (36, 24)
    assert isolated.unpaired == as_run.unpaired == ()


def test_the_leak_of_as_run_is_flagged_as_asked_for(grid):
    """Under `isolated` no arm carries another's prompt; under `as_run` Auto Steer does, as the protocol says."""
    isolated, as_run = (leaks(held) for held in by_model([one for log in grid for one in log.records]).values())
    assert isolated == ()
    assert [(leak.arm, leak.other, leak.answers, leak.of, leak.asked) for leak in as_run] == [
        ("auto steer as_run", "simple prompting as_run", 12, 12, True)
    ]
    assert as_run[0].prompt == "In everything you write, {behavior}."


def test_epochs_are_repeats(made):
    """A JSON log of two epochs gives two records of each question, numbered from 0, without a behavior."""
    (log,) = read_logs([made / "plain"])
    assert Counter((record.question, record.sample_index) for record in log.records).most_common(1)[0][1] == 1
    assert sorted(record.sample_index for record in log.records) == [0, 0, 1, 1]
    assert {(record.arm, record.behavior) for record in log.records} == {("control", None)}
    assert {record.missing["behavior_score"] for record in log.records} == {"no judge scored it"}


def test_arms_of_other_logs_take_the_grids_names(made, tmp_path, monkeypatch, mmlu):
    """The same steering run outside of the grid, where it is called by its method, gets the grid's name."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(made / "steer"))
    task = mmlu_171(method="prompt", behavior="funny")
    inspect_eval(task, model="stand_in_steered/x", log_dir=str(tmp_path), display="none", limit=1)
    (alone,) = read_logs([tmp_path])
    assert {record.arm for record in alone.records} == {"prompt"}
    logs = read_logs([made / "grid", tmp_path])
    (named,) = [log for log in logs if log.source.path == alone.source.path]
    assert {record.arm for record in named.records} == {"simple prompting"}
    assert named.source.remarks == (
        "its arm 'prompt' is called 'simple prompting', as another log calls the same steering",
    )


def test_rescored_samples_count_their_last_score(made, tmp_path):
    """Where a judge scored again, the later score counts, under whatever number, and a remark says so."""
    log = read_eval_log(one_log(made, "control"))
    for sample in log.samples:
        sample.scores["coherence1"] = Score(value=5.0, metadata={"judge": "other/judge"})
        sample.scores["coherence"] = Score(value=1.0, metadata={"judge": "stand_in_judge/try"})
    write_eval_log(log, str(tmp_path / "again.eval"))
    (again,) = read_logs([tmp_path / "again.eval"])
    assert {record.coherence_score for record in again.records} == {5.0}
    assert "coherence was scored 2 times; the last, coherence1, counts" in again.source.remarks
    assert "several judges scored it: stand_in_judge/try, other/judge" in again.source.remarks


def test_unscored_and_failed_samples_have_reasons(made, tmp_path):
    """A judge's missing number, a failed sample and a limit each leave a record with the reason."""
    log = read_eval_log(one_log(made, "control"))
    first, second, *_ = log.samples
    first.scores["behavior"] = Score.unscored(reason="invalid_response_format", metadata={"problem": "no number"})
    from inspect_ai.log import EvalError
    from inspect_ai.model import ModelOutput

    second.error = EvalError(message="line one\nRefused: no", traceback="", traceback_ansi="")
    second.scores, second.output = None, ModelOutput()
    write_eval_log(log, str(tmp_path / "torn.eval"))
    (torn,) = read_logs([tmp_path / "torn.eval"])
    held = {f"{record.behavior}/{record.question}": record for record in torn.records}
    one, failed = held[first.id], held[second.id]
    assert one.behavior_score is None
    assert one.missing["behavior_score"] == "invalid_response_format: no number"
    assert failed.completion is None
    assert (failed.accuracy, failed.missing["accuracy"]) == (None, "the sample failed: Refused: no")
    assert failed.fingerprint == one.fingerprint
    assert all(not math.isnan(value) for value in (one.accuracy, one.coherence_score))


def test_a_cancelled_log_gives_what_it_has(made, tmp_path):
    """A log that ended early is read as far as it goes, and a remark says how far."""
    log = read_eval_log(one_log(made, "control"))
    log.status, log.samples = "cancelled", log.samples[:2]
    write_eval_log(log, str(tmp_path / "short.eval"))
    (short,) = read_logs([tmp_path / "short.eval"])
    assert len(short.records) == 2
    assert short.source.remarks == ("the run ended as 'cancelled': 2 of 6 samples are in the log",)


def test_a_killed_runs_log_gives_what_it_has(made, tmp_path):
    """A log without a header, as a killed run leaves it, is read from its journal."""
    path = tmp_path / "killed.eval"
    with zipfile.ZipFile(one_log(made, "control")) as whole, zipfile.ZipFile(path, "w") as part:
        samples = [name for name in whole.namelist() if name.startswith("samples/")]
        left_out = {"header.json", "summaries.json", "reductions.json", *samples[3:]}
        for name in whole.namelist():
            if name not in left_out:
                part.writestr(name, member(whole, name))
    (killed,) = read_logs([path])
    assert len(killed.records) == 3
    assert "the run ended as 'started'" in killed.source.remarks[0]


def member(archive, name):
    """A file of an archive that Inspect packed, by Inspect's own zip reader, as it may use zstd."""
    from inspect_ai._util.zipfile import zipfile_compress_kwargs  # noqa: F401 (registers zstd)

    return archive.read(name)


def test_a_retry_takes_over_its_samples(made, tmp_path):
    """Samples that stand in a log and in its retry count once, from the retry; the first log says so."""
    log = read_eval_log(one_log(made, "control"))
    log.status, whole = "error", log.samples
    log.samples = whole[:2]
    write_eval_log(log, str(tmp_path / "a.eval"))
    log.status, log.samples, log.eval.created = "success", whole, "2999-01-01T00:00:00+00:00"
    write_eval_log(log, str(tmp_path / "b.eval"))
    first, retry = read_logs([tmp_path])
    assert (len(first.records), len(retry.records)) == (0, 6)
    assert first.source.remarks[-1] == "2 of its samples are taken from b.eval, its retry or copy"


@pytest.mark.parametrize("name", ["broken.eval", "broken.json"])
def test_a_truncated_log_is_an_error_that_names_it(made, tmp_path, name):
    """A log that breaks off midway is refused by name; in a folder it is left out with a remark."""
    whole = one_log(made, "control") if name.endswith(".eval") else next((made / "plain").glob("*.json"))
    path = tmp_path / name
    with open(whole, "rb") as file:
        path.write_bytes(file.read()[:-3000])
    with pytest.raises(SteerError, match=name):
        read_logs([path])
    shutil.copy(one_log(made, "control"), tmp_path / "good.eval")
    logs = {log.source.path: log for log in read_logs([tmp_path])}
    assert logs[str(path)].records == ()
    assert logs[str(path)].source.remarks[0].startswith("left out: ")
    assert len(logs[str(tmp_path / "good.eval")].records) == 6


def test_a_frozen_steering_says_how_it_was_found(made, tmp_path, monkeypatch, mmlu):
    """A run of a steering's file is called by the method, parameters and draw that made the file."""
    from model_adapters.steering import Steering
    from model_adapters.steering_file import save_steering

    found = {"method": "caa", "parameters": {"dose": 0.5, "layer": None}, "draw": 3, "source_fingerprint": "s"}
    about = {**found, "behavior": {"slug": "funny", "text": "be funny"}}
    steering = Steering((SystemPrompt("Hear, hear."),), about)
    path = save_steering(steering, tmp_path / "frozen.json")
    options = {"log_dir": str(tmp_path / "logs"), "display": "none", "limit": 1}
    inspect_eval(mmlu_171(steering=str(path)), model="stand_in_steered/x", **options)
    (log,) = read_logs([tmp_path / "logs"])
    (one,) = log.records
    assert (one.arm, one.method, one.draw, one.behavior, one.dose) == ("caa dose=0.5", "caa", 3, "funny", 0.5)
    assert (one.prompts, one.prompted_by, one.source_fingerprint) == (("Hear, hear.",), "arm", "s")
