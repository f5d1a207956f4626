"""Means of clustered values: variances worked out by hand, intervals, and what is said where nothing can be."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew, t

from model_adapters.errors import SteerError
from steer_tasks.analysis.clustered import (
    clustered_mean,
    clustered_variance,
    p_value,
    skewed_p_value,
    two_way_variance,
)


def test_one_way_is_the_t_interval_of_cluster_means_when_clusters_are_equal():
    """With equal clusters the interval is the textbook's t interval over the cluster means."""
    values = np.array([1.0, 3.0, 0.0, 1.0, -2.0, 0.0])
    found = clustered_mean(values, {"question": list("aabbcc")})
    means = values.reshape(3, 2).mean(axis=1)
    low, high = t.interval(0.95, 2, means.mean(), means.std(ddof=1) / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.df == 2
    assert found.method == "clustered by question, t"
    assert found.clusters == {"question": 3}


def test_two_ways_by_hand():
    """Residuals 3 1 1 -1 -1 -3 about 2: by question 4/3, by behavior 1, by both 11/15, so together 8/5."""
    values = np.array([5.0, 3.0, 3.0, 1.0, 1.0, -1.0])
    questions, behaviors = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    assert clustered_variance(values, questions.tolist()) == pytest.approx(4 / 3)
    assert clustered_variance(values, behaviors.tolist()) == pytest.approx(1)
    assert two_way_variance(values, questions, behaviors) == pytest.approx(8 / 5)
    found = clustered_mean(values, {"question": questions.tolist(), "behavior": behaviors.tolist()})
    assert found.stderr == pytest.approx(math.sqrt(8 / 5))
    assert found.df == 1
    assert found.high == pytest.approx(2 + t.ppf(0.975, 1) * math.sqrt(8 / 5))
    assert found.method == "clustered by question and behavior, t, longer where skewed"


def test_two_ways_are_never_less_than_one():
    """By question 1/3, by behavior 0, by both 4/15: the formula gives 1/15, and 1/3 is taken."""
    values = np.array([4.0, 2.0, 1.0, 1.0, 1.0, 3.0])
    assert two_way_variance(values, np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])) == pytest.approx(1 / 3)


def test_skewed_behaviors_reach_farther_on_their_long_side():
    """Effects skewed to the low side move the low end to Hall's, at most half as far again as t's, and no other."""
    questions, behaviors = np.tile(np.arange(30), 6).tolist(), np.repeat(np.arange(6), 30).tolist()
    for effects, cut in (([-1, -0.4, 0, 0.3, 0.5, 0.8], False), ([0, -0.1, 0.1, 0, 0.2, -4], True)):
        values = np.repeat(effects, 30) + np.tile(np.linspace(-0.1, 0.1, 30), 6)
        found = clustered_mean(values, {"question": questions, "behavior": behaviors})
        quantile, n = t.ppf(0.975, 5), 6
        g = skew(effects, bias=True) * (5 / 6) ** 1.5 * 36 / 20
        by_hand = math.sqrt(n) * 3 / g * (np.cbrt(1 + g * (quantile / math.sqrt(n) - g / (6 * n))) - 1)
        assert by_hand > quantile
        assert bool(by_hand > 1.5 * quantile) is cut
        assert found.low == pytest.approx(found.value - min(by_hand, 1.5 * quantile) * found.stderr)
        assert found.high == pytest.approx(found.value + quantile * found.stderr)


def test_p_is_where_the_skewed_interval_ends():
    """p is the level at which the interval's end reaches 0, whichever side is long and whether or not it is cut."""
    generator = np.random.default_rng(0)
    questions, behaviors = np.tile(np.arange(20), 6), np.repeat(np.arange(6), 20)
    for _ in range(40):
        effects = generator.exponential(1, 6) ** 2 * generator.choice([-1, 1])
        values = np.repeat(effects, 20) + generator.normal(0, 1, 120)
        keys = {"question": questions.tolist(), "behavior": behaviors.tolist()}
        p = skewed_p_value(clustered_mean(values, keys), values, behaviors)
        ends = clustered_mean(values, keys, level=1 - p)
        assert min(abs(ends.low), abs(ends.high)) == pytest.approx(0, abs=1e-6)


def test_a_step_adds_two_half_steps_to_the_squares():
    """Four questions, one of which moved: with a step of 1 the squares are 3/4 and 2 · 1/4 more, over 4 · 3."""
    values, clusters = [1.0, 0.0, 0.0, 0.0], {"question": list("abcd")}
    assert clustered_mean(values, clusters).stderr == pytest.approx(math.sqrt(0.75 / 12))
    assert clustered_mean(values, clusters, step=1).stderr == pytest.approx(math.sqrt(1.25 / 12))


def test_p_is_that_of_t():
    """p is 10% where an end of the two-sided interval at 90% lies at 0."""
    values, clusters = [0.0, 1.0, 0.5, 2.0], {"question": list("abcd")}
    wide = clustered_mean(values, clusters, level=0.9)
    moved = clustered_mean([value - wide.low for value in values], clusters)
    assert p_value(moved) == pytest.approx(0.1)


def test_values_that_do_not_vary():
    """Constant values have no standard error; with a span, the interval is what 171 questions may not have shown."""
    clusters = {"question": list(range(171))}
    bare = clustered_mean([0.0] * 171, clusters)
    assert (bare.value, bare.low, bare.high, bare.stderr) == (0.0, None, None, None)
    assert bare.method == "clustered by question: no variation, no interval"
    assert p_value(bare) is None
    assert clustered_mean([0.0] * 171, clusters, 0.9, span=1).high == pytest.approx(1 - 0.05 ** (1 / 171))
    assert clustered_mean([0.0] * 171, clusters, 0.9, span=1).high == pytest.approx(3 / 171, rel=0.02)


def test_one_cluster_has_no_interval():
    """One behavior says nothing about others: the mean stands without an interval, and nothing warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clustered_mean([0.0, 1.0], {"question": ["a", "b"], "behavior": ["x", "x"]}, span=1)
    assert (found.value, found.low, found.stderr, found.df) == (0.5, None, None, None)
    assert found.method == "clustered by question and behavior: one cluster, no interval"


def test_what_is_refused():
    """No values, values that aren't numbers, keys of another length and a third way of clustering are named."""
    with pytest.raises(SteerError, match="no values"):
        clustered_mean([], {"question": []})
    with pytest.raises(SteerError, match="finite"):
        clustered_mean([math.nan], {"question": ["a"]})
    with pytest.raises(SteerError, match="1 clusters by question for 2 values"):
        clustered_mean([1.0, 2.0], {"question": ["a"]})
    with pytest.raises(SteerError, match="give one or two"):
        clustered_mean([1.0], {})


numbers = st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30)


@given(numbers, st.integers(-3, 3), st.integers(1, 5))
def test_moving_and_scaling_the_values_moves_and_scales_the_interval(rows, shift, scale):
    """The interval of a + b·x is a + b times that of x, and doesn't depend on the order of the rows."""
    values, questions, behaviors = (np.array(column) for column in zip(*rows, strict=True))
    clusters = {"question": questions.tolist(), "behavior": behaviors.tolist()}
    first = clustered_mean(values, clusters, span=8)
    other = clustered_mean(
        (shift + scale * values)[::-1], {name: keys[::-1] for name, keys in clusters.items()}, span=8 * scale
    )
    assert other.value == pytest.approx(shift + scale * first.value)
    assert (other.low is None) == (first.low is None)
    if first.low is not None:
        assert other.low == pytest.approx(shift + scale * first.low)
        assert other.high == pytest.approx(shift + scale * first.high)
