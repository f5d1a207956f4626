"""Answers of the local engine: the same alone and in company, ended where they should be, counted as they are."""

import asyncio
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model_adapters.backend import Message, Request, Sampling, Text, check_applied
from model_adapters.backends.encoding import Encoding
from model_adapters.backends.local.generation import Ending, Row
from model_adapters.backends.local.tokens import Dice, kept_probabilities
from model_adapters.errors import NotApplied, Refused
from model_adapters.steering import CONTROL, AblateDirection, AddVector, Steering
from tests.tiny_backend import (
    MANY_STEERINGS,
    Passes,
    ablate,
    added,
    alone,
    another_model,
    clamp,
    opened,
    run,
    tiny,
    together,
    user,
    vector,
)

TWENTY = Sampling(max_tokens=20)
GREEDY_GAP, BOUNDARY = 1e-3, 1e-3


def assert_same_answer(backend, request, one, other):
    """Equal up to the first step where float noise may decide: a small top-two gap, or a roll near a boundary."""
    a, b = one.token_ids, other.token_ids
    step = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if step == len(a) == len(b):
        return
    table = run(backend.distributions(request.prompt, a[: step + 1], request.steering))
    best = np.sort(table[step])[::-1]
    if request.sampling.is_greedy:
        assert best[0] - best[1] < GREEDY_GAP, f"step {step} differs for no reason"
        return
    dice = Dice(request.sampling.seed, request.sample_index)
    roll = [dice.roll() for _ in range(step + 1)][step]
    bounds = kept_probabilities(torch.tensor(table[step]), request.sampling).cumsum(0)
    assert float((bounds - roll).abs().min()) < BOUNDARY, f"step {step} differs for no reason"


def mixed_requests():
    """16 requests: 8 steerings, greedy and sampled, prompts of many lengths."""
    hot = Sampling(max_tokens=20, temperature=1.0, top_p=0.9, seed=3)
    return [
        Request(user("hello " * (1 + 3 * number)), steering, sampling)
        for number, steering in enumerate(MANY_STEERINGS)
        for sampling in (TWENTY, hot)
    ]


def test_a_mixed_batch_equals_each_request_alone():
    """16 requests under 8 steerings in one batch: each is answered as alone, and proves its own steering."""
    requests = mixed_requests()
    with opened() as backend:
        with Passes(backend.model) as passes:
            both = together(backend, requests)
        assert max(rows for rows, _ in passes.shapes) == 16
        for request, done in zip(requests, both, strict=True):
            single = alone(backend, request)
            assert_same_answer(backend, request, done, single)
            check_applied(request.steering, done.proof, backend.identity)
            assert done.messages_sent == single.messages_sent
            assert done.proof.fingerprint == request.steering.fingerprint
            if done.token_ids == single.token_ids:
                assert done.text == single.text
                assert_proofs_agree(done.proof, single.proof)
    assert len({done.token_ids for done in both}) > 8


def assert_proofs_agree(one, other):
    """Equal counts; doses up to float noise."""
    assert one.prompt_tokens_touched == other.prompt_tokens_touched
    assert one.response_tokens_touched == other.response_tokens_touched
    assert one.first_response_token == other.first_response_token
    assert [dose.layer for dose in one.doses] == [dose.layer for dose in other.doses]
    for a, b in zip(one.doses, other.doses, strict=True):
        assert a.dose == pytest.approx(b.dose, rel=1e-4)
        assert (a.first_position_dose is None) == (b.first_position_dose is None)
        assert (a.first_position_dose or 0.0) == pytest.approx(b.first_position_dose or 0.0, rel=1e-4)


ZEROS = {
    "empty": Steering(),
    "coefficient 0": Steering((AddVector(1, vector(0), 0.0, "all"),)),
    "zero vector": Steering((AddVector(1, np.zeros(32, np.float32), 2.0),)),
    "scaled(0)": (added(2) + Steering((ablate(1),))).scaled(0),
    "fraction 0": Steering((AblateDirection(1, vector(0), 0.0, "all"),)),
}


@pytest.mark.parametrize("zero", ZEROS.values(), ids=ZEROS)
def test_zero_equals_the_control_bit_for_bit(zero):
    """At equal batching, text, tokens, log-probabilities and whole distributions are those of the control."""
    texts = ["one", "and two", "and a third one"]
    with opened() as backend:
        control, steered = (
            together(backend, [Request(user(text), one, TWENTY) for text in texts]) for one in (CONTROL, zero)
        )
        assert [done.token_ids for done in control] == [done.token_ids for done in steered]
        assert [done.text for done in control] == [done.text for done in steered]
        assert run(backend.score(user(), "abc")).logprobs == run(backend.score(user(), "abc", zero)).logprobs
        bare, same = (torch.tensor(run(backend.distributions(user(), "abc", one))) for one in (CONTROL, zero))
        assert torch.equal(bare, same)
        for done in steered:
            assert (done.proof.response_tokens_touched, done.proof.doses) == (0, ())


def test_a_control_row_beside_steered_rows_is_the_control_bit_for_bit():
    """At equal batching, what the neighbours carry leaves a row's distribution as it is."""

    async def tables(backend, neighbour):
        ask = [backend.distributions(user(), "abc", one) for one in (CONTROL, neighbour, neighbour)]
        return (await asyncio.gather(*ask))[0]

    with opened() as backend:
        among_zeros = run(tables(backend, added(1, coefficient=0.0)))
        among_steered = run(tables(backend, added(1) + Steering((clamp(1), ablate(2)))))
    assert np.array_equal(among_zeros, among_steered)


def test_a_repeated_request_is_bit_equal():
    """The same batch twice gives the same tokens, and the same distribution to the last bit."""
    requests = mixed_requests()
    with opened() as backend:
        first, again = together(backend, requests), together(backend, requests)
        assert [done.token_ids for done in first] == [done.token_ids for done in again]
        for steering in MANY_STEERINGS:
            one, other = (run(backend.distributions(user(), "abc", steering)) for _ in range(2))
            assert np.array_equal(one, other)


@pytest.mark.parametrize("text", ["a", "hello", "The quick brown fox " * 5])
def test_greedy_text_is_that_of_transformers(text):
    """Without steering the tokens are those of transformers' own greedy search."""
    model, tokenizer = tiny()
    ids = tokenizer(text, return_tensors="pt").input_ids
    expected = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :].tolist()
    with opened() as backend:
        done = alone(backend, Request(Text(text), CONTROL, Sampling(max_tokens=40)))
    assert list(done.token_ids) == expected
    assert done.text == tokenizer.decode(expected, skip_special_tokens=True)


HOT = Sampling(max_tokens=16, temperature=1.0, seed=11)


def test_a_sample_is_decided_by_seed_and_index_alone():
    """Neighbours, their number and their order leave a sampled answer as it is; another seed or index changes it."""
    mine = Request(user("mine"), added(1), HOT)
    short = [Sampling(max_tokens=9, temperature=1.0, seed=n) for n in range(5)]
    crowd = [Request(user("other " * n), added(2, n), sampling) for n, sampling in enumerate(short)]
    with opened() as backend:
        single = alone(backend, mine)
        last, first = together(backend, [*crowd, mine])[-1], together(backend, [mine, *crowd])[0]
        assert_same_answer(backend, mine, single, last)
        assert_same_answer(backend, mine, single, first)
        index, seed = (
            alone(backend, Request(user("mine"), added(1), sampling, sample_index))
            for sampling, sample_index in ((HOT, 1), (Sampling(max_tokens=16, temperature=1.0, seed=12), 0))
        )
    assert len({single.token_ids, index.token_ids, seed.token_ids}) == 3
    assert (single.seed, seed.seed) == (11, 12)


def test_a_fresh_seed_is_recorded_and_gives_the_answer_again():
    """Without a seed one is drawn, and asking with it repeats the answer; greedy answers have none."""
    with opened() as backend:
        one, other = (
            alone(backend, Request(user(), CONTROL, Sampling(max_tokens=16, temperature=1.0))) for _ in range(2)
        )
        again = alone(backend, Request(user(), CONTROL, Sampling(max_tokens=16, temperature=1.0, seed=one.seed)))
        greedy = alone(backend, Request(user(), CONTROL, Sampling(max_tokens=16, seed=5)))
    assert one.seed != other.seed
    assert again.token_ids == one.token_ids
    assert greedy.seed is None


def bytes_row(data, stop, max_tokens=10_000):
    """A row that has written these bytes so far, and how it ends."""
    tokenizer = tiny()[1]
    ids = tokenizer.encode(data, add_special_tokens=False)
    row = Row(Request(Text("x"), CONTROL, Sampling(max_tokens=max_tokens, stop=stop)), [1], None, [])
    return ids, row, Ending(Encoding(tokenizer), frozenset([2]), 100_000)


TEXTS = st.text(st.sampled_from("ab \né漢😀"), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXTS, st.lists(st.text(st.sampled_from("ab \né漢😀"), min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_row_ends_at_the_first_token_that_completes_a_stop_string(text, stops):
    """Byte by byte, a row goes on until its text holds a stop string, and its text ends before the first one."""
    ids, row, ending = bytes_row(text, tuple(stops))
    tokenizer = tiny()[1]
    for token in ids:
        row.tokens.append(token)
        shown = tokenizer.decode(row.tokens)
        found = [shown.index(stop) for stop in stops if stop in shown]
        assert ending.reason(row) == ("stop_string" if found else None)
        if found:
            assert ending.text(row) == shown[: min(found)]
            return
    assert ending.text(row) == text


def test_a_stop_string_spans_tokens():
    """A stop string of several tokens ends the answer before it; the tokens count up to the one that completes it."""
    with opened() as backend:
        whole = alone(backend, Request(user(), CONTROL, Sampling(max_tokens=60)))
        text = whole.text
        stop = text[5:8]
        done = alone(backend, Request(user(), CONTROL, Sampling(max_tokens=60, stop=(stop, "never there"))))
    assert done.stop_reason == "stop_string"
    assert done.text == text[: text.index(stop)]
    assert done.token_ids == whole.token_ids[: done.tokens_out]
    tokenizer = tiny()[1]
    assert stop in tokenizer.decode(done.token_ids, skip_special_tokens=True)
    assert stop not in tokenizer.decode(done.token_ids[:-1], skip_special_tokens=True)


def test_a_special_tokens_spelling_stops():
    """A stop string that is a special token's spelling works, though answers never show such tokens."""
    ids, row, ending = bytes_row("ab<|im_start|>", ("<|im_start|>",))
    row.tokens = ids
    assert ids[-1] == 1
    assert ending.reason(row) == "stop_string"
    assert ending.text(row) == "ab"


def test_each_row_has_its_own_token_limit():
    """Rows of one batch end at their own limits, and what leaves makes the batch narrower."""
    limits = [3, 9, 1, 6]
    with opened() as backend, Passes(backend.model) as passes:
        done = together(backend, [Request(user(), CONTROL, Sampling(max_tokens=limit)) for limit in limits])
    assert [(one.tokens_out, one.stop_reason) for one in done] == [(limit, "max_tokens") for limit in limits]
    assert [shape[0] for shape in passes.shapes] == [1, 4, 3, 3, 2, 2, 2, 1, 1, 1]
    assert len({one.token_ids[:1] for one in done}) == 1


def test_rows_that_stay_keep_their_steering_when_others_leave():
    """After a neighbour has ended, a row is steered as before and its proof counts every step."""
    limits = [2, 12, 5, 12]
    steerings = [added(1), Steering((ablate(2, positions="all"),)), CONTROL, Steering((clamp(2),)) + added(1, 9)]
    requests = [
        Request(user("hi " * n), steering, Sampling(max_tokens=limit))
        for n, (steering, limit) in enumerate(zip(steerings, limits, strict=True), 1)
    ]
    with opened() as backend:
        for request, done in zip(requests, together(backend, requests), strict=True):
            single = alone(backend, request)
            assert_same_answer(backend, request, done, single)
            assert_proofs_agree(done.proof, single.proof)
            assert done.tokens_out == request.sampling.max_tokens


def test_the_end_token_ends_an_answer():
    """An answer ends at an end token of the generation config, which is counted and not shown."""
    with opened() as backend:
        free = alone(backend, Request(user(), CONTROL, TWENTY))
    place = next(i for i in range(3, 20) if free.token_ids[i] not in free.token_ids[:i])
    model = another_model()
    model.generation_config.eos_token_id = [2, free.token_ids[place]]
    with opened(model) as backend:
        done = alone(backend, Request(user(), added(1, coefficient=0.0), TWENTY))
    assert (done.stop_reason, done.tokens_out) == ("stop", place + 1)
    assert done.token_ids == free.token_ids[: place + 1]
    assert done.text == tiny()[1].decode(free.token_ids[:place], skip_special_tokens=True)


def test_an_answer_ends_where_the_context_does():
    """Prompt and answer together fill the context and no more."""
    with opened(max_length=15) as backend:
        done = alone(backend, Request(Text("a" * 10), CONTROL, TWENTY))
    assert (done.tokens_in, done.tokens_out, done.stop_reason) == (10, 5, "context_length")


def test_a_prompt_that_leaves_no_room_is_refused():
    """A prompt that fills the context is refused before any pass, with its length and the room there is."""
    with opened(max_length=15) as backend, Passes(backend.model) as passes:
        with pytest.raises(Refused, match=r"the prompt has 15 tokens, the model takes 15"):
            alone(backend, Request(Text("a" * 15)))
        with pytest.raises(Refused, match="the prompt is empty"):
            alone(backend, Request(Text("")))
        with pytest.raises(Refused, match="no messages"):
            alone(backend, Request(()))
    assert passes.shapes == []


def test_the_messages_sent_are_reported():
    """A system prompt is in the messages sent and in the tokens; a rendered text has no messages."""
    steering = MANY_STEERINGS[6]
    with opened() as backend:
        done = alone(backend, Request(user("hi"), steering, TWENTY))
        plain = alone(backend, Request(Text(backend.render(done.messages_sent)), CONTROL, TWENTY))
    assert done.messages_sent == (Message("system", "Be brief."), Message("user", "hi"))
    assert plain.messages_sent is None
    assert (plain.token_ids, plain.tokens_in) == (done.token_ids, done.tokens_in)


def test_logits_that_are_not_finite_are_never_an_answer():
    """A model whose output is NaN fails the row instead of repeating one token."""
    model = another_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    for sampling in (TWENTY, HOT):
        with opened(model) as backend, pytest.raises(NotApplied, match="not finite"):
            alone(backend, Request(user(), CONTROL, sampling))


def test_more_requests_than_rows_are_answered_in_order():
    """`rows` bounds the rows of a pass; every request gets its own answer."""
    requests = [Request(user(f"number {n}"), added(1, n), Sampling(max_tokens=5)) for n in range(7)]
    with opened(rows=3) as backend:
        with Passes(backend.model) as passes:
            done = together(backend, requests)
        assert max(shape[0] for shape in passes.shapes) == 3
        for request, one in zip(requests, done, strict=True):
            assert_same_answer(backend, request, one, alone(backend, request))
            assert one.proof.fingerprint == request.steering.fingerprint
