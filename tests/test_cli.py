"""The `steer` command, through its own entry."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from model_adapters.steering import CONTROL
from model_adapters.steering_file import load_steering
from steer_tasks.cli import main
from tests.tiny_model import tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail; gives its one line."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.strip()


def test_methods_lists_every_method_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    """`steer methods` names every method and the parameters that command lines take."""
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    for expected in ("caa ", "combined ", "control ", "prompt ", "random_vector ", "dose=", "first=…  (FILE)"):
        assert expected in out


def test_behaviors_lists_the_fourteen(capsys: pytest.CaptureFixture[str]) -> None:
    """`steer behaviors` prints one line for each of the study's 14 behaviors."""
    assert main(["behaviors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 14
    assert lines[0].split()[:3] == ["funny", "be", "funny"]


def test_prepare_show_and_spec_agree_on_the_steering(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A prepared file is the steering that `show` prints and that `spec` refers to by fingerprint and absolute path."""
    out = tmp_path / "funny.json"
    words = ["prepare", "caa", "--behavior", "funny", "--model", str(tiny), "-p", "dose=0.5", "-p", "layer=1"]
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    steering = load_steering(out)
    assert f"fingerprint  {steering.fingerprint}" in said
    assert steering.layers == (1,)
    assert main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert steering.fingerprint in shown
    assert "AddVector: layer=1" in shown
    assert "slug=funny" in shown
    assert main(["spec", str(out)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "steer": {"v": 1, "fingerprint": steering.fingerprint, "file": str(out.resolve())}
    }


def test_spec_of_the_control_has_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """`steer spec control` is the empty steering's fingerprint with a null file."""
    assert main(["spec", "control"]) == 0
    assert json.loads(capsys.readouterr().out) == {"steer": {"v": 1, "fingerprint": CONTROL.fingerprint, "file": None}}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prepare", "cca", "--model", "embedded"], "did you mean caa"),
        (["prepare", "caa", "--model", "embedded", "-p", "dose"], "NAME=VALUE"),
        (["prepare", "caa", "--model", "embedded", "-p", "dose=1", "-p", "dose=2"], "given twice"),
        (["prepare", "caa", "--model", "embedded", "-p", "dose=nan"], "finite number"),
        (["prepare", "caa", "--model", "embedded", "-p", "dose=1", "-p", "coefficient=2"], "give one"),
        (["prepare", "caa", "--model", "embedded", "-p", "strength=2"], "no parameter 'strength'"),
        (["prepare", "caa", "--model", "embedded", "-p", "dose=1", "--behavior", "fuuny"], "did you mean"),
        (["prepare", "caa", "--model", "embedded", "-p", "dose=1", "--behavior", "none.yaml"], "none.yaml"),
        (["prepare", "control", "--model", "no-such/model"], "no-such/model"),
        (["prepare", "control", "--model", "embedded", "--draw", "-1"], "draw"),
        (["show", "nothing.json"], "no such steering file"),
        (["spec", "nothing.json"], "no such steering file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bad input ends with one line that names it, exit code 2, and nothing on standard output."""
    assert expected in fails(capsys, *words)


def test_a_method_that_needs_a_behavior_says_so(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Preparing CAA without a behavior is refused with the parameter to give."""
    assert main(["prepare", "caa", "--model", str(tiny), "-p", "dose=1"]) == 2
    assert "behavior" in capsys.readouterr().err.splitlines()[-1]


def test_a_layer_out_of_range_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A layer the model doesn't have is refused with the range it has."""
    assert main(["prepare", "caa", "--behavior", "funny", "--model", str(tiny), "-p", "dose=1", "-p", "layer=9"]) == 2
    assert "layers 0 to 3" in capsys.readouterr().err.splitlines()[-1]


def test_doctor_reports_versions_registration_model_and_questions(capsys: pytest.CaptureFixture[str]) -> None:
    """`steer doctor` names versions, methods, the model's state, both question sets and the cache, and shows no key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GOODFIRE_API_KEY", "sk-planted-secret")
        assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for expected in ("torch", "lm-eval", "inspect", "methods", "model `embedded`", "mmlu_171", "mmlu_114", "cache"):
        assert expected in out
    assert "sk-planted-secret" not in out


@pytest.mark.parametrize("words", [["methods"], ["behaviors"], ["spec", "control"]])
def test_light_commands_import_no_torch(words: list[str]) -> None:
    """Commands that run no model start without torch, transformers and both harnesses."""
    code = (
        "import sys; from steer_tasks.cli import main; main(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'lm_eval', 'inspect_ai') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
