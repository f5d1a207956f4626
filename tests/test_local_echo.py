"""Answers that repeat themselves are checked many tokens at a time, and are the same answers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backend import Request, Sampling
from model_adapters.backends.local import echo
from model_adapters.backends.local.echo import ORDER, STREAK, Echo
from model_adapters.steering import CONTROL
from tests.tiny_backend import Passes, added, alone, opened, together, user


def heard(tokens):
    """An echo that took all the tokens."""
    one = Echo()
    for end in range(1, len(tokens) + 1):
        one.add(tokens[:end])
    return one


def test_nothing_is_guessed_before_a_loop_has_run_for_a_while():
    """A loop of three tokens is foreseen from the fifth token on, and guessed after a streak of right ones."""
    loop = [7, 8, 9] * 20
    for length in range(1, len(loop)):
        foreseen = max(0, length - ORDER - 3)
        guesses = heard(loop[:length]).guess(loop[:length], 5, STREAK)
        assert guesses == (loop[length : length + 5] if foreseen >= STREAK and len(loop) >= length + 5 else guesses)
        assert bool(guesses) == (foreseen >= STREAK)


def test_a_guess_goes_round_the_loop():
    """More tokens are guessed than a round of the loop has."""
    loop = [1, 2, 3, 4, 5, 6] * 6
    assert heard(loop).guess(loop, 15, STREAK) == [1, 2, 3, 4, 5, 6] * 2 + [1, 2, 3]
    assert heard(loop).guess(loop, 0, STREAK) == []


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 9))
def test_guesses_continue_the_last_time_the_ending_was_met(tokens, most):
    """Whatever the tokens: as many as asked for or none, each the one that followed the same place before."""
    guesses = heard(tokens).guess(tokens, most, STREAK)
    assert len(guesses) in (0, most)
    if guesses:
        ending = tokens[-ORDER:]
        earlier = max(n for n in range(ORDER, len(tokens)) if tokens[n - ORDER : n] == ending)
        whole = tokens + guesses
        assert guesses == whole[earlier : earlier + most]


LOUD = 1e4
"""A vector so large that the tiny model says the same again and again."""

REQUESTS = [
    Request(user("loop" * n), steering, Sampling(max_tokens=most, temperature=heat, top_p=0.9, seed=n))
    for n, (steering, most, heat) in enumerate(
        [
            (CONTROL, 60, 0.0),
            (added(3, 0, LOUD), 140, 0.0),
            (added(3, 3, LOUD, "all"), 61, 0.0),
            (added(3, 1, LOUD), 160, 0.01),
            (added(1, 4, 2.0), 50, 0.9),
        ],
        start=1,
    )
]


def without_guesses(monkeypatch):
    """From here on every token is written in a step of its own."""
    monkeypatch.setattr(echo, "STREAK", 10**9)
    monkeypatch.setattr(echo, "HINT", 10**9)


def everything(**options):
    """Answers together and then one alone, and the shapes of the passes."""
    with opened(**options) as backend, Passes(backend.model) as passes:
        done = together(backend, REQUESTS)
        done.append(alone(backend, Request(user("short"), added(3, 0, LOUD), Sampling(max_tokens=70))))
    return done, passes.shapes


def same(done, expected):
    """Tokens, ends and proofs are equal."""
    for one, other in zip(done, expected, strict=True):
        assert one.token_ids == other.token_ids
        assert one.stop_reason == other.stop_reason
        assert one.proof.response_tokens_touched == other.proof.response_tokens_touched
        assert one.proof.prompt_tokens_touched == other.proof.prompt_tokens_touched
        assert one.proof.first_response_token == other.proof.first_response_token
        for mine, theirs in zip(one.proof.doses, other.proof.doses, strict=True):
            assert mine.dose == pytest.approx(theirs.dose, rel=1e-4)


@pytest.mark.parametrize("options", [{}, {"rows": 2}, {"kv_memory_mb": 1}])
def test_answers_that_loop_take_few_passes_and_stay_as_they_are(monkeypatch, options):
    """Greedy and sampled, steered and not, alone and beside others: the same tokens and proofs, in fewer passes."""
    done, passes = everything(**options)
    without_guesses(monkeypatch)
    expected, steps = everything(**options)
    same(done, expected)
    assert len(passes) < 0.85 * len(steps)
    assert {tokens for rows, tokens in passes if rows == 1} > {1, 32}


@pytest.mark.parametrize("wrong_at", [0, 1, 5, 30])
def test_a_wrong_guess_changes_nothing(monkeypatch, wrong_at):
    """Guesses that go wrong at some place are taken up to there, and measured up to there."""
    without_guesses(monkeypatch)
    expected, _ = everything()
    known = {one.token_ids[:count]: one.token_ids for one in expected for count in range(2, len(one.token_ids))}

    def guess(_self, tokens, most, _streak):
        whole = known.get(tuple(tokens), ())
        guessed = list(whole[len(tokens) : len(tokens) + most])
        if len(tokens) % 3 or len(guessed) <= wrong_at:
            return []
        guessed[wrong_at] = (guessed[wrong_at] + 1) % 200
        return guessed

    monkeypatch.setattr(Echo, "guess", guess)
    done, passes = everything()
    same(done, expected)
    assert any(tokens > wrong_at + 1 for rows, tokens in passes[2:])


def test_a_stop_string_inside_a_checked_run_ends_the_answer_there(monkeypatch):
    """A token limit and a stop string are met at the same token as in single steps."""
    loud = added(3, 0, LOUD)
    with opened() as backend:
        whole = alone(backend, Request(user(), loud, Sampling(max_tokens=90)))
        token = backend.encoding.decode(whole.token_ids[-1:])
    samplings = [Sampling(max_tokens=most) for most in (29, 30, 31, 62)] + [Sampling(max_tokens=90, stop=(token * 40,))]
    asked = [Request(user(), loud, sampling) for sampling in samplings]

    def answers():
        with opened() as backend:
            return [alone(backend, request) for request in asked]

    done = answers()
    without_guesses(monkeypatch)
    same(done, answers())
    assert [one.stop_reason for one in done] == ["max_tokens"] * 4 + ["stop_string" if token else "max_tokens"]
