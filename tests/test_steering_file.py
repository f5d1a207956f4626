"""Steering files: bit for bit there and back, whole or not at all, and nothing else is ever loaded."""

# Vectors and files are given as lists and texts here, which the product takes.
# mypy: disable-error-code="arg-type"

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from model_adapters.errors import SteerError, SteeringFileError
from model_adapters.steering import CONTROL, AblateDirection, AddVector, ClampFeature, Steering, SystemPrompt
from model_adapters.steering_file import load_steering, save_steering, write_whole
from tests.steering_strategies import TEXTS, steerings

ROOT = Path(__file__).resolve().parent.parent
STEERING = Steering(
    (
        SystemPrompt("Sei witzig – 😀.\n", "before"),
        AddVector(3, [1.0, -2.0, 0.5], 0.1, "all"),
        ClampFeature(2, [1.0, 0.0, -0.0], 0.5, [0.0, 1.0, 1e-40], 4.0, "prompt"),
        AblateDirection(1, [3.0, 4.0, 0.0], 0.5),
    ),
    {"method": "by hand", "draw": 0, "labels": ["a", "ü"]},
)
OTHER = Steering((AddVector(0, [7.0, 7.0, 7.0]),))
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save_steering(STEERING, tmp_path / "mine.json")


def refusal(path: Path) -> str:
    with pytest.raises(SteeringFileError) as caught:
        load_steering(path)
    said = str(caught.value)
    assert "\n" not in said
    assert said.startswith(str(path.with_suffix("")))
    return said


def edited(path: Path, change: Any) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def names(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.iterdir())


# There and back


@settings(deadline=None, max_examples=60)
@given(steerings(), st.dictionaries(TEXTS, JSON_VALUES, max_size=3))
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path_factory, steering, provenance):
    """Any steering comes back with every bit of every vector and number, its order, and its provenance."""
    path = tmp_path_factory.mktemp("any") / "steering.json"
    saved = steering.described(**{"given": provenance})
    loaded = load_steering(save_steering(saved, path))
    assert loaded == saved
    assert loaded.fingerprint == saved.fingerprint
    assert loaded.provenance == saved.provenance
    for one, two in zip(loaded.on_residuals, saved.on_residuals, strict=True):
        for name, value in vars(two).items():
            same = getattr(one, name)
            assert same.tobytes() == value.tobytes() if isinstance(value, np.ndarray) else same == value


def test_the_files_are_json_and_safetensors(path):
    """A steering is one readable JSON file, and beside it a safetensors file that holds its vectors as float32."""
    assert names(path.parent) == ["mine.json", "mine.safetensors"]
    document = json.loads(path.read_text(encoding="utf-8"))
    assert "Sei witzig – 😀." in path.read_text(encoding="utf-8")
    assert document["format"] == "steer-tasks steering 1"
    assert document["fingerprint"] == STEERING.fingerprint
    assert document["provenance"] == STEERING.provenance
    assert document["interventions"][1] == {"kind": "AddVector", "layer": 3, "coefficient": 0.1, "positions": "all"}
    tensors = load_file(path.with_suffix(".safetensors"))
    assert sorted(tensors) == ["1.vector", "2.decoder", "2.encoder", "3.direction"]
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}


def test_the_control_needs_no_vectors(tmp_path):
    """The empty steering, and one of prompts only, is a JSON file alone."""
    for steering in (CONTROL, Steering((SystemPrompt("Be funny."),))):
        assert load_steering(save_steering(steering, tmp_path / "only")) == steering
    assert names(tmp_path) == ["only.json"]


def test_a_name_with_a_dot_keeps_it(tmp_path):
    """`dose0.3` and `dose0.5` are two files, because only a missing `.json` is added to a name."""
    assert save_steering(STEERING, tmp_path / "dose0.3") == tmp_path / "dose0.3.json"
    assert save_steering(OTHER, str(tmp_path / "new" / "dose0.5")) == tmp_path / "new" / "dose0.5.json"
    assert load_steering(tmp_path / "dose0.3.json") == STEERING
    assert load_steering(str(tmp_path / "new" / "dose0.5.json")) == OTHER


def test_both_files_move_together(path, tmp_path):
    """A steering that is copied elsewhere under another name, both files, is the same steering."""
    for suffix in (".json", ".safetensors"):
        shutil.copy(path.with_suffix(suffix), tmp_path / f"copy{suffix}")
    assert load_steering(tmp_path / "copy.json") == STEERING


def test_saving_over_a_steering_replaces_it(path):
    """The second steering saved under a name is the one that is found, and nothing of the first is left."""
    save_steering(OTHER, path)
    assert load_steering(path) == OTHER
    assert names(path.parent) == ["mine.json", "mine.safetensors"]


# Whole or not at all


class Killed(BaseException):
    """The process ends here."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int, moved: bool = False) -> None:
    """From the `step`-th os.replace on, every one fails, as after a kill; `moved` lets the first of them happen."""
    replace, count = os.replace, 0

    def failing(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count < step or (count == step and moved):
            replace(source, target)
        if count >= step:
            raise Killed

    monkeypatch.setattr(os, "replace", failing)


@pytest.mark.parametrize("step", [1, 2])
def test_a_failed_write_leaves_the_old_steering(path, monkeypatch, step):
    """When writing the vectors or the JSON fails, the old steering is there, whole, and no other file."""
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(Killed):
            save_steering(OTHER, path)
    assert load_steering(path) == STEERING
    assert names(path.parent) == ["mine.json", "mine.safetensors"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_failed_first_write_leaves_no_half(tmp_path, monkeypatch, step):
    """When the first write under a name fails, there is no file at all, or the whole steering."""
    with monkeypatch.context() as patch:
        killed_at(patch, step)
        with pytest.raises(Killed):
            save_steering(STEERING, tmp_path / "mine")
    if step < 3:
        assert names(tmp_path) == []
    else:
        assert load_steering(tmp_path / "mine.json") == STEERING


DYING = """
import os, sys
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import save_steering
path, step = sys.argv[1], int(sys.argv[2])
replace, done = os.replace, 0
def counted(source, target):
    global done
    done += 1
    if 2 * done - 1 == step:
        os._exit(9)
    replace(source, target)
    if 2 * done == step:
        os._exit(9)
os.replace = counted
save_steering(Steering((AddVector(0, [7.0, 7.0, 7.0]),)), path)
"""


def test_a_kill_at_any_moment_leaves_one_whole_steering(tmp_path):
    """A process that is killed before or after any step of replacing a steering leaves the old or the new one."""
    paths = [save_steering(STEERING, tmp_path / f"{step}.json") for step in range(1, 7)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", DYING, str(path), path.stem], env=environment) for path in paths
    ]
    assert [process.wait(60) for process in processes] == [9] * 6
    assert [load_steering(path) for path in paths] == [STEERING, STEERING, STEERING, OTHER, OTHER, OTHER]
    for path in paths:
        assert load_steering(save_steering(OTHER, path)) == OTHER


def test_saving_again_after_a_kill_keeps_the_vectors(tmp_path, monkeypatch):
    """A failed second save doesn't take away vectors that the first, killed after its JSON, still stands on."""
    for step in (3, 2):
        with monkeypatch.context() as patch:
            killed_at(patch, step)
            with pytest.raises(Killed):
                save_steering(STEERING, tmp_path / "mine")
        assert load_steering(tmp_path / "mine.json") == STEERING


@pytest.mark.parametrize("wrong", [float("nan"), object(), {1, 2}, np.float32(1), "be \udcff"])
def test_what_json_can_t_hold_is_refused_before_writing(path, wrong):
    """Provenance that JSON can't hold is refused by the file's name, and the old files stay as they were."""
    before = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    with pytest.raises(SteerError, match="JSON can't hold its provenance"):
        save_steering(OTHER.described(note=wrong), path)
    with pytest.raises(SteerError):
        save_steering(OTHER.described(note=wrong), path.parent / "new" / "one")
    assert {one.name: one.read_bytes() for one in path.parent.iterdir()} == before


def test_a_file_is_written_in_one_step(tmp_path, monkeypatch):
    """A failed write leaves the old bytes and no temporary file, and a good one replaces them."""
    path = tmp_path / "file"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        killed_at(patch, 1)
        with pytest.raises(Killed):
            write_whole(path, b"new")
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["file"])
    write_whole(path, b"new")
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["file"])


# What is refused


def test_a_missing_file_is_named(tmp_path):
    """A steering that isn't there is an error that says which command writes one."""
    assert refusal(tmp_path / "no.json") == f"{tmp_path / 'no.json'}: no such steering file; `steer prepare` writes one"
    assert "no such steering file" in refusal(tmp_path)


def test_every_truncation_is_refused(path):
    """A JSON or vectors file is refused wherever it was cut."""
    for suffix in (".json", ".safetensors"):
        file = path.with_suffix(suffix)
        whole = file.read_bytes()
        for length in (*range(0, 16), *range(16, len(whole) - 1, 7)):
            file.write_bytes(whole[:length])
            refusal(path)
        file.write_bytes(whole)
    assert load_steering(path) == STEERING


def test_every_altered_byte_of_the_vectors_is_refused(path):
    """A vectors file with any one byte changed is refused, or still holds the same vectors."""
    file = path.with_suffix(".safetensors")
    whole = file.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place >= start:
            refusal(path)
        else:
            try:
                assert load_steering(path) == STEERING
            except SteeringFileError:
                continue


def test_an_altered_number_is_refused(path):
    """A coefficient edited in the JSON file is refused, and the error holds both fingerprints and the remedy."""
    edited(path, lambda document: document["interventions"][1].update(coefficient=0.2))
    prompt, _, *others = STEERING.interventions
    altered = Steering((prompt, AddVector(3, [1.0, -2.0, 0.5], 0.2, "all"), *others))
    assert refusal(path) == (
        f"{path}: content has fingerprint {altered.fingerprint}, the file says {STEERING.fingerprint}; "
        "it was altered after it was written: prepare it again"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["interventions"][0].update(text="Be sad."),
        lambda d: d["interventions"][0].update(placement="after"),
        lambda d: d["interventions"][1].update(layer=4),
        lambda d: d["interventions"][1].update(positions="response"),
        lambda d: d["interventions"].reverse(),
        lambda d: d["interventions"].pop(),
        lambda d: d["interventions"].append(d["interventions"][0]),
        lambda d: d.update(interventions=[]),
        lambda d: d.update(fingerprint=CONTROL.fingerprint),
    ],
)
def test_any_altered_content_is_refused(path, change):
    """An intervention that is edited, moved, taken out or added after saving is refused."""
    refusal(edited(path, change))


def test_provenance_may_be_edited(path):
    """A note added to the provenance by hand doesn't make another steering."""
    edited(path, lambda document: document["provenance"].update(note="the good one"))
    assert load_steering(path).provenance["note"] == "the good one"
    assert load_steering(path) == STEERING


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["interventions"][1].update(kind="AddPickle"), "unknown intervention 'AddPickle'"),
        (lambda d: d["interventions"][1].update(kind=["AddVector"]), "unknown intervention ['AddVector']"),
        (lambda d: d["interventions"][1].pop("kind"), "unknown intervention None"),
        (lambda d: d["interventions"].__setitem__(1, "AddVector!"), "unknown intervention 'AddVector!'"),
        (lambda d: d["interventions"][1].update(strength=2, alpha=1), "AddVector has no field alpha, strength"),
        (lambda d: d["interventions"][1].update(vector=[1, 2, 3]), "AddVector has no field"),
        (lambda d: d["interventions"][1].pop("coefficient"), "AddVector has no coefficient"),
        (lambda d: d["interventions"][0].pop("text"), "SystemPrompt has no text"),
        (lambda d: d["interventions"][1].update(layer=-1), "AddVector.layer is -1"),
        (lambda d: d["interventions"][1].update(layer="x"), "AddVector.layer is 'x'"),
        (lambda d: d["interventions"][1].update(layer=float("inf")), "AddVector.layer is inf"),
        (lambda d: d["interventions"][1].update(coefficient=float("nan")), "AddVector.coefficient is nan"),
        (lambda d: d["interventions"][1].update(coefficient=[1]), "AddVector.coefficient is [1]"),
        (lambda d: d["interventions"][1].update(positions=["all"]), "AddVector.positions is ['all']"),
        (lambda d: d["interventions"][3].update(fraction=2), "AblateDirection.fraction is 2.0"),
        (lambda d: d.pop("format"), "not a steering file of format 'steer-tasks steering 1'"),
        (lambda d: d.update(format="steer-tasks steering 0"), "not a steering file of format"),
        (lambda d: d.update(format="steer-tasks steering 2"), "not a steering file of format"),
        (lambda d: d.update(interventions={}), "'interventions' is missing or not a list"),
        (lambda d: d.pop("provenance"), "'provenance' is missing or not a dict"),
        (lambda d: d.pop("fingerprint"), "'fingerprint' is missing or not a str"),
        (lambda d: d.update(fingerprint="../../else"), "'fingerprint' is not 16 hexadecimal digits"),
    ],
)
def test_what_is_no_steering_is_refused_by_name(path, change, said):
    """Unknown kinds and fields, missing and impossible values, and other formats are named in the refusal."""
    assert said in refusal(edited(path, change))


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{}", "[" * 100_000, "{'kind': 1}", "\x00", "﻿"])
def test_other_text_is_refused(path, text):
    """A file that holds other JSON, or no JSON, is refused in one line."""
    path.write_text(text)
    refusal(path)


def test_missing_vectors_are_named(path):
    """A JSON file that was copied without its vectors says which file is missing."""
    path.with_suffix(".safetensors").unlink()
    assert refusal(path) == (
        f"{path.with_suffix('.safetensors')}: the vectors of this steering are missing; keep both files together"
    )


def test_swapped_vectors_are_refused(path):
    """Vectors of another steering, of the same names and shapes or not, are refused."""
    prompt, _, *others = STEERING.interventions
    other = Steering((prompt, AddVector(3, [1.0, -2.0, 0.25], 0.1, "all"), *others))
    for stranger in (other, OTHER):
        beside = save_steering(stranger, path.parent / "other.json")
        shutil.copy(beside.with_suffix(".safetensors"), path.with_suffix(".safetensors"))
        refusal(path)
    assert "vector 1.vector is missing" in refusal(path)


def test_vectors_are_one_dimensional_float32(path):
    """float64, float16, bfloat16, complex, integer and two-dimensional tensors are refused, not converted."""
    file = path.with_suffix(".safetensors")
    tensors = load_file(file)
    for dtype in ("float64", "float16", "int32", "complex64"):
        save_file({**tensors, "1.vector": tensors["1.vector"].astype(dtype)}, file)
        assert f"1.vector is {dtype}, not float32" in refusal(path)
    save_file({**tensors, "1.vector": tensors["1.vector"][None]}, file)
    assert "has shape (1, 3)" in refusal(path)
    header = json.dumps({"1.vector": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(6))
    assert "holds 'BF16' values; vectors are float32" in refusal(path)


def test_a_vector_with_nan_is_refused(path):
    """NaN that got into a vectors file is named."""
    file = path.with_suffix(".safetensors")
    tensors = load_file(file)
    save_file({**tensors, "2.encoder": np.full(3, np.nan, np.float32)}, file)
    assert "ClampFeature.encoder holds NaN or infinity" in refusal(path)


# Pickles


def test_a_header_that_looks_like_a_pickle_is_read(tmp_path):
    """Vectors whose header is 128 bytes long, so that the file begins with a pickle's first byte, are loaded."""
    zero = [0.0, 0.0, 0.0]
    path = save_steering(Steering((ClampFeature(0, zero, 0.0, zero, 0.0),)), tmp_path / "clamp")
    assert path.with_suffix(".safetensors").read_bytes()[:1] == b"\x80"
    assert load_steering(path) == Steering((ClampFeature(0, zero, 0.0, zero, 0.0),))


class Touches:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def zipped(pickled: bytes, path: Path) -> bytes:
    """The layout of a torch file: a zip archive with a pickle in it."""
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path.read_bytes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("is_zipped", [False, True])
def test_a_pickle_is_never_run(path, tmp_path, suffix, protocol, is_zipped):
    """A pickle or torch file in place of either file is refused, and what it would have run has not run."""
    trace = tmp_path / "it-ran"
    poison = pickle.dumps(Touches(trace), protocol)
    pickle.loads(poison)
    assert trace.exists()  # it does run where somebody unpickles it
    trace.unlink()
    path.with_suffix(suffix).write_bytes(zipped(poison, tmp_path / "zip") if is_zipped else poison)
    said = refusal(path)
    assert not trace.exists()
    if is_zipped or protocol > 1:
        assert "a pickle or torch file" in said
        assert "never loaded" in said
