"""Exported records are read again as they were."""

import json
import logging

import pytest
from hypothesis import given, settings

from model_adapters.errors import SteerError
from steer_tasks.analysis.export import export_records
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.plain_text import is_plain, plain
from steer_tasks.analysis.record import Log, Source
from tests.record_strategies import clean_text, logs, record

FORMATS = (".parquet", ".csv", ".json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.mark.parametrize("suffix", FORMATS)
@given(logs(clean_text))
@settings(deadline=None, max_examples=60)
def test_what_is_exported_is_read_again(folder, suffix, held):
    """Logs come back equal from every format: None, NaN, infinities, empty texts, line breaks, quotes and all."""
    path = folder / f"clean{suffix}"
    export_records(held, path)
    # By repr, as NaN equals nothing and as -0.0 equals 0.0.
    assert repr(read_logs([path])) == repr(tuple(held))


@given(logs())
@settings(deadline=None, max_examples=60)
def test_json_keeps_lone_surrogates(folder, held):
    """JSON brings back every text, lone surrogates too."""
    path = folder / "any.json"
    export_records(held, path)
    assert repr(read_logs([path])) == repr(tuple(held))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_formats_in_utf_8_write_lone_surrogates_out_and_say_so(tmp_path, suffix, caplog):
    """A lone surrogate is written out, the log's remarks and a warning say so, and nothing else is changed."""
    torn, whole = record(completion="a\udc80b", signals={"\ud800": 1.0}), record(question="q/1")
    with caplog.at_level(logging.WARNING):
        export_records([Log(Source("a.json", "records"), (torn, whole))], tmp_path / f"x{suffix}")
    assert "1 records held lone surrogates" in caplog.text
    (log,) = read_logs([tmp_path / f"x{suffix}"])
    assert log.records[0].completion == r"a\udc80b"
    assert log.records[0].signals == {r"\ud800": 1.0}
    assert log.records[1] == whole
    assert log.source.remarks == (r"1 records held lone surrogates, which are written out, as \udc80",)


def test_different_surrogates_stay_different():
    """Two texts that differ in a lone surrogate only don't become one, so no two questions do."""
    assert plain("\udc80") != plain("\udc81")
    assert is_plain("é\U0001f600")
    assert not is_plain("\udc80")


def test_another_suffix_is_refused(tmp_path):
    """An export's suffix is one of three, and nothing is written for another."""
    with pytest.raises(SteerError, match=r"x\.txt: records are exported as \.parquet, \.csv, \.json"):
        export_records([], tmp_path / "x.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_what_was_there(tmp_path):
    """Where writing fails midway, the old file stays and no half-written one lies about."""
    path = tmp_path / "x.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        export_records([Log(Source("a", "records"), (record(), record(completion=object())))], path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda held: held["records"][0].pop("arm"), "row 1: there is no arm"),
        (lambda held: held["records"][0].update(draw="x"), "row 1: draw is 'x', not of the kind whole"),
        (lambda held: held["records"][0].update(accuracy="high"), "row 1: accuracy is 'high', not of the kind number"),
        (lambda held: held["records"][0].update(question=None), "row 1: question is empty"),
        (lambda held: held["records"][0].update(log=3), "row 1: log 3 isn't described"),
        (lambda held: held["logs"][0].pop("kind"), "a log's description is not of this version"),
        (lambda held: held.pop("logs"), "its logs aren't described"),
    ],
)
def test_a_changed_export_is_refused_by_row_and_column(tmp_path, change, said):
    """What doesn't fit the table is named, with its row."""
    path = tmp_path / "x.json"
    export_records([Log(Source("a", "records"), (record(),))], path)
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))
    with pytest.raises(SteerError) as problem:
        read_logs([path])
    assert said in str(problem.value)
    assert str(path) in str(problem.value)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_truncated_export_is_refused(tmp_path, suffix):
    """An export that breaks off is an error that names it, not fewer records."""
    path = tmp_path / f"x{suffix}"
    export_records([Log(Source("a", "records"), tuple(record(question=str(n)) for n in range(50)))], path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SteerError, match=f"x{suffix}"):
        read_logs([path])
