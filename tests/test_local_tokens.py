"""Choosing a token: against numpy for the draw, against transformers' own warpers for what is kept."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from model_adapters.backend import Sampling
from model_adapters.backends.local.tokens import NUCLEUS_GUESS, Dice, drawn, kept_probabilities, likely

LOGITS = st.lists(st.integers(-400, 400), min_size=2, max_size=40, unique=True).map(
    lambda numbers: torch.tensor(numbers, dtype=torch.float32) / 25
)
TEMPERATURES = st.floats(0.2, 3.0)
ROLLS = st.floats(0.0, 1.0, exclude_max=True)


def chances_by_numpy(logits, temperature):
    """Softmax in float64."""
    scaled = logits.numpy().astype("f8") / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


@settings(deadline=None)
@given(LOGITS, TEMPERATURES, ROLLS)
def test_the_draw_inverts_the_cumulative_distribution(logits, temperature, roll):
    """The token is the first whose cumulative probability, in vocabulary order, exceeds the roll."""
    bounds = chances_by_numpy(logits, temperature).cumsum()
    assume(abs(bounds - roll).min() > 1e-9)
    expected = int(np.searchsorted(bounds, roll, side="right"))
    assert drawn(logits, Sampling(temperature=temperature), roll) == min(expected, len(bounds) - 1)


@settings(deadline=None)
@given(LOGITS, TEMPERATURES, st.none() | st.integers(1, 50), st.none() | st.floats(0.01, 0.999))
def test_what_is_kept_is_what_transformers_keeps(logits, temperature, top_k, top_p):
    """Temperature, top-k and top-p leave the tokens and probabilities that transformers' warpers leave."""
    scores = TemperatureLogitsWarper(temperature)(None, logits[None].double())
    if top_k is not None:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p is not None:
        mass = torch.softmax(scores, -1)[0].sort(descending=True).values.cumsum(0)
        assume(float((mass - top_p).abs().min()) > 1e-9)
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = torch.softmax(scores, -1)[0]
    kept = kept_probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p or 1.0))
    assert torch.equal(kept > 0, expected > 0)
    torch.testing.assert_close(kept, expected, atol=1e-12, rtol=1e-9)


@settings(deadline=None)
@given(LOGITS, TEMPERATURES, st.integers(1, 50), st.floats(0.01, 1.0), ROLLS)
def test_a_token_that_was_cut_is_never_drawn(logits, temperature, top_k, top_p, roll):
    """Only kept tokens come out, at every roll up to the largest there is."""
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    kept = kept_probabilities(logits, sampling)
    for one in (roll, 0.0, float(np.nextafter(1.0, 0.0))):
        assert kept[drawn(logits, sampling, one)] > 0


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_a_large_vocabulary_has_the_nucleus_that_a_full_sort_finds(spread, top_p):
    """Whether the nucleus is small or spans most of the vocabulary, it is that of sorting all of it."""
    size = 8 * NUCLEUS_GUESS
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0)) * spread
    chances = chances_by_numpy(logits, 1.0)
    order = np.argsort(-chances, kind="stable")
    before = chances[order].cumsum() - chances[order]
    expected = np.zeros(size, dtype=bool)
    expected[order[before < top_p]] = True
    kept = kept_probabilities(logits, Sampling(temperature=1.0, top_p=top_p))
    assert np.array_equal(kept.numpy() > 0, expected)


def test_among_equally_likely_tokens_the_first_are_kept():
    """Ties at the edge of the nucleus are broken by the vocabulary's order, however many there are."""
    kept = kept_probabilities(torch.zeros(2 * NUCLEUS_GUESS), Sampling(temperature=1.0, top_p=0.25))
    assert kept.nonzero()[:, 0].tolist() == list(range(NUCLEUS_GUESS // 2))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_a_very_low_temperature_takes_the_most_likely_token(temperature):
    """Dividing by next to nothing gives no infinity or NaN."""
    logits = torch.tensor([1.0, 3.0, 2.0])
    assert kept_probabilities(logits, Sampling(temperature=temperature)).tolist() == [0.0, 1.0, 0.0]
    assert drawn(logits, Sampling(temperature=temperature), 0.999) == 1


def test_the_most_likely_token_of_each_row():
    """Greedy is the argmax, row by row."""
    assert likely(torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.0]])).tolist() == [1, 0]


def rolls(seed, sample_index):
    """The first few."""
    dice = Dice(seed, sample_index)
    return [dice.roll() for _ in range(5)]


@settings(deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 1000))
def test_rolls_are_decided_by_seed_and_sample_alone(seed, sample_index):
    """The same seed and sample index give the same rolls; another sample index gives others."""
    assert rolls(seed, sample_index) == rolls(seed, sample_index)
    assert rolls(seed, sample_index) != rolls(seed, sample_index + 1)
    assert all(0.0 <= roll < 1.0 for roll in rolls(seed, sample_index))
