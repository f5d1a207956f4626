"""The engine's thread: whoever asks, whatever fails, it goes on; what leaves does not disturb what stays."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local import engine as engine_module
from model_adapters.backends.local.engine import Engine
from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL
from tests.tiny_backend import Passes, added, alone, another_model, opened, run, together, user

TEN = Sampling(max_tokens=10)
LONG = Sampling(max_tokens=400)


@contextmanager
def held(model, at_pass=1):
    """Stops the engine at a forward pass: yields (reached, go on), two events."""
    reached, go_on, count = threading.Event(), threading.Event(), iter(range(1, 10_000))

    def hold(_model, _args):
        if next(count) == at_pass:
            reached.set()
            assert go_on.wait(30)

    handle = model.register_forward_pre_hook(hold)
    try:
        yield reached, go_on
    finally:
        go_on.set()
        handle.remove()


def test_many_event_loops_ask_at_once():
    """Requests from loops of several threads are answered each to its own, as if it were alone."""
    requests = [Request(user(f"number {n}"), added(1, n), TEN) for n in range(8)]
    with opened() as backend:
        expected = [alone(backend, request) for request in requests]
        with ThreadPoolExecutor(4) as pool:
            both = list(pool.map(lambda request: asyncio.run(backend.complete(request)), requests))
    assert [done.proof.fingerprint for done in both] == [done.proof.fingerprint for done in expected]
    assert [done.token_ids for done in both] == [done.token_ids for done in expected]


def test_a_running_loop_is_not_blocked():
    """While the engine computes, the loop that waits for it goes on running other things."""
    model = another_model()

    async def work(backend, reached, go_on):
        waiting = asyncio.create_task(backend.complete(Request(user(), CONTROL, TEN)))
        await asyncio.to_thread(reached.wait, 30)
        turns = 0
        for _ in range(10):
            await asyncio.sleep(0)
            turns += 1
        assert not waiting.done()
        go_on.set()
        return turns, await waiting

    with opened(model) as backend, held(model) as (reached, go_on):
        turns, done = run(work(backend, reached, go_on))
    assert turns == 10
    assert done.tokens_out == 10


def test_a_failed_batch_does_not_end_the_thread():
    """An error in the model reaches those who asked; the next request is answered as ever, bit for bit."""
    model = another_model()
    with opened(model) as backend:
        before = run(backend.distributions(user(), "abc"))

        def fail(_block: Any, _inputs: Any) -> None:
            raise ValueError("out of paper")

        handle = model.model.layers[2].register_forward_pre_hook(fail)
        for request in (Request(user(), added(1, positions="all"), TEN), Request(user(), CONTROL, TEN)):
            with pytest.raises(ValueError, match="out of paper"):
                alone(backend, request)
        for ask in (backend.score, backend.distributions, backend.activations):
            with pytest.raises(ValueError, match="out of paper"):
                run(ask(user(), "abc", added(1, positions="all")))
        handle.remove()
        assert np.array_equal(run(backend.distributions(user(), "abc")), before)
        assert alone(backend, Request(user(), CONTROL, TEN)).tokens_out == 10


def test_a_cancelled_request_leaves_the_batch_and_the_others_finish():
    """Its row is gone from the next pass on; neighbours are answered as alone, and nothing of its steering stays."""
    model = another_model()
    stays = [Request(user("one"), added(1), TEN), Request(user("three"), CONTROL, TEN)]

    async def work(backend, reached, go_on):
        tasks = [asyncio.create_task(backend.complete(one)) for one in stays]
        leaves = asyncio.create_task(backend.complete(Request(user("two"), added(2, positions="all"), LONG)))
        await asyncio.to_thread(reached.wait, 30)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        go_on.set()
        return await asyncio.gather(*tasks)

    with opened(model) as backend:
        bare = run(backend.distributions(user(), "abc"))
        with held(model, at_pass=4) as (reached, go_on), Passes(model) as passes:
            done = run(work(backend, reached, go_on))
        assert [shape[0] for shape in passes.shapes] == [2, 1, 3, 3] + [2] * 8
        expected = [alone(backend, request) for request in stays]
        assert [one.token_ids for one in done] == [one.token_ids for one in expected]
        assert [one.proof.response_tokens_touched for one in done] == [10, 0]
        assert np.array_equal(run(backend.distributions(user(), "abc")), bare)


def test_a_request_cancelled_before_its_turn_costs_nothing():
    """A request that was cancelled while it waited is never run."""
    model = another_model()

    async def work(backend, reached, go_on):
        first = asyncio.create_task(backend.complete(Request(user(), CONTROL, TEN)))
        await asyncio.to_thread(reached.wait, 30)
        second = asyncio.create_task(backend.complete(Request(user(), CONTROL, LONG)))
        await asyncio.sleep(0)
        second.cancel()
        go_on.set()
        return await first

    with opened(model) as backend, held(model) as (reached, go_on), Passes(model) as passes:
        run(work(backend, reached, go_on))
        assert alone(backend, Request(user(), CONTROL, Sampling(max_tokens=1))).tokens_out == 1
    assert [tokens for _, tokens in passes.shapes[1:]] == [1] * 11


def test_a_batch_whose_rows_were_all_cancelled_ends():
    """When nobody waits any more, the engine stops writing and takes the next request."""
    model = another_model()

    async def work(backend, reached, go_on):
        task = asyncio.create_task(backend.complete(Request(user(), CONTROL, LONG)))
        await asyncio.to_thread(reached.wait, 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()

    with opened(model) as backend, held(model, at_pass=3) as (reached, go_on), Passes(model) as passes:
        run(work(backend, reached, go_on))
        alone(backend, Request(user(), CONTROL, Sampling(max_tokens=1)))
    assert len(passes.shapes) == 4


def test_closing_finishes_the_batch_and_fails_what_waits():
    """The batch at hand is answered, a waiting request learns by name that it won't be, a later one too."""
    model = another_model()

    async def work(backend, reached, go_on):
        first = asyncio.create_task(backend.complete(Request(user(), CONTROL, TEN)))
        await asyncio.to_thread(reached.wait, 30)
        second = asyncio.create_task(backend.complete(Request(user(), CONTROL, TEN)))
        await asyncio.sleep(0)
        closing = asyncio.create_task(backend.aclose())
        await asyncio.sleep(0.05)
        go_on.set()
        await closing
        return await asyncio.gather(first, second, return_exceptions=True)

    others = set(threading.enumerate())
    with opened(model) as backend, held(model) as (reached, go_on):
        first, second = run(work(backend, reached, go_on))
        with pytest.raises(SteerError, match="the backend is closed; open it again"):
            alone(backend, Request(user(), CONTROL, TEN))
    assert first.tokens_out == 10
    assert isinstance(second, SteerError)
    assert "closed while this request waited" in str(second)
    assert not [one for one in set(threading.enumerate()) - others if one.name == "steer-engine"]


def test_closing_twice_or_unused_is_fine():
    """A backend that never ran, or was closed before, closes without a word."""
    with opened() as backend:
        backend.close()
        run(backend.aclose())


@dataclass
class Note:
    """A job that is only its number."""

    number: int
    kind: str = "note"
    length: int = 1
    future: "Future[Any]" = field(default_factory=Future)


class Idle:
    """Writes nothing."""

    is_busy = False

    def admit(self, waiting):
        return list(waiting)

    def step(self):
        raise AssertionError("there is nothing to write")


def noting(batch_size=100, pause=0.0):
    """An engine that writes down its batches."""
    batches: list[list[int]] = []

    def note(jobs):
        batches.append([job.number for job in jobs])
        time.sleep(pause)
        for job in jobs:
            job.future.set_result(job.number)

    return Engine(Idle(), {"note": note}, lambda waiting: waiting[:batch_size]), batches


class Busy(Idle):
    """Writes for ever, a hundred steps a second."""

    is_busy = True

    def step(self):
        time.sleep(0.01)
        return []


def test_scorings_wait_for_company_while_answers_are_written(monkeypatch):
    """Two of three are held until the third is there; one that stays alone runs when it has waited for long."""
    monkeypatch.setattr(engine_module, "COMPANY_S", 0.3)
    batches: list[list[int]] = []

    def note(jobs):
        batches.append([job.number for job in jobs])
        for job in jobs:
            job.future.set_result(job.number)

    writer = Busy()
    engine = Engine(writer, {"scoring": note, "reading": note}, lambda waiting: waiting, company=3)
    jobs = [Note(number, "scoring") for number in range(4)]
    for job in jobs[:2]:
        engine.submit(job)
    time.sleep(0.1)
    assert batches == []
    engine.submit(jobs[2])
    assert jobs[0].future.result(30) == 0
    engine.submit(jobs[3])
    time.sleep(0.1)
    assert batches == [[0, 1, 2]]
    assert jobs[3].future.result(30) == 3
    reading = Note(9, "reading")
    engine.submit(reading)
    assert reading.future.result(0.2) == 9
    writer.is_busy = False
    engine.close()


def test_what_arrives_in_one_go_is_batched_together():
    """A burst of requests is one batch, in order, and whole batches that remain follow without waiting for company."""
    engine, batches = noting(batch_size=10)
    jobs = [Note(number) for number in range(25)]
    for job in jobs:
        engine.submit(job)
    assert [job.future.result(30) for job in jobs] == list(range(25))
    engine.close()
    assert batches == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


def test_a_steady_stream_does_not_starve_the_first(monkeypatch):
    """Requests that keep coming within the lingering time can't put a batch off for ever."""
    monkeypatch.setattr(engine_module, "LINGER_S", 0.5)
    monkeypatch.setattr(engine_module, "PATIENCE_S", 0.1)
    engine, batches = noting()
    jobs = [Note(number) for number in range(40)]
    for job in jobs:
        engine.submit(job)
        time.sleep(0.01)
    assert jobs[0].future.done()
    assert [job.future.result(30) for job in jobs] == list(range(40))
    engine.close()
    assert len(batches) > 1


def test_no_job_is_lost_between_submitting_and_closing():
    """Whatever the moment of closing, each job is answered or told; none waits for ever."""
    for _ in range(30):
        engine, _ = noting()
        settled: list[Note | None] = []

        def submit(engine=engine, settled=settled):
            for number in range(20):
                job = Note(number)
                try:
                    engine.submit(job)
                except SteerError:
                    settled.append(None)
                    continue
                settled.append(job)

        threads = [threading.Thread(target=submit) for _ in range(3)]
        for thread in threads:
            thread.start()
        engine.close()
        for thread in threads:
            thread.join()
        for job in settled:
            if job is not None:
                assert job.future.exception(10) is None or isinstance(job.future.exception(), SteerError)
        assert len(settled) == 60


def test_a_job_that_is_forgotten_is_an_error_and_not_a_hang():
    """Where what runs a batch settles not all of it, those who wait are told."""
    engine = Engine(Idle(), {"note": lambda jobs: jobs[0].future.set_result(0)}, lambda waiting: waiting)
    jobs = [Note(0), Note(1)]
    for job in jobs:
        engine.submit(job)
    assert jobs[0].future.result(30) == 0
    with pytest.raises(RuntimeError, match="ended the batch without an answer"):
        jobs[1].future.result(30)
    engine.close()


def test_answers_come_in_the_order_of_the_questions():
    """Whatever order rows are run in, each request's answer is its own."""
    requests = [Request(Text("a" * (1 + n * 7 % 5)), CONTROL, Sampling(max_tokens=1 + n)) for n in range(9)]
    with opened(rows=4) as backend:
        done = together(backend, requests)
    assert [one.tokens_in for one in done] == [1 + n * 7 % 5 for n in range(9)]
    assert [one.tokens_out for one in done] == [1 + n for n in range(9)]
