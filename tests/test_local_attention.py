"""Rows of different lengths are attended to in groups, without the columns that none of a group has."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from model_adapters.backends.local.attention import CALL, NAME, RowAttention, RowGroup, grouped_attention, row_groups
from tests.tiny_model import tiny_model

LENGTHS = st.lists(st.integers(1, 700), min_size=1, max_size=20)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama with grouped heads."""
    return AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path_factory.mktemp("attention")))


def cost(groups: tuple[RowGroup, ...], width: int) -> int:
    """What the groups cost, counted plainly."""
    return sum((group.rows.stop - group.rows.start) * (width - group.skipped) + CALL for group in groups)


@given(LENGTHS)
def test_groups_cut_the_rows_and_skip_only_what_none_of_them_has(lengths):
    """Groups lie behind one another, hold every row once, and skip exactly what lies before their longest row."""
    width = max(lengths) + 1
    groups = row_groups(lengths, width)
    assert groups[0].rows.start == 0
    assert groups[-1].rows.stop == len(lengths)
    assert all(one.rows.stop == other.rows.start for one, other in pairwise(groups))
    assert all(group.skipped == width - max(lengths[group.rows]) for group in groups)


@given(st.lists(st.integers(1, 700), min_size=1, max_size=7))
def test_no_other_cut_is_cheaper(lengths):
    """Of all ways to cut the rows, the chosen one costs least."""
    width = max(lengths)
    cheapest = min(
        cost(tuple(RowGroup(slice(a, b), width - max(lengths[a:b])) for a, b in pairwise(cuts)), width)
        for chosen in range(2 ** (len(lengths) - 1))
        for cuts in [[0, *(n for n in range(1, len(lengths)) if chosen >> (n - 1) & 1), len(lengths)]]
    )
    assert cost(row_groups(lengths, width), width) == cheapest


def test_rows_of_one_length_are_one_group():
    """Rows of about one length are attended to together, a long one beside short ones apart."""
    assert row_groups([200, 190, 195], 200) == (RowGroup(slice(0, 3), 0),)
    assert row_groups([900, 100, 100], 900) == (RowGroup(slice(0, 1), 0), RowGroup(slice(1, 3), 800))


@pytest.mark.parametrize("new", [1, 4])
def test_groups_change_no_attention(new):
    """In float32 attention by groups is that over the whole width, for grouped heads, single tokens and several."""
    generator = torch.Generator().manual_seed(0)
    lengths, width = [40, 9, 12, 3], 41
    key, value = (torch.randn(4, 2, width + new, 8, generator=generator) for _ in range(2))
    query = torch.randn(4, 6, new, 8, generator=generator)
    columns = torch.arange(width + new)
    mask = torch.stack(
        [
            (columns[None] >= width - length) & (columns[None] <= width + torch.arange(new)[:, None])
            for length in lengths
        ]
    )[:, None]
    module = SimpleNamespace(num_key_value_groups=3, is_causal=True)
    whole, _ = sdpa_attention_forward(module, query, key, value, mask)
    key.row_groups = (RowGroup(slice(0, 1), 1), RowGroup(slice(1, 4), width - 12))
    grouped, _ = grouped_attention(module, query, key, value, mask)
    torch.testing.assert_close(grouped, whole, rtol=0, atol=1e-6)
    assert grouped.shape == whole.shape == (4, new, 6, 8)


def test_attention_by_groups_ends_with_the_pass(model):
    """Outside of a pass of the store the model's attention is transformers' own, after an error too."""
    attention = RowAttention(model)
    assert model.config._attn_implementation == "sdpa"
    with attention.on():
        assert model.config._attn_implementation == NAME
    with pytest.raises(RuntimeError, match="in between"), attention.on():
        raise RuntimeError("in between")
    assert model.config._attn_implementation == "sdpa"


def test_another_attention_is_left_alone(model):
    """A model that attends eagerly goes on doing so."""
    model.set_attn_implementation("eager")
    try:
        with RowAttention(model).on():
            assert model.config._attn_implementation == "eager"
    finally:
        model.set_attn_implementation("sdpa")
