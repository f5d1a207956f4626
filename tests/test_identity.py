"""Who answered: what enters the identity of a model and of a run."""

# Vectors are given as lists here, which the product takes.
# mypy: disable-error-code="arg-type"

import hashlib
import json
from dataclasses import fields, replace

import pytest

from model_adapters.identity import ModelIdentity, digest, package_version
from model_adapters.steering import CONTROL, AddVector, Steering

FULL = ModelIdentity(
    name="some/model",
    backend="local",
    model_digest="abc",
    revision="main",
    dtype="float32",
    url="http://localhost",
    dictionary_digest="def",
    template_digest="012",
    template_mode="auto",
    arguments={"max_length": "2048"},
)


def test_the_digest_is_of_canonical_json():
    """A digest is the first 16 digits of SHA-256 over JSON with sorted keys and ASCII only."""
    assert digest({"b": 1, "a": "ü"}) == hashlib.sha256(b'{"a": "\\u00fc", "b": 1}').hexdigest()[:16]


@pytest.mark.parametrize("name", [item.name for item in fields(ModelIdentity) if item.name != "name"])
def test_every_field_is_in_the_identity(name):
    """Changing or not disclosing any field makes another model and another run."""
    for value in ({"max_length": "1024"}, {}) if name == "arguments" else ("else", None):
        other = replace(FULL, **{name: value})
        assert other.digest != FULL.digest
        assert other.run(CONTROL.fingerprint) != FULL.run(CONTROL.fingerprint)


def test_the_name_counts_only_where_the_weights_are_unknown():
    """The same weights in another folder are the same model; a name stands in where no digest is disclosed."""
    assert replace(FULL, name="/elsewhere/model").digest == FULL.digest
    hidden = replace(FULL, model_digest=None)
    assert replace(hidden, name="/elsewhere/model").digest != hidden.digest
    assert hidden.digest != FULL.digest


def test_no_two_fields_stand_for_each_other():
    """One value in one field is another identity than the same value in the next field."""
    bare = ModelIdentity("some/model", "local")
    texts = [item.name for item in fields(ModelIdentity) if item.name not in ("name", "backend", "arguments")]
    assert len({replace(bare, **{name: "x"}).digest for name in texts} | {bare.digest}) == len(texts) + 1


def test_an_identity_is_plain_data():
    """An identity goes through JSON unchanged, can key a mapping, and the order of its arguments doesn't matter."""
    assert ModelIdentity(**json.loads(json.dumps(FULL.as_dict()))) == FULL
    one = replace(FULL, arguments={"a": "1", "b": "2"})
    two = replace(FULL, arguments={"b": "2", "a": "1"})
    assert one.digest == two.digest
    assert {one: "found"}[two] == "found"


def test_a_run_is_a_model_a_steering_and_a_version(tmp_path, monkeypatch):
    """The run identity changes with the model, with the steering, and with the package's installed version."""
    steering = Steering((AddVector(0, [1.0]),))
    runs = {
        FULL.run(CONTROL.fingerprint),
        FULL.run(steering.fingerprint),
        replace(FULL, dtype="bfloat16").run(steering.fingerprint),
    }
    for number in ("98.0", "99.0"):
        folder = tmp_path / number / f"steer_tasks-{number}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: steer-tasks\nVersion: {number}\n")
        monkeypatch.syspath_prepend(str(tmp_path / number))
        assert package_version() == number
        runs.add(FULL.run(steering.fingerprint))
    assert len(runs) == 5
    assert FULL.run(steering.fingerprint) in runs
