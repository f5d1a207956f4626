"""Limits of losses: against scipy, by exact enumeration, and with missing scores."""

import math

import numpy as np
import pytest
from scipy import stats

from steer_tasks.calibrate.limits import LEVEL, Differences, bounded, least_budget, losses
from steer_tasks.calibrate.outcomes import LOSSES, OBJECTIVES


def differences(values):
    return Differences({str(place): value for place, value in enumerate(values)})


def test_a_continuous_loss_has_students_one_sided_limits():
    """Mean, lower and upper limit are those of a one-sample t interval at 90% two-sided."""
    values = np.random.default_rng(0).normal(0.3, 1.0, 41)
    found = bounded(differences(values), None)
    interval = stats.t.interval(0.90, 40, loc=values.mean(), scale=stats.sem(values))
    assert (found.mean, found.lower, found.upper) == pytest.approx((values.mean(), *interval))
    shift = found.detectable / stats.sem(values)
    assert stats.nct.sf(stats.t.ppf(0.95, 40), 40, shift) == pytest.approx(0.8)


def test_equal_pairs_in_steps_prove_no_loss_of_nothing():
    """57 answers of which none changed allow a loss of 0.046, near the exact binomial limit of 0.051."""
    assert bounded(differences([0.0] * 57), 1.0).upper == pytest.approx(0.0461, abs=1e-4)
    assert pytest.approx(0.0512, abs=1e-4) == 1 - 0.05 ** (1 / 57)
    assert bounded(differences([0.0] * 57), None).upper == 0.0


def test_the_least_budget_is_what_changed_answers_can_only_raise():
    """57 answers certify 0.061 at best: the imagined lost one and 2.5 standard errors; any that changes takes more."""
    least = least_budget(1.0, 57)
    assert least == pytest.approx(0.0606, abs=1e-4)
    for changed in ([1.0], [-1.0], [1.0, -1.0]):
        assert bounded(differences([*changed, *[0.0] * (57 - len(changed))]), 1.0).detectable > least


@pytest.mark.parametrize("items", [30, 57])
@pytest.mark.parametrize("lost", [0.02, 0.05, 0.15, 0.3])
@pytest.mark.parametrize("gained", [0.0, 0.03, 0.2])
def test_the_limit_of_a_share_covers_the_truth_in_at_least_93_percent(items, lost, gained):
    """Summed over all tables of answers that turned wrong and right, the upper limit is at least the true loss."""
    covered = 0.0
    for wrong in range(items + 1):
        for right in range(items + 1 - wrong):
            chance = stats.multinomial.pmf(
                [wrong, right, items - wrong - right], items, [lost, gained, 1 - lost - gained]
            )
            if chance > 1e-7:
                values = [1.0] * wrong + [-1.0] * right + [0.0] * (items - wrong - right)
                upper = bounded(differences(values), 1.0).upper
                covered += chance if upper >= lost - gained else 0.0
    assert covered >= 0.93


def test_a_missing_verdict_makes_the_steering_look_worst():
    """Without the steered answer's score it counts as 1, without the control's as 5, and both are counted."""
    found = losses(LOSSES["coherence"], {"a": 5.0, "b": None, "c": 4.0}, {"a": None, "b": 3.0, "c": 4.0})
    assert found.values == {"a": 4.0, "b": 2.0, "c": 0.0}
    assert found.missing == 2
    gain = losses(OBJECTIVES["behavior"], {"a": None}, {"a": 5.0}).reversed()
    assert gain.values == {"a": 0.0}


def test_a_missing_likelihood_of_a_steered_answer_certifies_nothing():
    """An answer without tokens has no nll; the mean of the others stands, without limits."""
    found = bounded(losses(LOSSES["nll"], {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.5, "b": None, "c": 2.5}), None)
    assert (found.mean, found.upper, found.missing) == (1.0, None, 1)


def test_a_control_without_a_likelihood_leaves_the_item_out():
    """Where the control's answer has no nll, that item is in no mean."""
    found = losses(LOSSES["nll"], {"a": None, "b": 1.0}, {"a": 2.0, "b": 1.5})
    assert (found.values, found.missing, found.is_usable) == ({"b": 0.5}, 1, True)


def test_one_item_has_no_limits():
    """A single item gives a mean and nothing else."""
    found = bounded(differences([0.5]), 1.0)
    assert (found.mean, found.lower, found.upper) == (0.5, None, None)


def test_a_stricter_level_widens_both_limits():
    """Looking more often takes limits farther out."""
    values = differences([0.1, 0.4, -0.2, 0.3])
    usual, strict = bounded(values, 1.0), bounded(values, 1.0, 1 - (1 - LEVEL) / 3)
    assert strict.lower < usual.lower < usual.mean < usual.upper < strict.upper
    assert math.isclose(usual.mean, 0.15)
