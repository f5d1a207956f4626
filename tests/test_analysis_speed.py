"""20,000 records: the ceilings of time and memory."""

import json
import os
import subprocess
import sys

import pytest
from inspect_ai import eval as inspect_eval
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import get_model

import steer_tasks.providers  # noqa: F401 (registers the providers)
from steer_tasks.behavior import behavior
from tests.peak_memory import TOLD, last_megabytes, need_status

LOGS, SAMPLES = 8, 2500

READ = """
import json, sys, time
began = time.monotonic()
from steer_tasks.analysis.export import export_records
from steer_tasks.analysis.logs import read_logs
from steer_tasks.analysis.pairing import paired
logs = read_logs([sys.argv[1]])
records = [record for log in logs for record in log.records]
pairs = len(paired(records).pairs)
export_records(logs, sys.argv[2])
print(json.dumps([len(records), pairs, time.monotonic() - began]))
"""


@pytest.fixture
def grid_of_logs(tmp_path, mmlu, monkeypatch):
    """Eight logs of 2,500 samples, each as large as a judged sample really is."""
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "cache"))
    (made,) = inspect_eval(
        behavior(method="prompt", behavior="funny", questions_per_behavior=1),
        model="stand_in_steered/x",
        model_roles={"grader": get_model("stand_in_judge/try")},
        log_dir=str(tmp_path / "one"),
        display="none",
    )
    log = read_eval_log(made.location)
    (sample,) = log.samples
    log.samples = [
        sample.model_copy(update={"id": f"q/{number}", "metadata": {**sample.metadata, "question_id": f"q/{number}"}})
        for number in range(SAMPLES)
    ]
    log.eval.dataset.sample_ids, log.eval.dataset.samples = [one.id for one in log.samples], SAMPLES
    for number in range(LOGS):
        arm = log.eval.metadata["arm"]
        # One method for all, so that the arms are its sweep; the first is the control.
        arm["method"], arm["parameters"] = ("caa", {"dose": number / 10}) if number else ("control", {})
        log.eval.task_id = f"task-{number}"
        for one in log.samples:
            one.output.metadata["steer"]["fingerprint"] = f"fingerprint-{number}"
        write_eval_log(log, str(tmp_path / "logs" / f"{number}.eval"))
    return tmp_path / "logs"


@pytest.mark.slow
def test_twenty_thousand_records_are_read_in_a_minute_and_a_gigabyte(grid_of_logs, tmp_path, root):
    """20,000 judged samples are read, paired and exported in under 60 seconds and 1 GB."""
    need_status()
    words = [sys.executable, "-c", READ + TOLD, str(grid_of_logs), str(tmp_path / "records.parquet")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    records, pairs, seconds = json.loads(done.stdout.splitlines()[-2])
    assert (records, pairs) == (LOGS * SAMPLES, (LOGS - 1) * SAMPLES)
    assert seconds < 60
    assert last_megabytes(done.stdout) < 1024
