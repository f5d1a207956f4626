"""Which files are logs, and what is said of those that aren't."""

import json
import zipfile
from dataclasses import replace

import pytest

from model_adapters.errors import SteerError
from steer_tasks.analysis.export import export_records
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.record import Log, Source
from tests.record_strategies import record
from tests.test_analysis_study import row, written


def exported(path, *records, **source):
    log = Log(Source(str(path), "records", **source), records or (record(),))
    export_records([log], path)
    return log


def test_folders_are_read_to_the_bottom_in_order(tmp_path):
    """Logs of every kind in folders below one another are found, in order of their paths, each once."""
    (tmp_path / "b" / "deep").mkdir(parents=True)
    first = exported(tmp_path / "a.json")
    second = exported(tmp_path / "b" / "deep" / "x.parquet", record(question="q/2"))
    written(tmp_path / "c.csv", row())
    logs = read_logs([tmp_path, tmp_path / "a.json", tmp_path / "b"])
    assert logs[:2] == (first, second)
    assert [log.source.kind for log in logs] == ["records", "records", "study"]


def test_the_order_is_that_of_the_arguments(tmp_path):
    """What is named first comes first."""
    first, second = exported(tmp_path / "a.json"), exported(tmp_path / "b.json", record(question="q/1"))
    assert read_logs([tmp_path / "b.json", tmp_path / "a.json"]) == (second, first)
    (tmp_path / "folder").mkdir()
    third = exported(tmp_path / "folder" / "c.json", record(question="q/2"))
    assert read_logs([tmp_path / "b.json", tmp_path / "folder"]) == (second, third)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no file or folder"),
        (lambda path: path.mkdir(), "holds no logs"),
        (lambda path: path.write_text(""), "is empty"),
        (lambda path: path.write_text('{"some": "thing"}'), "is JSON of no kind that is known"),
        (lambda path: path.write_text("[1, 2]"), "is no table of records: it lacks the columns query"),
        (lambda path: path.write_text('{"format": "steer-tasks records 9"}'), "is JSON of no kind that is known"),
        (lambda path: path.write_text('{"run": 1, "prompt_sha256": 2, "proof": {}}'), "give the results that name it"),
        (lambda path: path.write_text('{"doc_id": 1, "arguments": 2, "resps": {}}'), "without the results file"),
        (lambda path: path.write_text('{"results": {'), "isn't whole JSON"),
        (lambda path: path.write_text('{"results": {}}'), "has results and no configs"),
        (lambda path: path.write_text('{"version": 2, "status": "x", "eval": {'), "can't be read as an Inspect log"),
        (lambda path: path.write_bytes(b"PAR1 and no more"), "can't be read as Parquet"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "is an archive that breaks off"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"), "is an archive of another kind"),
    ],
)
def test_what_is_no_log_is_named_with_the_reason(tmp_path, make, said):
    """A path that can't be read as a log is an error with its name, why, and what can be given."""
    path = tmp_path / "thing"
    make(path)
    with pytest.raises(SteerError) as problem:
        read_logs([path])
    assert str(path) in str(problem.value)
    assert said in str(problem.value)


def test_nothing_named_is_refused():
    """Without a path there is nothing to read."""
    with pytest.raises(SteerError, match="no log is named; give lm-eval output"):
        read_logs([])


def test_in_a_folder_what_is_no_log_is_left_out_with_a_remark(tmp_path):
    """Files that look like logs and aren't are listed beside those that are; companions and others go unsaid."""
    exported(tmp_path / "good.json")
    (tmp_path / "other.json").write_text('{"some": "thing"}')
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("eval-set.json", "logs.json"):
        (tmp_path / name).write_text('{"some": "list"}')
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "x.json").write_text("{}")
    logs = {log.source.path.rpartition("/")[2]: log for log in read_logs([tmp_path])}
    assert sorted(logs) == ["broken.parquet", "good.json", "other.csv", "other.json"]
    assert [logs[name].source.kind for name in sorted(logs)] == ["unknown", "records", "unknown", "unknown"]
    assert logs["other.json"].source.remarks == ("left out: is JSON of no kind that is known",)
    assert logs["other.csv"].source.remarks[0].startswith("left out: is no table of records: it lacks the columns")


def test_a_folder_of_nothing_known_says_what_it_holds(tmp_path):
    """A folder without a single log is an error that names what was looked at."""
    (tmp_path / "other.json").write_text('{"some": "thing"}')
    with pytest.raises(SteerError, match=r"holds no logs; it holds other\.json \(left out: is JSON of no kind"):
        read_logs([tmp_path])


def test_steerings_and_proofs_beside_logs_go_unsaid(tmp_path):
    """A steering's file or a proof file in the folder is no log and no reason for a remark."""
    exported(tmp_path / "good.json")
    (tmp_path / "funny.json").write_text(json.dumps({"format": "steer-tasks steering 1", "fingerprint": "f"}))
    (tmp_path / "proof.jsonl").write_text('{"run": 1, "prompt_sha256": 2, "proof": {}}\n')
    assert len(read_logs([tmp_path])) == 1


def test_models_of_one_name_that_differ_are_remarked(tmp_path):
    """Logs of one model's name that ran with other weights or another dtype say so; the same model says nothing."""
    known = {"model_digest": "w", "dtype": "float32", "backend": "local"}
    exported(tmp_path / "a.json", identity=known)
    exported(tmp_path / "b.json", record(question="q/1"), identity={**known, "dtype": "bfloat16"})
    exported(tmp_path / "c.json", record(question="q/2"), identity=known)
    first, second, third = read_logs([tmp_path])
    assert first.source.remarks == third.source.remarks == ()
    assert second.source.remarks == (f"the model's dtype is bfloat16 here and float32 in {tmp_path / 'a.json'}",)
    export_records([first, second, third], tmp_path / "all.parquet")
    assert read_logs([tmp_path / "all.parquet"]) == (first, second, third)


def test_arms_take_the_name_that_was_chosen_for_their_steering(tmp_path):
    """An arm that was called by its method is renamed only where all its steerings are a named arm's."""
    chosen = record(arm="mine", fingerprint="v", method="caa")
    same, other = replace(chosen, arm="caa", question="q/1"), record(arm="random", fingerprint="w")
    exported(tmp_path / "a.json", chosen, names_arms=True)
    exported(tmp_path / "b.json", same, other)
    named, renamed = read_logs([tmp_path])
    assert [one.arm for one in named.records] == ["mine"]
    assert [one.arm for one in renamed.records] == ["mine", "random"]
    exported(tmp_path / "b.json", same, replace(same, fingerprint="x", behavior="concise"))
    assert [one.arm for one in read_logs([tmp_path])[1].records] == ["caa", "caa"]
