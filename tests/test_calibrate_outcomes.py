"""Budgets and objectives: how they are written, and what is refused."""

import string
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.errors import SteerError
from steer_tasks.calibrate.outcomes import LOSSES, OBJECTIVES, check_judged, chosen_objective, parse_budgets


@given(st.dictionaries(st.sampled_from(sorted(LOSSES)), st.floats(1e-9, 1e9), min_size=1))
def test_budgets_are_read_back_as_they_were_written(budgets):
    """NAME:NUMBER with commas between gives the same names and numbers in the same order."""
    text = ", ".join(f"{name}: {value!r}" for name, value in budgets.items())
    assert list(parse_budgets(text).items()) == list(budgets.items())


@given(st.text(string.printable, max_size=30))
def test_any_text_is_budgets_or_a_refusal_in_one_line(text):
    """No text ends in another error than ours, or in no budget at all."""
    with suppress(SteerError):
        assert parse_budgets(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("margn:0.1", "did you mean margin?"),
        ("xyz:0.1", "there are accuracy, letter, margin"),
        ("margin:0.1,margin:0.2", "given twice"),
        ("margin", "margin:NUMBER"),
        ("margin:-1", "above 0"),
        ("margin:0", "above 0"),
        ("margin:nan", "finite"),
        ("margin:inf", "finite"),
        ("", "nothing called ''"),
    ],
)
def test_what_is_no_budget_is_refused_by_name(text, said):
    """A misspelt name, a repeated one and a number that isn't above 0 are refused with the remedy."""
    with pytest.raises(SteerError) as caught:
        parse_budgets(text)
    assert said in str(caught.value)


def test_the_objective_is_what_can_be_measured():
    """Without a name it is the behavior where there is a judge and llr where there is none; a name wins."""
    assert chosen_objective(None, "openai/x").name == "behavior"
    assert chosen_objective(None, None).name == "llr"
    assert chosen_objective("llr", "openai/x").name == "llr"
    with pytest.raises(SteerError, match="behavior and llr"):
        chosen_objective("fun", None)


def test_without_a_judge_everything_judged_is_refused_by_name():
    """The objective and each budget that only a judge can tell are named, with what is free of one."""
    with pytest.raises(SteerError) as caught:
        check_judged(OBJECTIVES["behavior"], {"margin": 0.1, "coherence": 0.3}, None)
    assert "--objective behavior and --budget coherence" in str(caught.value)
    assert "accuracy, letter, margin, nll, repeated, kl" in str(caught.value)
    check_judged(OBJECTIVES["llr"], {"margin": 0.1}, None)
    with pytest.raises(SteerError, match="nothing to judge"):
        check_judged(OBJECTIVES["llr"], {"margin": 0.1}, "openai/x")
