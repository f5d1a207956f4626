"""Continuous batching: rows come and go between steps, and nobody's answer depends on it."""

import asyncio
import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from model_adapters.backend import Request, Sampling
from model_adapters.backends.local.prefixes import rows_of
from model_adapters.backends.local.store import SLACK, KeyValueStore
from model_adapters.errors import Refused
from model_adapters.steering import CONTROL
from tests.tiny_backend import MANY_STEERINGS, Passes, added, alone, another_model, opened, run, together, user

HEADS, DIM, LAYERS = 2, 3, 2


class Twin:
    """What a store should hold: for every row the list of its tokens' keys, one number each."""

    def __init__(self, columns):
        self.store = KeyValueStore(LAYERS, 4, columns, torch.device("cpu"))
        self.rows: list[list[float]] = []
        self.count = 0.0

    def fresh(self, number):
        made = [self.count + i for i in range(1, number + 1)]
        self.count += number
        return made

    def insert(self, lengths):
        new = [self.fresh(length) for length in lengths]
        width = max(lengths)
        cache = DynamicCache()
        for layer in range(LAYERS):
            keys = torch.full((len(new), HEADS, width, DIM), -1.0)
            for place, row in enumerate(new):
                keys[place, :, width - len(row) :] = torch.tensor(row)[None, :, None] + 1000 * layer
            cache.update(keys, -keys, layer)
        self.store.insert(rows_of(cache, range(len(new)), lengths))
        self.rows += new

    def step(self):
        self.store.begin_step()
        added_keys = self.fresh(len(self.rows))
        seen = []
        for number, layer in enumerate(self.store.layers):
            keys = torch.tensor(added_keys)[:, None, None, None].expand(-1, HEADS, 1, DIM) + 1000 * number
            seen.append(layer.update(keys, -keys))
        attention = self.store.attention.clone()
        self.store.end_step()
        for row, key in zip(self.rows, added_keys, strict=True):
            row.append(key)
        for number, (keys, values) in enumerate(seen):
            for place, row in enumerate(self.rows):
                mask = attention[place].bool()
                assert keys.shape[2] == attention.shape[1] == max(map(len, self.rows)) + self.store.spare
                expected = torch.tensor(row)[None, :, None].expand(HEADS, -1, DIM) + 1000 * number
                assert torch.equal(keys[place][:, mask], expected)
                assert torch.equal(values[place], -keys[place])

    def ahead(self, place, tokens, kept):
        place = place % len(self.rows)
        needed = self.store.columns_ahead(place, tokens)
        if self.store.columns < needed:
            self.store = self.store.resized(4, needed)
        attention = self.store.begin_ahead(place, tokens)
        fresh = self.fresh(tokens)
        for number, layer in enumerate(self.store.layers):
            keys = torch.tensor(fresh)[None, None, :, None].expand(1, HEADS, -1, DIM) + 1000 * number
            seen, values = layer.update(keys, -keys)
            assert seen.shape[2] == attention.shape[1]
            expected = torch.tensor([*self.rows[place], *fresh])[None, :, None].expand(HEADS, -1, DIM) + 1000 * number
            assert torch.equal(seen[0][:, attention[0].bool()], expected)
            assert torch.equal(values, -seen)
        self.store.end_ahead(min(kept, tokens))
        self.rows[place] += fresh[: min(kept, tokens)]

    def keep(self, staying):
        order = self.store.keep(staying)
        assert sorted(order) == sorted(staying)
        self.rows = [self.rows[place] for place in order]


MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.lists(st.integers(1, 9), min_size=1, max_size=3)),
        st.tuples(st.just("step"), st.integers(1, 6)),
        st.tuples(st.just("keep"), st.sets(st.integers(0, 3))),
        st.tuples(st.just("resize"), st.integers(40, 60)),
        st.tuples(st.just("ahead"), st.tuples(st.integers(0, 3), st.integers(2, 9), st.integers(1, 9))),
    ),
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(MOVES)
def test_the_store_holds_every_rows_keys_whatever_comes_and_goes(moves):
    """After any joining, leaving, stepping, moving and resizing, each row sees its own keys in order and no others."""
    twin = Twin(24)
    for kind, what in moves:
        if kind == "insert" and len(twin.rows) + len(what) <= 4:
            twin.insert(what)
        elif kind == "keep":
            twin.keep([place for place in range(len(twin.rows)) if place in what])
        elif kind == "resize" and twin.rows and twin.store.columns < what:
            twin.store = twin.store.resized(4, what)
        elif kind == "ahead" and twin.rows:
            twin.ahead(*what)
        elif kind == "step":
            for _ in range(what):
                if twin.rows and max(map(len, twin.rows)) < twin.store.columns - 1 - twin.store.spare:
                    if twin.store.end == twin.store.columns:
                        twin.store = twin.store.resized(4, twin.store.width + what)
                    twin.step()


def requests(number, most=30):
    """Of different lengths, limits, steerings and samplings."""
    return [
        Request(
            user("ab" * (1 + n * 5 % 11)),
            MANY_STEERINGS[n % len(MANY_STEERINGS)],
            Sampling(max_tokens=1 + n * 7 % most, temperature=0.7 * (n % 3 == 0), seed=n),
        )
        for n in range(number)
    ]


def test_answers_do_not_depend_on_who_comes_and_goes():
    """24 requests through 3 rows, joining as others leave, get the answers each gets alone."""
    asked = requests(24)
    with opened() as backend:
        singly = [alone(backend, request) for request in asked]
    with opened(rows=3) as backend, Passes(backend.model) as passes:
        done = together(backend, asked)
    assert max(rows for rows, _ in passes.shapes) == 3
    for one, other in zip(done, singly, strict=True):
        assert one.token_ids == other.token_ids
        assert one.proof.response_tokens_touched == other.proof.response_tokens_touched


def test_a_row_that_ends_is_replaced_before_the_next_step():
    """With two rows and one long answer, short ones pass through the other row while it is written."""
    long = Request(user("long"), CONTROL, Sampling(max_tokens=40))
    short = [Request(user("s" * n), CONTROL, Sampling(max_tokens=5)) for n in range(1, 6)]
    with opened(rows=2) as backend, Passes(backend.model) as passes:
        together(backend, [long, *short])
    steps = [rows for rows, tokens in passes.shapes if tokens == 1]
    assert len(steps) == 40
    assert steps.count(2) == 5 * len(short)


def test_a_request_joins_while_another_is_written():
    """A request that arrives later is admitted between steps and finishes before the long one does."""
    with opened() as backend:

        async def work():
            long = asyncio.create_task(backend.complete(Request(user("l"), CONTROL, Sampling(max_tokens=800))))
            await asyncio.sleep(0.1)
            short = await backend.complete(Request(user("s"), added(1), Sampling(max_tokens=3)))
            was_done = long.done()
            return short, was_done, await long

        short, was_done, long = run(work())
    assert not was_done
    assert short.tokens_out == 3
    assert long.tokens_out == 800


def test_equal_greedy_requests_are_written_once():
    """Six requests of two kinds are two rows; a repeated one costs nothing; samples are each written."""
    one, two = (Request(user(), steering, Sampling(max_tokens=8)) for steering in (CONTROL, added(1)))
    hot = [Request(user(), CONTROL, Sampling(max_tokens=8, temperature=1.0, seed=1), index) for index in range(3)]
    with opened() as backend, Passes(backend.model) as passes:
        done = together(backend, [one, two, one, two, one, two])
        again = alone(backend, one)
        assert max(rows for rows, _ in passes.shapes) == 2
        before = len(passes.shapes)
        assert again == done[0] == done[2]
        together(backend, hot)
        assert passes.shapes[before][0] == 3


def test_a_twin_that_leaves_does_not_take_the_answer_with_it():
    """Of two equal requests one is cancelled; the other is answered."""
    request = Request(user(), CONTROL, Sampling(max_tokens=300))

    async def work(backend):
        leaves, stays = (asyncio.create_task(backend.complete(request)) for _ in range(2))
        await asyncio.sleep(0.1)
        leaves.cancel()
        return await stays

    with opened() as backend:
        assert run(work(backend)).tokens_out == 300


def test_a_budget_too_small_for_one_row_is_refused_with_the_number():
    """The refusal names the argument and how much one row needs."""
    with opened(kv_memory_mb=1) as backend:
        backend.max_length = 10**6
        backend._engine.writer.ending = replace(backend._engine.writer.ending, max_length=10**6)
        backend._engine.writer._decoder.ending = backend._engine.writer.ending
        with pytest.raises(Refused, match=r"a row of 5\d\d\d tokens needs kv_memory_mb=3, 1 are allowed"):
            alone(backend, Request(user(), CONTROL, Sampling(max_tokens=5000)))
    with opened(kv_memory_mb=1) as backend:
        done = together(backend, [Request(user("a" * n), CONTROL, Sampling(max_tokens=900)) for n in (1, 2, 3)])
        decoder = backend._engine.writer._decoder
        assert decoder.store.slots == 2**20 // (512 * decoder._longest)
    assert [one.tokens_out for one in done] == [900] * 3


def test_the_store_is_as_wide_as_its_rows():
    """A request that needs more columns than the running ones joins without waiting; when it has left, the next block
    is narrower."""
    with opened() as backend:
        decoder = backend._engine.writer._decoder

        async def work():
            first = asyncio.create_task(backend.complete(Request(user("a"), CONTROL, Sampling(max_tokens=800))))
            await asyncio.sleep(0.05)
            second = await backend.complete(Request(user("b" * 600), CONTROL, Sampling(max_tokens=5)))
            wide = decoder.store.columns
            while decoder.store.columns == wide:
                await asyncio.sleep(0.01)
            narrow = decoder.store.columns
            return await first, second, wide, narrow

        first, second, wide, narrow = run(work())
        assert alone(backend, Request(user("b" * 600), CONTROL, Sampling(max_tokens=5))).token_ids == second.token_ids
    assert first.tokens_out == 800
    assert wide >= 600 + SLACK > narrow


def test_out_of_memory_on_admission_goes_on_with_fewer_rows(caplog):
    """When a prefill fails for want of memory, the rows are halved until it fits, and everyone is answered."""
    model = another_model()
    with opened(model) as backend:

        def fail(_model, _args, kwargs):
            if kwargs["input_ids"].shape[0] > 2:
                raise torch.OutOfMemoryError("out of memory")

        handle = model.register_forward_pre_hook(fail, with_kwargs=True)
        with caplog.at_level(logging.WARNING):
            done = together(backend, requests(7))
        handle.remove()
    assert not any(isinstance(one, BaseException) for one in done)
    assert "out of memory with 7 rows; going on with 3" in caplog.text


def test_one_row_that_fails_leaves_the_others(monkeypatch):
    """An error in one row's sampling ends that row with the error; its neighbours finish as alone."""
    from model_adapters.backends.local import generation

    asked = [Request(user("x"), CONTROL, Sampling(max_tokens=12, temperature=0.9, seed=seed)) for seed in range(3)]
    with opened() as backend:
        singly = [alone(backend, request) for request in asked]
    original, calls = generation.drawn, []

    def fragile(logits, sampling, roll):
        calls.append(1)
        if len(calls) == 8:
            raise ArithmeticError("a die fell off the table")
        return original(logits, sampling, roll)

    monkeypatch.setattr(generation, "drawn", fragile)
    with opened() as backend:
        done = together(backend, asked)
    failed = [one for one in done if isinstance(one, BaseException)]
    assert [str(one) for one in failed] == ["a die fell off the table"]
    for one, other in zip(done, singly, strict=True):
        if not isinstance(one, BaseException):
            assert one.token_ids == other.token_ids


def test_a_model_with_another_kind_of_cache_is_served_in_static_batches(monkeypatch, caplog):
    """A model whose cache isn't plain keys and values is answered all the same, and the log says how."""
    from model_adapters.backends.local import backend as local

    asked = requests(9)
    with opened() as backend:
        expected = [alone(backend, request) for request in asked]
    monkeypatch.setattr(local, "footprint", lambda model, device: None)
    with caplog.at_level(logging.WARNING), opened(rows=4) as backend:
        done = together(backend, asked)
    assert [one.token_ids for one in done] == [one.token_ids for one in expected]
    assert "static batches" in caplog.text
