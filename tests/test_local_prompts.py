"""Prompts that begin alike are read once, and nobody's answer or score depends on it."""

import asyncio
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local.apart import apart
from model_adapters.backends.local.memory import Footprint, prefix_bytes
from model_adapters.backends.local.prefixes import LEAST, Past, Prefixes, common_beginning, shared
from model_adapters.steering import CONTROL
from tests.tiny_backend import MANY_STEERINGS, Passes, added, alone, another_model, opened, run, together, user

QUESTION = "which of these is the one that was asked for?"


def read(passes):
    """How many tokens the passes of several tokens held."""
    return sum(rows * tokens for rows, tokens in passes.shapes if tokens > 1)


def test_one_prompt_under_many_response_steerings_is_read_once():
    """Steerings that leave the prompt alone share its reading with the control, and answer as they do alone."""
    steerings = [CONTROL, added(1), added(2, 3, -1.0), added(0, 5)]
    asked = [Request(user(QUESTION), steering, Sampling(max_tokens=6)) for steering in steerings]
    expected = []
    for request in asked:
        with opened() as backend:
            expected.append(alone(backend, request))
    with opened() as backend, Passes(backend.model) as passes:
        done = together(backend, asked)
    assert read(passes) == expected[0].tokens_in - 1
    assert [one.token_ids for one in done] == [one.token_ids for one in expected]
    assert [one.proof.response_tokens_touched for one in done] == [0, 6, 6, 6]
    assert [one.proof.prompt_tokens_touched for one in done] == [0] * 4
    assert [one.proof.first_response_token for one in done] == [False, True, True, True]


def test_a_prompt_that_is_steered_is_read_under_its_own_steering():
    """After the control has read the prompt, `all` and `prompt` steerings read it again, every token of it."""
    with opened() as backend:
        alone(backend, Request(user(QUESTION), CONTROL, Sampling(max_tokens=1)))
        for positions in ("all", "prompt"):
            with Passes(backend.model) as passes:
                done = alone(backend, Request(user(QUESTION), added(1, positions=positions), Sampling(max_tokens=1)))
            assert passes.shapes == [(1, done.tokens_in)]
            assert done.proof.prompt_tokens_touched == done.tokens_in - 1


def test_prompts_that_begin_alike_read_the_beginning_once():
    """Of three long prompts with one beginning, that is read in a pass of one row, and the ends in another."""
    beginning = "the same examples " * 6
    asked = [Request(Text(beginning + end), CONTROL, Sampling(max_tokens=3)) for end in ("one", "and two", "or three")]
    with opened() as backend:
        expected = [alone(backend, request) for request in asked]
    with opened() as backend, Passes(backend.model) as passes:
        done = together(backend, asked)
    longest = max(len(one.prompt.text) for one in asked)
    assert passes.shapes[:2] == [(1, len(beginning)), (3, longest - 1 - len(beginning))]
    assert [one.token_ids for one in done] == [one.token_ids for one in expected]


@pytest.mark.parametrize("steering", MANY_STEERINGS[:6])
def test_few_shot_examples_are_read_once_and_the_scores_stay(steering):
    """Questions behind the same examples score as alone, whatever the steering; the examples are shared where the
    steering leaves them alone."""
    examples = "an example and its answer. " * 4
    asked = [(f"{examples}question {n}?", " abc"[: 1 + n]) for n in range(3) for _ in range(2)]
    with opened() as backend:
        expected = [run(backend.score(Text(prompt), end, steering)) for prompt, end in asked]

    async def all_of(backend):
        return await asyncio.gather(*(backend.score(Text(prompt), end, steering) for prompt, end in asked))

    with opened() as backend, Passes(backend.model) as passes:
        scored = run(all_of(backend))
    for one, other in zip(scored, expected, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert one.proof.response_tokens_touched == other.proof.response_tokens_touched
        assert one.proof.prompt_tokens_touched == other.proof.prompt_tokens_touched
        assert one.proof.first_response_token == other.proof.first_response_token
    is_shared = all(act.positions == "response" for act, _ in steering.acts)
    assert (passes.shapes[0][0] == 1) == is_shared


def test_an_answer_is_scored_after_the_prompt_that_was_read_for_it():
    """Scoring a steered answer under the unsteered model reads the answer and one token of the prompt, no more."""
    with opened() as backend:
        done = alone(backend, Request(user(QUESTION), added(1), Sampling(max_tokens=9)))
        with Passes(backend.model) as passes:
            scored = run(backend.score(user(QUESTION), done.token_ids, CONTROL))
        assert passes.shapes == [(1, 9)]
    with opened() as backend:
        assert scored.logprobs == pytest.approx(
            run(backend.score(user(QUESTION), done.token_ids, CONTROL)).logprobs, abs=1e-4
        )


TOKENS = st.lists(st.integers(0, 2), max_size=40).map(tuple)


@given(TOKENS, TOKENS)
def test_shared_counts_equal_first_tokens(one, other):
    """As counted one by one."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    assert shared(one, other) == count
    assert common_beginning([one, other]) == count
    assert common_beginning([one]) == 0


def past_of(tokens):
    """Keys that spell the tokens."""
    keys = torch.tensor(tokens, dtype=torch.float32)[None, :, None]
    return Past(((keys, -keys),))


@given(st.lists(TOKENS.filter(bool), max_size=12), TOKENS.filter(bool))
def test_the_longest_known_beginning_is_found_within_the_budget(known, wanted):
    """What is found spells the beginning of what was asked for, is as long as any kept, and the bytes stay below."""
    prefixes = Prefixes(budget=60 * 8)
    for tokens in known:
        prefixes.keep(tokens, past_of(tokens))
        assert prefixes._bytes == sum(len(one) * 8 for one in prefixes._kept) <= 60 * 8
    best = max((shared(one, wanted) for one in prefixes._kept), default=0)
    found = prefixes.longest(wanted)
    if best < min(LEAST, len(wanted)):
        assert found is None
    else:
        assert found.layers[0][0][0, :, 0].tolist() == list(wanted[:best])


def test_an_eighth_of_the_budget_is_kept_at_most():
    """A small budget keeps little; a large one no more than the stated number of tokens."""
    cost = Footprint(layers=2, token_bytes=100)
    assert prefix_bytes(cost, 8000, torch.device("cpu")) == 1000
    assert prefix_bytes(cost, 10**9, torch.device("cpu")) == 4096 * 100


def test_work_apart_ends_its_thread_and_raises_its_error():
    """The result and the error come back, and the thread is gone."""
    assert apart(threading.get_ident) != threading.get_ident()
    assert not any(thread.name == "steer-load" for thread in threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 // 0)


def test_out_of_memory_in_a_step_begins_again_with_half_the_rows():
    """Rows that a step is too short of memory for are written anew, with the same tokens."""
    model = another_model()
    asked = [Request(user("x" * n), added(1), Sampling(max_tokens=8, temperature=0.8, seed=n)) for n in range(1, 6)]
    with opened(model) as backend:
        expected = [alone(backend, request) for request in asked]
    with opened(model) as backend:
        steps = []

        def fail(_model, _args, kwargs):
            rows, tokens = kwargs["input_ids"].shape
            steps.append(rows)
            if tokens == 1 and rows > 2:
                raise torch.OutOfMemoryError("out of memory")

        handle = model.register_forward_pre_hook(fail, with_kwargs=True)
        done = together(backend, asked)
        handle.remove()
    assert [one.token_ids for one in done] == [one.token_ids for one in expected]
    assert [one.proof.response_tokens_touched for one in done] == [8] * 5
