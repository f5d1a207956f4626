"""Tests by exchange against enumeration, and Holm's adjustment by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from steer_tasks.analysis.flips import holm, mcnemar, sign_flips


def test_mcnemar_by_hand():
    """Of eight pairs that differ seven went down: p is 2 · (1 + 8) / 256."""
    assert mcnemar(np.array([-1.0] * 7 + [1.0] + [0.0] * 20)) == pytest.approx(18 / 256)
    assert mcnemar(np.zeros(5)) == 1.0


@given(st.lists(st.integers(-1, 1), min_size=1, max_size=40))
def test_mcnemar_is_the_sign_flip_of_right_and_wrong(values):
    """On differences of -1, 0 and 1 both exact tests are one."""
    held = np.array(values, dtype=float)
    assert mcnemar(held) == pytest.approx(sign_flips(held))


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=10), st.sampled_from([1, 2, 3, 5, 14, 15]))
def test_exact_flips_equal_all_flips_counted(values, parts):
    """p is the share of all sign patterns whose sum is at least as far from 0, thirds and fifteenths included."""
    sums = np.array(values) / parts
    totals = np.array([abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=len(sums))])
    assert sign_flips(sums) == pytest.approx(np.mean(totals >= abs(sums.sum()) - 1e-9))


def test_drawn_flips_come_near_the_normal_and_stay_the_same():
    """Sums without a common part are flipped at random: near the normal approximation, the same in any order."""
    sums = np.random.default_rng(0).normal(0.12, 1, 171)
    found = sign_flips(sums)
    assert found == pytest.approx(2 * norm.sf(abs(sums.sum()) / np.sqrt(sums @ sums)), abs=0.02)
    assert sign_flips(sums[::-1]) == found
    assert sign_flips(sums + 40) == 1 / 10_000


def test_holm_by_hand():
    """p of .01, .04, .03 and none: three tests, so .03, .06 and .06; what has no p is no member."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": None}
    )
    assert holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
