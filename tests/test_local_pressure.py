"""Bad input and want of memory: who is at fault fails by name, everyone else is answered, nobody waits for ever."""

import asyncio
import logging
from dataclasses import replace

import pytest
import torch

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local import memory
from model_adapters.backends.local import store as store_module
from model_adapters.backends.local.blocks import SteeredBlocks
from model_adapters.backends.local.memory import free_bytes
from model_adapters.errors import Refused, SteerError
from model_adapters.steering import CONTROL
from tests.tiny_backend import added, alone, another_model, opened, run, together, user

HOT = {"temperature": 1.0, "top_p": 0.9}


def greedy(tokens):
    """So many at most."""
    return Sampling(max_tokens=tokens)


async def staggered(backend, first, second, pause=0.1):
    """Both answers; the second is asked while the first is written."""
    one = asyncio.create_task(backend.complete(first))
    await asyncio.sleep(pause)
    other = asyncio.create_task(backend.complete(second))
    return await asyncio.wait_for(asyncio.gather(one, other, return_exceptions=True), 60)


def test_a_request_too_large_for_the_memory_fails_alone():
    """Small requests that come together with one that no budget holds are answered."""
    with opened(kv_memory_mb=1) as backend:
        backend.max_length = 10**6
        writer = backend._engine.writer
        writer.ending = writer._decoder.ending = replace(writer.ending, max_length=10**6)
        limits = (5, 5000, 6)
        done = together(backend, [Request(user(f"q{n}"), CONTROL, greedy(n)) for n in limits])
    assert isinstance(done[1], Refused)
    assert "needs kv_memory_mb=3" in str(done[1])
    assert [done[0].tokens_out, done[2].tokens_out] == [5, 6]


def test_a_cancelled_sample_is_forgotten():
    """A sample that nobody waits for any more leaves the counts, as a greedy answer does."""
    request = Request(user(), CONTROL, Sampling(max_tokens=900, seed=1, **HOT))

    async def work(backend):
        task = asyncio.create_task(backend.complete(request))
        while not backend.progress().running:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(500):
            if not backend._engine.tally._open:
                return backend.progress()
            await asyncio.sleep(0.01)
        raise AssertionError("it is still counted")

    with opened() as backend:
        progress = run(work(backend))
    assert (progress.running, progress.waiting, progress.finished) == (0, 0, 0)


def test_closing_while_rows_wait_again_tells_them():
    """Requests that were begun and sent back for want of memory learn that the backend was closed; none hangs."""
    asked = [Request(user("a" * n), CONTROL, Sampling(max_tokens=300 * n, seed=n, **HOT)) for n in (1, 2, 3, 3, 3, 3)]

    async def work(backend):
        tasks = [asyncio.create_task(backend.complete(request)) for request in asked]
        while not backend.progress().running:
            await asyncio.sleep(0.01)
        await asyncio.wait_for(backend.aclose(), 60)
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    with opened(kv_memory_mb=1, rows=8) as backend:
        done = run(work(backend))
    told = [one for one in done if isinstance(one, SteerError)]
    assert told
    assert all("closed while this request waited" in str(one) for one in told)
    assert len(told) + sum(not isinstance(one, BaseException) for one in done) == len(asked)


@pytest.mark.parametrize("problem", [OSError(12, "Cannot allocate memory"), torch.OutOfMemoryError("no room")])
@pytest.mark.parametrize("at", [2, 5])
def test_memory_that_ends_while_the_store_grows(monkeypatch, caplog, problem, at):
    """Rows whose keys and values were half moved begin again, with fewer beside them, and are answered as alone."""
    first, second = (Request(user("w" * n), CONTROL, greedy(150)) for n in (3, 300))
    with opened() as backend:
        singly = [alone(backend, request) for request in (first, second)]
    take, calls = store_module._unwritten, []

    def short(shape, dtype):
        calls.append(shape)
        if len(calls) == 8 + at:  # keys and values of four layers are taken for the first row
            raise problem
        return take(shape, dtype)

    monkeypatch.setattr(store_module, "_unwritten", short)
    with caplog.at_level(logging.WARNING), opened() as backend:
        done = run(staggered(backend, first, second))
    assert [one.token_ids for one in done] == [one.token_ids for one in singly]
    assert "out of memory with 2 rows; going on with 1" in caplog.text


def test_a_steering_that_cannot_be_planned_fails_alone(monkeypatch):
    """The row that is being written goes on as ever, bit for bit; the one at fault has the error."""
    first, second = Request(user("x"), CONTROL, greedy(150)), Request(user("y"), added(), greedy(20))
    with opened() as backend:
        expected = alone(backend, first)
    plan = SteeredBlocks.planned

    def planned(self, steerings, d_model):
        if any(one.interventions for one in steerings):
            raise ArithmeticError("this one bends space")
        return plan(self, steerings, d_model)

    monkeypatch.setattr(SteeredBlocks, "planned", planned)
    with opened() as backend:
        done, failed = run(staggered(backend, first, second))
        beside = together(backend, [second, first, replace(first, prompt=user("z"))])
    assert done.token_ids == expected.token_ids
    assert str(failed) == str(beside[0]) == "this one bends space"
    assert beside[1].token_ids == expected.token_ids
    assert beside[2].tokens_out == 150


def test_an_error_in_a_step_reaches_those_who_wait_and_nobody_else():
    """Rows that had ended before the error keep their answers, the others have it, and the engine goes on."""
    model = another_model()
    passes = []

    def fail(_model, _args, _kwargs):
        passes.append(1)
        if len(passes) == 30:
            raise ArithmeticError("a wheel came off")

    with opened(model) as backend:
        handle = model.register_forward_pre_hook(fail, with_kwargs=True)
        asked = [Request(user("a" * n), CONTROL, greedy(n)) for n in (5, 12, 300)]
        done = together(backend, asked)
        handle.remove()
        again = alone(backend, asked[2])
    assert [one.tokens_out for one in done[:2]] == [5, 12]
    assert str(done[2]) == "a wheel came off"
    assert again.tokens_out == 300


def test_an_error_of_the_writer_itself_ends_no_engine(monkeypatch):
    """Whatever goes wrong between steps is told to those who wait; the next request is answered."""
    with opened() as backend:
        writer = backend._engine.writer
        step = writer.step
        monkeypatch.setattr(writer, "step", lambda: 1 / 0)
        failed = alone_or_error(backend, Request(user("a"), CONTROL, greedy(5)))
        monkeypatch.setattr(writer, "step", step)
        done = alone(backend, Request(user("a"), CONTROL, greedy(5)))
    assert isinstance(failed, ZeroDivisionError)
    assert done.tokens_out == 5


def alone_or_error(backend, request):
    """The completion, or what stands for it; nobody waits longer than a minute."""

    async def ask():
        return await asyncio.wait_for(asyncio.gather(backend.complete(request), return_exceptions=True), 60)

    return run(ask())[0]


def test_scores_that_fail_together_are_tried_apart():
    """Too many rows for the memory are scored in halves, and one text at fault fails alone."""
    model = another_model()

    def fail(_model, _args, kwargs):
        if kwargs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")
        if (kwargs["input_ids"] == 3 + ord("z") - ord("!")).any():
            raise ArithmeticError("no z")

    texts = ["ab", "abc", "abzd", "abcde", "abcdef"]

    async def scores(backend):
        asked = (backend.score(Text(text), "gh", added(positions="all")) for text in texts)
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)

    with opened(model) as backend:
        expected = run(scores(backend))
        handle = model.register_forward_pre_hook(fail, with_kwargs=True)
        found = run(scores(backend))
        handle.remove()
    assert str(found[2]) == "no z"
    for one, other in list(zip(found, expected, strict=True))[:2]:
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert not any(isinstance(one, BaseException) for one in (found[0], found[1], found[3], found[4]))


def test_a_sample_before_the_first_is_refused():
    """An index below 0 is named before anything runs."""
    with opened() as backend, pytest.raises(Refused, match="sample_index is -1; samples are counted from 0"):
        alone(backend, Request(user(), CONTROL, greedy(2), -1))


def test_free_memory_counts_what_the_system_would_give_up(monkeypatch, tmp_path):
    """Files that the system keeps in memory don't make it short; where it doesn't say, what is free counts."""
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 4000 kB\nMemFree: 10 kB\nMemAvailable:    3000 kB\n")
    monkeypatch.setattr(memory, "MEMINFO", told)
    assert free_bytes(torch.device("cpu")) == 3000 * 1024
    told.write_text("MemTotal: 4000 kB\n")
    assert free_bytes(torch.device("cpu")) > 2**20
