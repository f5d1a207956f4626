"""`steer prepare` and `steer doctor` with a vLLM server."""

import json
import re
from argparse import Namespace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from model_adapters.backends.vllm import status
from model_adapters.controller_json import controller_of
from model_adapters.harnesses.inspect_arguments import hook_opening
from model_adapters.harnesses.served import open_served
from model_adapters.steering import EditFeatures, FeatureEdit, Steering
from model_adapters.steering_file import load_steering
from steer_tasks import doctor
from steer_tasks.cli import main
from steer_tasks.runner import open_model
from tests import lm_eval_cases
from tests.fake_vllm import FakeVllm, listening
from tests.tiny_dictionary import write_dictionary

tiny = lm_eval_cases.tiny


@pytest.fixture
def fake():
    """A server as wide and long as the tiny model."""
    return FakeVllm(length=4096, d_model=32)


@pytest.fixture
def no_weights(monkeypatch):
    """Reading a model's weights fails the test."""
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))


# steer prepare


@pytest.mark.usefixtures("no_weights", "empty_cache")
def test_a_steering_is_prepared_on_a_server(tiny, fake, tmp_path, capsys):
    """Contrasts and residual norms are read there; the file says whose they are, and a second time nothing is."""
    out = tmp_path / "funny.json"
    with listening(fake) as url:
        words = ["prepare", "caa", "--behavior", "funny", "--model", tiny, "-p", "layer=2", "-p", "dose=0.3"]
        words += ["--runner", "vllm", "--base-url", url, "--out", str(out)]
        assert main(words) == 0
        steering = load_steering(out)
        read = [body for body in fake.bodies if body["max_tokens"] == 1 and "vllm_xargs" in body]
        fake.bodies.clear()
        assert main(words) == 0
    (one,) = steering.interventions
    assert (one.layer, one.vector.shape) == (2, (32,))
    assert (steering.provenance["model"]["backend"], steering.provenance["model"]["url"]) == ("vllm", url)
    assert len(read) > 24
    assert {body["cache_salt"] for body in fake.bodies} == {"probe"}
    assert len(fake.bodies) < 10
    assert f"fingerprint  {steering.fingerprint}" in capsys.readouterr().out


@pytest.mark.usefixtures("no_weights")
def test_the_commands_open_a_server_as_inspect_does(tiny, fake):
    """Both are the same model to stores and preparations, so what one of them found the other one finds."""
    with listening(fake) as url:
        given = {"base_url": f"{url}/v1", "served_as": "served", "tokenizer": None, "revision": None}
        here = open_model(Namespace(model=tiny, runner="vllm", **given))
        there = open_served(tiny, **hook_opening({"runner": "vllm", "served_as": "served"}, url).arguments)
    assert here.identity == there.identity


@pytest.mark.usefixtures("no_weights", "empty_cache")
def test_edits_that_pin_are_refused_on_a_server(tiny, fake, tmp_path, capsys):
    """Nudges of features become vectors and run; a pin is a clamp, which is refused by name."""
    folder = write_dictionary(tmp_path / "dictionary", np.eye(5, 32, dtype=np.float32))
    pin = tmp_path / "pin.json"
    pin.write_text(json.dumps(controller_of(Steering((EditFeatures((FeatureEdit(1, 0.5, "pin"),)),)))))
    with listening(fake) as url:
        words = ["prepare", "features", "--model", tiny, "--dictionary", str(folder)]
        words += ["--runner", "vllm", "--base-url", url]
        assert main([*words, "-p", "edits=1@0.5"]) == 0
        assert main([*words, "-p", f"edits={pin}"]) == 2
    assert "ClampFeature: vLLM only adds vectors" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runner", "vllm"], "--runner vllm needs --base-url http://HOST:PORT, or VLLM_BASE_URL"),
        (["--base-url", "http://x:1"], "--base-url belongs to --runner vllm"),
        (["--served-as", "x"], "--served-as belongs to --runner vllm"),
        (["--runner", "vllm", "--base-url", "http://x:1", "--dtype", "float32"], "--dtype is the server's matter"),
        (["--runner", "vllm", "--base-url", "http://x:1", "--device", "cpu"], "--device is the server's matter"),
        (["--runner", "vllm", "--base-url", "http://me:hush@x"], "set VLLM_API_KEY"),
        (["--runner", "vllm", "--base-url", "http://127.0.0.1:9"], "can't be reached"),
    ],
)
def test_a_runner_that_is_named_wrongly_is_one_line(tiny, words, said, capsys):
    """With exit code 2, the remedy, and no secret."""
    assert main(["prepare", "caa", "--behavior", "funny", "--model", tiny, "-p", "dose=0.3", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert "hush" not in captured.err


# steer doctor


def examined(capsys, *words):
    """What `steer doctor` says of vLLM, by the line's name; it must end well."""
    assert main(["doctor", *words]) == 0
    lines = [re.match(r"([ !]) (\S.{0,21}?)\s{2,}(.*)", line) for line in capsys.readouterr().out.splitlines()]
    return {found[2]: (found[1], found[3]) for found in lines if found}


def test_doctor_says_that_a_server_lives_elsewhere(capsys):
    """Without an address nothing is asked, and nothing that only a server needs counts as missing."""
    said = examined(capsys)
    assert said["vLLM server"] == (" ", "none is named; --base-url or VLLM_BASE_URL names one")
    assert said["vLLM client"][1].startswith("ready: zstandard ")
    for name in ("vllm", "vllm-lens"):
        assert said[name] == (" ", doctor.APART)


def test_doctor_examines_a_server(capsys, fake, monkeypatch):
    """Its version, what it serves, and that it was seen to steer; the key is sent and not shown."""
    monkeypatch.setenv("VLLM_API_KEY", "hush-hush")
    with listening(fake) as url:
        monkeypatch.setenv("VLLM_BASE_URL", url)
        said = examined(capsys)
    assert said["vLLM server"] == (" ", f"{url} answers: version 9.9, serves served")
    assert said["vLLM steers"] == (" ", "yes, served was probed, answers too: 4 layers of width 32, float32")
    assert said["VLLM_API_KEY"] == (" ", "set (not shown)")
    assert fake.keys == {"Bearer hush-hush"}
    assert "hush" not in str(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steers": False}, "doesn't steer as asked"),
        ({"counts": False}, "pip install --no-deps steer-tasks"),
        ({"lens": False}, "it must run with the plugin vllm-lens"),
    ],
)
def test_doctor_names_what_a_server_lacks(capsys, options, said):
    """It answers, and the line below says why it doesn't steer; the command doesn't fail for it."""
    with listening(FakeVllm(**options)) as url:
        found = examined(capsys, "--base-url", url)
    assert found["vLLM server"][0] == " "
    assert found["vLLM steers"][0] == "!"
    assert said in found["vLLM steers"][1]


@pytest.mark.parametrize(
    ("address", "said"),
    [("http://127.0.0.1:9", "can't be reached"), ("there", "not an address"), ("http://me:hush@there", "VLLM_API_KEY")],
)
def test_doctor_survives_a_server_that_is_not_there(capsys, monkeypatch, address, said):
    """One line says so, and an address with a password shows none."""
    monkeypatch.setenv("VLLM_BASE_URL", address)
    found = examined(capsys)
    assert found["vLLM server"][0] == "!"
    assert said in found["vLLM server"][1]
    assert "vLLM steers" not in found
    assert "hush" not in str(found)


def test_doctor_does_not_wait_for_a_server_that_hangs(capsys, monkeypatch):
    """All questions together have a limit."""
    monkeypatch.setattr(status, "SECONDS", 0.2)
    with listening(FakeVllm(seconds=5.0)) as url:
        found = examined(capsys, "--base-url", url)
    assert found["vLLM server"] == ("!", f"vLLM at {url} doesn't answer within 0.2 seconds; look at its log")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://there:1/v1", "http://there:1/v1"),
        ("https://me:hush@there/x", "https://…@there/x"),
        ("http://there?key=hush", "http://there?…"),
        ("/a folder", "/a folder"),
    ],
)
def test_an_address_is_shown_without_secrets(value, shown):
    """Neither a password nor a query stands in the output."""
    assert doctor.shown_value(value) == shown
