"""Sizes at which a model's numbers overflow, and other trials that say too little to decide by."""

import math

import numpy as np
import pytest
import torch

from model_adapters.backend import Likelihood
from model_adapters.errors import NotFinite
from model_adapters.steering import AblateDirection, AddVector, Steering
from model_adapters.steering_file import save_steering
from steer_tasks.calibrate.sized import Method
from steer_tasks.cli import main
from tests.dose_backend import Curves, DoseBackend, SpreadBackend, dose_of
from tests.dose_calibration import calibrated, planned
from tests.tiny_backend import added, another_model, opened, run, user
from tests.tiny_model import tiny_model


@pytest.fixture(autouse=True)
def _own_cache(empty_cache, mmlu):
    """Searches and norms of one fake model mustn't be found by another."""


def overflowing(kind, method, least):
    """A fake model of `kind` whose `method` overflows from the dose `least` on."""

    class Overflowing(kind):
        pass

    plain = getattr(kind, method)

    async def broken(self, *given):
        if dose_of(given[-1]) >= least:
            raise NotFinite("the model's output is not finite")
        return await plain(self, *given)

    setattr(Overflowing, method, broken)
    return Overflowing(Curves(gain=lambda dose: dose, logit=lambda dose: dose))


@pytest.mark.parametrize(("kind", "method"), [(DoseBackend, "score"), (SpreadBackend, "distributions")])
def test_a_dose_that_overflows_is_over_the_budgets(kind, method):
    """It is given up without a score, nothing above it is tried, and the search goes on below it."""
    _, trace, _ = calibrated(overflowing(kind, method, 0.3), planned({"margin": 0.1}))
    assert trace.verdict == "confirmed"
    assert 0.25 < trace.chosen < 0.3
    broken = [point for point in trace.points if point.stopped]
    assert broken[0].size == 0.4
    assert {(point.stopped, point.asked, point.gain, *point.losses) for point in broken} == {("not finite", 0, None)}
    assert {point.over for point in broken} == {("margin",)}


def test_a_least_dose_that_overflows_leaves_nothing():
    """Where every dose overflows, the verdict says that nothing is within the budget."""
    _, trace, steering = calibrated(overflowing(DoseBackend, "score", 0.01), planned({"margin": 0.1}))
    assert (trace.verdict, steering, len(trace.points)) == ("nothing within budget", None, 1)


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_score_that_is_no_number_keeps_no_budget(value):
    """A backend that gives NaN or minus infinity for some letters has no limit there, so no budget is kept."""

    class Vague(DoseBackend):
        async def score(self, prompt, continuation, steering):
            found = await super().score(prompt, continuation, steering)
            is_vague = dose_of(steering) > 0.3 and continuation == self._right(prompt[-1].content)
            return Likelihood((value,), False, found.proof) if is_vague else found

    _, trace, _ = calibrated(Vague(Curves(gain=lambda dose: dose)), planned({"margin": 0.1}))
    assert trace.verdict == "confirmed"
    assert trace.chosen <= 0.3
    (point,) = [point for point in trace.points if point.size == 0.4]
    assert (point.losses["margin"].upper, point.over) == (None, ("margin",))


def test_a_pilot_that_was_given_up_says_nothing_of_other_budgets():
    """A hopeless least dose ends as nothing within budget, though the third that it asked couldn't certify the rest."""
    budgets = {"margin": 0.1, "repeated": 0.09}
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=lambda dose: float(dose > 0)))
    _, trace, _ = calibrated(backend, planned(budgets))
    assert trace.verdict == "nothing within budget"
    assert trace.points[0].stopped == "margin"
    assert trace.points[0].losses["repeated"].detectable > budgets["repeated"]


def test_the_local_model_says_when_it_overflows():
    """Scores, distributions and answers under a vector beyond float16 end as NotFinite, which calibration counts."""
    huge = added(1, 0, 1e5)
    with opened(another_model(torch.float16)) as backend:
        for asked in (backend.score(user(), "abc", huge), backend.distributions(user(), "abc", huge)):
            with pytest.raises(NotFinite):
                run(asked)


def test_an_ablation_is_scaled_no_further_than_whole(tmp_path):
    """What can't be as large as the range ends is refused before a question is asked, with the option to change."""
    rng = np.random.default_rng(0)
    first, second = (
        save_steering(Steering((one,)), tmp_path / name)
        for name, one in (
            ("ablated.json", AblateDirection(2, rng.standard_normal(4).astype(np.float32))),
            ("added.json", AddVector(2, rng.standard_normal(4).astype(np.float32), 1.0)),
        )
    )
    backend = DoseBackend(Curves())
    plan = planned({"margin": 0.1}, method=Method("combined", {"first": str(first), "second": str(second)}))
    with pytest.raises(Exception, match=r"AblateDirection can't be scaled by 4.*--doses LOW:HIGH"):
        calibrated(backend, plan)
    assert backend.prompts == []


def test_an_overflow_is_past_every_kl(tmp_path, capsys, monkeypatch):
    """A match climbs up to the dose that overflows and finds the target below it."""
    monkeypatch.setattr("steer_tasks.calibrate.matching.divergence", overflowing_divergence(0.3))
    words = ["--model", str(tiny_model(tmp_path / "tiny")), "--dtype", "float32", "--method", "caa"]
    words += ["--behavior", "funny", "--match", "kl=0.06", "--doses", "0.02:2", "--out", str(tmp_path / "caa")]
    assert main(["calibrate", *words]) == 0
    captured = capsys.readouterr()
    assert "kl inf" in captured.err
    assert (tmp_path / "caa.json").exists()


def overflowing_divergence(least):
    """A divergence that is the square of the parameter `dose`, and overflows from `least` on."""

    class Moved:
        def __init__(self, mean):
            self.mean = mean

    async def divergence(model, steering, spoken):
        dose = steering.provenance["parameters"]["dose"]
        if dose >= least:
            raise NotFinite("the model's output is not finite")
        return Moved(dose**2)

    return divergence
