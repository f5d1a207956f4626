"""The search for a size, on curves that are known."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer_tasks.calibrate.search import CLOSER, RATIO, TOLERANCE, Search, rungs


@dataclass(frozen=True)
class Tried:
    """A trial as a curve gives it."""

    excess: float
    objective: float | None


def search(objective, excess):
    """A search over curves of layer and size."""
    return Search(lambda layer, size: Tried(excess(layer, size), objective(layer, size)))


def test_an_active_budget_is_reached_to_within_the_tolerance_from_below():
    """Where the objective rises until the budget ends it, the size found keeps it and is within 5% of the edge."""
    done = search(lambda layer, size: size, lambda layer, size: size / 0.37 - 1)
    layer, size = done.run([None], 0.05, 1.6)
    assert layer is None
    assert 0.37 * (1 - TOLERANCE) <= size <= 0.37
    assert len(done.tried) <= len(rungs(0.05, 0.4)) + 1 + CLOSER


def test_an_inactive_budget_leaves_the_peak():
    """Where no budget is in the way, the size found is within 5% of the objective's peak."""
    done = search(lambda layer, size: 1 - (math.log(size / 0.33) ** 2), lambda layer, size: -0.5)
    _, size = done.run([None], 0.05, 1.6)
    assert size == pytest.approx(0.33, rel=TOLERANCE)


def test_a_peak_below_the_edge_is_found_though_a_budget_ends_the_climb():
    """An objective that falls before its budget breaks is large at its peak, not at the edge."""
    done = search(lambda layer, size: 1 - (math.log(size / 0.17) ** 2), lambda layer, size: size / 0.7 - 1)
    _, size = done.run([None], 0.05, 1.6)
    assert size == pytest.approx(0.17, rel=TOLERANCE)


def test_a_peak_between_the_last_rung_and_the_edge_is_looked_for():
    """A peak above the highest rung within the budgets is found on the way to the edge."""
    done = search(lambda layer, size: 1 - (math.log(size / 0.5) ** 2), lambda layer, size: size / 0.75 - 1)
    _, size = done.run([None], 0.05, 1.6)
    assert size == pytest.approx(0.5, rel=2 * TOLERANCE)


def test_nothing_within_the_budgets_costs_one_trial():
    """Where the least size is over a budget already, nothing else is tried and nothing is found."""
    done = search(lambda layer, size: 1.0, lambda layer, size: 0.1)
    assert done.run([None], 0.05, 1.6) is None
    assert list(done.tried) == [(None, 0.05)]


def test_what_lies_above_a_broken_budget_is_never_tried():
    """A size behind a cliff isn't tried, though it would keep the budget and promise more."""
    done = search(lambda layer, size: size, lambda layer, size: 1.0 if 0.3 < size < 1 else -1.0)
    _, size = done.run([None], 0.05, 1.6)
    assert size <= 0.3
    assert max(size for _, size in done.tried) == 0.4


def test_a_trial_that_was_given_up_is_no_candidate():
    """A trial without an objective is never chosen."""
    done = search(lambda layer, size: size if size < 0.3 else None, lambda layer, size: -1 if size < 0.3 else 2)
    _, size = done.run([None], 0.05, 1.6)
    assert 0.3 * (1 - 2 * TOLERANCE) <= size < 0.3


def test_where_nothing_is_gained_no_size_between_is_looked_for():
    """A method that gains nothing anywhere costs the climb alone, whether its gain falls or is flat."""
    for objective in (lambda layer, size: -size, lambda layer, size: 0.0):
        done = search(objective, lambda layer, size: size / 0.7 - 1)
        assert done.run([None], 0.05, 1.6) == (None, 0.05)
        assert [size for _, size in done.tried] == rungs(0.05, 0.8)


def test_only_the_best_layer_is_looked_at_closer():
    """Every layer is climbed; the layer with the largest objective within the budgets is refined, the others not."""
    done = search(lambda layer, size: layer * size, lambda layer, size: size / 0.37 - 1)
    layer, size = done.run([2, 5, 3], 0.05, 1.6)
    assert layer == 5
    assert size == pytest.approx(0.37, rel=TOLERANCE)
    assert {one for of, one in done.tried if of != 5} == set(rungs(0.05, 0.4))


def test_the_smaller_of_equal_sizes_wins():
    """An objective that doesn't depend on the size takes the least one."""
    done = search(lambda layer, size: 1.0, lambda layer, size: -1.0)
    assert done.run([None], 0.05, 1.6) == (None, 0.05)


@given(peak=st.floats(0.01, 3.0), edge=st.floats(0.01, 3.0), noise=st.floats(0.0, 0.3), seed=st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_whatever_the_curves_the_size_found_keeps_the_budgets(peak, edge, noise, seed):
    """With noise on both curves too, what is found was tried, is within the budgets, and is the best of those tried."""

    def jitter(size):
        return noise * math.sin(seed + 1000 * math.log(size))

    done = search(
        lambda layer, size: 1 - abs(math.log(size / peak)) + jitter(size),
        lambda layer, size: size / edge - 1 + jitter(2 * size),
    )
    found = done.run([None], 0.05, 1.6)
    within = {key: one.objective for key, one in done.tried.items() if one.excess <= 0}
    assert (found is None) == (not within)
    if found is not None:
        assert within[found] == max(within.values())
    assert len(done.tried) <= len(rungs(0.05, 1.6)) + 2 * CLOSER + 2


@given(low=st.floats(1e-3, 10), ratio=st.floats(1, 1e4))
def test_rungs_begin_and_end_where_they_are_told(low, ratio):
    """The ladder starts at the least size, ends at the largest, and no step is more than a doubling."""
    found = rungs(low, low * ratio)
    assert found[0] == low
    assert found[-1] == low * ratio
    assert all(1 < after / before <= RATIO * (1 + 1e-6) for before, after in pairwise(found))
