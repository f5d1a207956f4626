"""What a calibration refuses, and when: by names, by counting, by the variance of its pilot."""

import math

import pytest

from model_adapters.behavior import find_behavior
from model_adapters.errors import Refused, SteerError
from steer_tasks.calibrate.sized import Method
from tests.dose_backend import Curves, DoseBackend
from tests.dose_calibration import calibrated, planned


@pytest.fixture(autouse=True)
def _own_cache(empty_cache, mmlu):
    """Searches and norms of one fake model mustn't be found by another."""


@pytest.mark.parametrize(
    ("budgets", "least"), [({"accuracy": 0.02}, "0.0618"), ({"letter": 0.06}, "0.0618"), ({"repeated": 0.01}, "0.0586")]
)
def test_two_points_of_accuracy_can_not_be_certified(budgets, least):
    """A budget below what equal answers could prove is refused with a number before any model is asked; the number
    itself is accepted, and kept by a steering that changes no answer."""
    with pytest.raises(Refused) as caught:
        planned(budgets)
    assert f"can't certify less than {least}" in str(caught.value)
    (name,) = budgets
    _, trace, _ = calibrated(DoseBackend(Curves(gain=lambda dose: dose)), planned({name: float(least)}))
    assert trace.verdict == "confirmed"


def test_a_budget_below_the_pilots_variance_is_refused_with_the_number():
    """The first trial shows how scores vary; a budget that this design can't certify ends there, with what it could."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, noise=4.0))
    with pytest.raises(Refused) as caught:
        calibrated(backend, planned({"margin": 0.01}))
    number = float(str(caught.value).split("can certify is ")[1].split(" ")[0])
    # (1.67 + 0.85) standard errors of 57 normal differences with deviation 4 × 0.05.
    assert number == pytest.approx(2.52 * 0.2 / math.sqrt(57), rel=0.3)
    _, trace, _ = calibrated(backend, planned({"margin": number}))
    assert trace.points[0].losses["margin"].detectable == pytest.approx(number, rel=0.01)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"method": Method("caa", {"dose": "1"})}, "leave it out"),
        ({"method": Method("caa", {"coefficient": "1"})}, "leave it out"),
        ({"method": Method("caa", {"strength": "1"})}, "no parameter 'strength'"),
        ({"method": Method("combined", {}), "layers": [1]}, "no layer to choose"),
        ({"method": Method("caa", {"layer": "1"}), "layers": [1]}, "give one"),
        ({"layers": [1, 1]}, "given twice"),
        ({"behavior": find_behavior("speak like a pirate")}, "has 0 contrasts"),
        ({"objective": "behavior"}, "without a judge"),
        ({"budgets": {"coherence": 1.0}}, "without a judge"),
        ({"judge": "a/b"}, "nothing to judge"),
        ({"questions": 2}, "--questions"),
    ],
)
def test_a_plan_that_can_not_be_followed_is_refused(asked, said):
    """Names, parameters and budgets that contradict each other are refused before a model is opened."""
    asked = {"budgets": {"margin": 0.1}, **asked}
    with pytest.raises(SteerError) as caught:
        planned(asked.pop("budgets"), **asked)
    assert said in str(caught.value)


def test_a_method_that_changes_no_residual_is_refused():
    """A prompt has no size, so there is nothing to calibrate, and nothing is asked."""
    backend = DoseBackend(Curves())
    with pytest.raises(Refused, match="method prompt changes no residual"):
        calibrated(backend, planned({"margin": 0.1}, method=Method("prompt", {})))
    assert backend.prompts == []
