"""The demo's records: what `steer report` reads after `make demo`, measured here on the tiny model."""

import asyncio

import pytest

from examples import demo, demo_records
from model_adapters.behavior import find_behavior
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.pairing import by_model, paired
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import load_questions
from tests.tiny_backend import opened

pytestmark = pytest.mark.usefixtures("mmlu")


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Two arms on three questions, and the file of their records."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "WRITTEN", 2)
    monkeypatch.setattr(demo, "ANSWER_TOKENS", 8)
    asked, protocol, behavior = load_questions("mmlu_171"), load_protocol(), find_behavior("funny")

    async def arms(backend):
        steerings = await demo.arms(backend, behavior)
        names = ("control", "CAA, dose 0.3", "placebo 0.3, draw 1")
        return {
            name: await demo.measure(
                backend, demo.RECORDED.get(name, name), steerings[name], asked.questions[:3], protocol
            )
            for name in names
        }

    with opened() as backend:
        found = asyncio.run(arms(backend))
        records = [record for one in found.values() for record in one.records]
        path = demo_records.write_records(records, asked, protocol, behavior, backend.identity)
    return found, tmp_path / path


def test_the_demos_records_say_what_its_table_says(measured):
    """Read again, the records have the table's scores, arms without their draw, and a measured proof each."""
    found, path = measured
    (log,) = read_logs([path.parent])
    assert (log.source.kind, log.source.names_arms, path.parts[-3:]) == (
        *("records", True),
        ("logs", "demo", "records.parquet"),
    )
    assert {record.proof for record in log.records} == {"measured"}
    for name, arm, draw in (("control", "control", 0), ("CAA, dose 0.3", "caa dose=0.3", 0)):
        mine = [one for one in log.records if (one.arm, one.draw) == (arm, draw)]
        cloze = [one for one in mine if one.question_set == "mmlu_171 cloze"]
        assert [one.accuracy for one in cloze] == [one["acc"] for one in found[name].options]
        assert [one.signals["margin"] for one in cloze] == [one["margin"] for one in found[name].options]
        words = [one for one in mine if one.question_set == "mmlu_171"]
        assert [one.completion for one in words] == [one.text for one in found[name].answers]
    placebo = [one for one in log.records if one.arm == "placebo dose=0.3"]
    assert {(one.method, one.draw) for one in placebo} == {("random_vector", 1)}
    assert all(abs(one.measured_dose - 0.3) < 0.15 for one in log.records if one.arm != "control")


def test_the_demos_records_pair(measured):
    """Both ways of asking are compared apart, each arm with the control, nothing left over."""
    _, path = measured
    (log,) = read_logs([path])
    groups = by_model(log.records)
    assert list(groups) == ["embedded · mmlu_171 · isolated", "embedded · mmlu_171 cloze · isolated"]
    for records, pairs in zip(groups.values(), (4, 6), strict=True):
        made = paired(records)
        assert (made.control, len(made.pairs), made.unpaired) == ("control", pairs, ())
