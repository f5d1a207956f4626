"""The sources of last resort: the hub with its cache, and lm-eval's own copy of the questions."""

import json
import logging
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from steer_tasks.question_digests import committed, joint_digest, normalised, row_digest
from steer_tasks.question_sources import FILE, REVISION, hub_refusal, lm_eval_rows
from steer_tasks.questions import load_questions
from tests.question_files import refusal, write_parquet


@pytest.fixture
def dev(mmlu_dev: Path) -> list[dict]:
    return json.loads(mmlu_dev.read_text("utf-8"))


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache of one's own; the hub itself is off in all tests."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


# The hub


def put_into_hub_cache(folder: Path, rows: list[dict]) -> None:
    write_parquet(folder / "datasets--cais--mmlu/snapshots" / REVISION / FILE, rows)


def test_the_hubs_cache_serves_offline(no_hub: Path, mmlu_dev: Path, dev: list[dict], caplog) -> None:
    """A file in the hub's local cache is used without the hub, and gives the digest that any whole source gives."""
    put_into_hub_cache(no_hub, dev)
    found = load_questions("mmlu_171")
    assert found.source == f"cais/mmlu at {REVISION[:12]}, config all, split dev (the hub's local cache)"
    assert found.digest == load_questions("mmlu_171", mmlu_dev).digest
    assert not caplog.records


def test_an_altered_cache_of_the_hub_is_refused(no_hub: Path, dev: list[dict]) -> None:
    """A row altered in the hub's cache is refused by name; lm-eval's copy doesn't step in for it."""
    put_into_hub_cache(no_hub, [dev[0] | {"answer": 3}, *dev[1:]])
    assert "abstract_algebra/0 (row 1) has the answer D, not the published one" in refusal("mmlu_171")


@contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of a hub that answers every question with one status."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Asked", self.path)
            self.end_headers()

        def log_message(self, *args) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.mark.usefixtures("no_proxy")
@pytest.mark.parametrize("status", [200, 302, 307, 403, 404, 503])
def test_the_probe_goes_by_the_status(status: int) -> None:
    """A hub that serves or redirects is taken; one that answers an error is not, and its status is the reason."""
    with answering(status) as endpoint:
        assert hub_refusal(endpoint) == (None if status < 400 else f"{endpoint} answers {status}")


@pytest.mark.usefixtures("no_proxy")
def test_a_silent_hub_is_given_up_within_seconds() -> None:
    """A hub that accepts connections and never answers costs five seconds at most, once a process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        start = time.monotonic()
        first = hub_refusal(endpoint)
        assert time.monotonic() - start < 5
        assert first is not None
        assert first.startswith(f"{endpoint} ")
        start = time.monotonic()
        assert hub_refusal(endpoint) == first
        assert time.monotonic() - start < 0.1


@pytest.mark.usefixtures("no_proxy")
def test_a_hub_that_is_not_there_is_named() -> None:
    """An address where nobody listens is a reason, not an exception."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
    assert hub_refusal(endpoint) == f"{endpoint} can't be reached: ConnectError"


# lm-eval's own copy


LACKING = {
    "mmlu_171": ("college_chemistry/1", "college_chemistry/2", "human_aging/0"),
    "mmlu_114": (
        "abstract_algebra/4",
        "formal_logic/3",
        "high_school_computer_science/4",
        "machine_learning/4",
        "professional_accounting/3",
    ),
}


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(("name", "reworded"), [("mmlu_171", 7), ("mmlu_114", 4)])
def test_lm_evals_copy_is_the_last_resort(name: str, reworded: int, caplog) -> None:
    """Without file and hub, lm-eval's copy gives 168 of the 171 and 109 of the 114; one line says so."""
    with caplog.at_level(logging.WARNING):
        found = load_questions(name)
    ids = [id_ for id_ in committed().ids(name) if id_ not in LACKING[name]]
    assert [question.id for question in found.questions] == ids
    assert found.missing == LACKING[name]
    assert found.source.endswith(f"own development questions, {reworded} of them reworded")
    assert found.digest != joint_digest((id_, committed().originals[id_]) for id_ in committed().ids(name))
    assert found.digest != joint_digest((id_, committed().originals[id_]) for id_ in ids)
    (record,) = caplog.records
    line = record.getMessage()
    assert "\n" not in line
    assert line.startswith(f"{name}: {len(ids)} of {len(committed().ids(name))} questions, from lm-eval ")
    assert f"missing: {', '.join(LACKING[name])}; give all with STEER_TASKS_MMLU=" in line


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["mmlu_171", "mmlu_114"])
def test_lm_evals_copy_has_the_published_answers(name: str, mmlu_dev: Path) -> None:
    """Whatever is taken from lm-eval's copy has the dataset's letter, and four choices that read alike."""
    published = {question.id: question for question in load_questions(name, mmlu_dev).questions}
    for question in load_questions(name).questions:
        assert question.letter == published[question.id].letter
        pairs = zip(question.choices, published[question.id].choices, strict=True)
        # At most a full stop, a space or a last letter apart.
        assert all(abs(len(normalised(mine)) - len(normalised(theirs))) <= 1 for mine, theirs in pairs)


def test_how_lm_evals_copy_was_counted() -> None:
    """Of the 171, its copy holds 160 as published, 1 spaced otherwise, 7 reworded; of the 114, 105 and 4."""
    kinds: dict[str, str] = {}
    for row in lm_eval_rows()[0]:
        if known := committed().known.get(row_digest(row)):
            kinds |= dict.fromkeys(known.ids, known.kind)
    for name, expected in [
        ("mmlu_171", {"original": 160, "spacing": 1, "wording": 7}),
        ("mmlu_114", {"original": 105, "wording": 4}),
    ]:
        assert Counter(kinds[id_] for id_ in committed().ids(name) if id_ in kinds) == expected


@pytest.mark.usefixtures("no_hub")
def test_without_any_source_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lm-eval isn't installed either, one line says what was tried and how to give the questions."""
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    line = refusal("mmlu_171")
    assert "HF_HUB_OFFLINE is set" in line
    assert "lm-eval's own development questions aren't installed" in line
    assert line.endswith("give all with STEER_TASKS_MMLU=<file or folder>")


def test_the_module_is_light() -> None:
    """Importing the questions, and reading lm-eval's copy, imports neither torch nor a harness nor pyarrow."""
    code = (
        "import sys; from steer_tasks.questions import load_questions; "
        "from steer_tasks.question_sources import lm_eval_rows; lm_eval_rows(); "
        "print([name for name in ('torch', 'lm_eval', 'inspect_ai', 'pyarrow', 'pandas', 'datasets') "
        "if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
