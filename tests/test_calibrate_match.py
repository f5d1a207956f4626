"""Sizes of equal KL."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.errors import Refused, SteerError
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import load_steering, save_steering
from steer_tasks.calibrate.match import MOST, NEAR, Matched, match_kl, parse_target
from steer_tasks.cli import main
from tests.tiny_model import tiny_model


@given(scale=st.floats(0.05, 50), power=st.floats(1, 3), target=st.floats(1e-3, 5))
def test_a_rising_kl_is_matched_within_one_percent(scale, power, target):
    """Whatever the power with which KL rises, its size is found in few trials if the range holds it."""
    edge = (target / scale) ** (1 / power)
    low, high = edge / 10, edge * 10
    found = match_kl(lambda size: scale * size**power, target, low, high, "caa")
    assert found.is_near
    assert found.trials <= MOST + 7


def test_a_kl_that_jumps_over_the_target_is_not_near():
    """Where no size has the KL, the nearest one is given and says that it isn't near."""
    found = match_kl(lambda size: 0.1 if size < 0.3 else 1.0, 0.5, 0.05, 1.6, "caa")
    assert not found.is_near
    assert found.kl == 0.1


def test_a_kl_out_of_reach_is_refused_with_what_is_reached():
    """A range that ends below the target, or begins above it, is refused with the number at its end."""
    with pytest.raises(Refused, match=r"at most 1.6 nats/token up to 1.6"):
        match_kl(lambda size: size, 2.0, 0.05, 1.6, "caa")
    with pytest.raises(Refused, match=r"caa is at 0.05 nats/token at 0.05"):
        match_kl(lambda size: size, 0.01, 0.05, 1.6, "caa")
    assert match_kl(lambda size: size, 0.05, 0.05, 1.6, "caa") == Matched(0.05, 0.05, 0.05, 1)


@pytest.mark.parametrize("beyond", [math.inf, math.nan])
def test_a_kl_that_is_not_finite_is_past_the_target(beyond):
    """Where the model overflows above a size, the target below it is found all the same."""
    found = match_kl(lambda size: 2 * size if size < 0.3 else beyond, 0.5, 0.05, 1.6, "caa")
    assert found.is_near
    assert found.trials <= MOST + 4


def test_a_kl_that_falls_again_is_matched_where_it_first_rises_past_the_target():
    """A KL with a hump reaches the target on its way up; the sizes behind the hump aren't tried."""
    tried = []

    def hump(size):
        tried.append(size)
        return math.exp(-(math.log(size / 0.3) ** 2))

    found = match_kl(hump, 0.5, 0.05, 1.6, "caa")
    assert found.is_near
    assert found.size < 0.3
    assert max(tried) <= 0.4


@pytest.mark.parametrize("text", ["kl", "kl:", "kl=", "kl=0", "kl=-1", "kl=nan", "kl=x", "dose=1", "norm:file"])
def test_what_is_no_target_is_refused(text):
    """A target is kl:FILE or kl=NUMBER above 0."""
    with pytest.raises(SteerError, match="kl:FILE"):
        parse_target(text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def calibrate(tiny, *words):
    return main(["calibrate", "--model", str(tiny), "--dtype", "float32", *words])


def test_two_methods_are_brought_to_the_kl_of_a_file(tiny, tmp_path, capsys):
    """Each method's steering has the file's KL within 1% and is written; the last line is how to use it."""
    vector = np.random.default_rng(5).standard_normal(32).astype(np.float32)
    target = save_steering(Steering((AddVector(2, vector, 0.5),)), tmp_path / "target.json")
    words = ["--method", "caa", "--method", "random_vector", "--behavior", "funny", "--doses", "0.01:8"]
    assert calibrate(tiny, *words, "--match", f"kl:{target}", "--layers", "1", "--out", str(tmp_path / "arms")) == 0
    captured = capsys.readouterr()
    out = captured.out
    for name in ("caa", "random_vector"):
        steering = load_steering(tmp_path / "arms" / f"{name}.json")
        matched = steering.provenance["matched"]
        assert matched["kl"] == pytest.approx(matched["target"], rel=NEAR)
        assert steering.layers == (1,)
        assert steering.provenance["method"] == name
        assert f"{name}: dose" in captured.err
    one, other = (load_steering(tmp_path / "arms" / f"{name}.json").provenance for name in ("caa", "random_vector"))
    assert one["matched"]["target"] == other["matched"]["target"]
    assert one["parameters"]["dose"] != other["parameters"]["dose"]
    assert out.splitlines()[-1].startswith("use: lm_eval --model hook_steered")
    assert re.search(r"cost: \d+ trials: [\d,]+ prompt, [\d,]+ generated and [\d,]+ scored tokens", out)


def test_a_number_of_nats_is_hit(tiny, tmp_path, capsys):
    """`kl=0.2` finds the dose at which caa moves the model 0.2 nats per token."""
    words = ["--method", "caa", "--behavior", "funny", "--match", "kl=0.2", "--doses", "0.01:8"]
    assert calibrate(tiny, *words, "--out", str(tmp_path / "caa")) == 0
    matched = load_steering(tmp_path / "caa.json").provenance["matched"]
    assert matched["kl"] == pytest.approx(0.2, rel=NEAR)
    assert matched["target"] == 0.2


def test_a_method_without_a_dose_is_scaled(tiny, tmp_path, capsys):
    """A placebo that takes its norms from a file is matched by a factor on them."""
    vector = np.random.default_rng(5).standard_normal(32).astype(np.float32)
    target = save_steering(Steering((AddVector(2, vector, 0.5),)), tmp_path / "target.json")
    words = ["--method", "random_vector", "-p", f"match={target}", "--match", "kl=0.1", "--doses", "0.01:20"]
    assert calibrate(tiny, *words, "--out", str(tmp_path / "placebo")) == 0
    found = load_steering(tmp_path / "placebo.json")
    assert math.isclose(found.provenance["matched"]["kl"], 0.1, rel_tol=NEAR)
    assert found.interventions[0].coefficient == found.provenance["parameters"]["factor"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "caa", "--match", "kl=1", "--budget", "margin:1"], "leave --budget out"),
        (["--method", "caa", "--match", "kl=1", "--judge", "a/b"], "leave --judge out"),
        (["--method", "caa", "--match", "kl=1", "--layers", "1,2"], "one layer"),
        (["--method", "caa", "--match", "kl=1", "--layers", "9"], "layers 0 to 3"),
        (["--method", "prompt", "--match", "kl=1"], "no size to calibrate"),
        (["--method", "control", "--match", "kl=1"], "no size to calibrate"),
        (["--method", "caa", "--match", "kl=1", "--dictionary", "nowhere"], "dictionary 'nowhere'"),
        (["--method", "caa", "--method", "caa", "--match", "kl=1"], "named twice"),
        (["--method", "caa", "--match", "kl:no-file.json"], "no such steering file"),
        (["--method", "caa", "-p", "dose=1", "--match", "kl=1"], "leave it out"),
        (["--method", "caa", "-p", "random_vector.layer=1", "--match", "kl=1"], "no --method is called"),
        (["--method", "caa", "--match", "kl=1", "--runner", "vllm", "--base-url", "http://x"], "kl: a vLLM server"),
        (["--method", "caa", "--match", "kl=1", "--base-url", "http://x"], "--runner vllm"),
        (["--method", "caa", "--method", "random_vector", "--match", "kl=1", "--out", "a.json"], "name a folder"),
    ],
)
def test_a_match_that_can_not_be_made_is_refused(tiny, words, said, capsys):
    """Options that contradict a match, methods without a size, and backends without distributions end with 2."""
    assert calibrate(tiny, "--behavior", "funny", *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err.splitlines()[-1]
