"""How far a local model is: what is counted where, at what speed, what is left, and where it is shown."""

import asyncio
import re
import subprocess
from concurrent.futures import Future

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model

import steer_tasks.providers  # noqa: F401 (registers the providers)
from model_adapters.backend import Request, Sampling, Text
from model_adapters.backends.local.progress import WINDOW_S, Progress, ShowsProgress, Tally
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.harnesses import inspect_progress, lm_eval_progress
from model_adapters.harnesses.inspect_progress import ProgressCounter
from model_adapters.harnesses.lm_eval import HookSteered
from model_adapters.harnesses.lm_eval_progress import ShownProgress
from model_adapters.harnesses.loop import LoopThread
from model_adapters.steering import CONTROL
from tests import lm_eval_cases
from tests.lm_eval_cases import local, request
from tests.test_lm_eval_command import command
from tests.test_local_engine import LONG, TEN, held
from tests.tiny_backend import another_model, opened, run, user

tiny = lm_eval_cases.tiny


class Clock:
    """A clock that stands still until it is moved."""

    now = 100.0

    def __call__(self):
        return self.now


def asked(tally, count):
    futures = [Future() for _ in range(count)]
    for future in futures:
        tally.enter(future)
    return futures


# Counting, with a clock of our own


def test_requests_are_counted_where_they_are():
    """Running ones, waiting ones and finished ones; a failed one is finished, a cancelled one is nowhere."""
    tally = Tally(Clock())
    assert tally.progress() == Progress(0, 0, 0, 0.0, None)
    futures = asked(tally, 7)
    for future in futures[:4]:
        assert future.set_running_or_notify_cancel()
        tally.begin(future)
    futures[0].set_result("answer")
    futures[1].set_exception(ValueError("failed"))
    futures[2].set_exception(asyncio.CancelledError())
    assert futures[4].cancel()
    found = tally.progress()
    assert (found.finished, found.running, found.waiting) == (2, 1, 2)
    tally.wait(futures[3])
    found = tally.progress()
    assert (found.finished, found.running, found.waiting) == (2, 0, 3)
    tally.begin(futures[0])
    assert tally.progress().running == 0


def test_the_estimate_is_what_is_left_times_the_mean():
    """None until something finished; then requests left times seconds per finished one; 0 in the end."""
    clock = Clock()
    tally = Tally(clock)
    futures = asked(tally, 4)
    clock.now += 6.0
    assert tally.progress().seconds_left is None
    futures[0].set_result(1)
    assert tally.progress().seconds_left == 18.0
    futures[1].set_result(1)
    clock.now += 2.0
    assert tally.progress().seconds_left == 8.0
    futures[2].cancel()
    assert tally.progress().seconds_left == 4.0
    futures[3].set_result(1)
    assert tally.progress() == Progress(3, 0, 0, 0.0, 0.0)


def test_idle_time_is_in_no_estimate():
    """After a pause with nothing to do the mean begins anew; what finished stays counted."""
    clock = Clock()
    tally = Tally(clock)
    asked(tally, 1)[0].set_result(1)
    clock.now += 1000.0
    futures = asked(tally, 3)
    clock.now += 5.0
    assert tally.progress() == Progress(1, 0, 3, 0.0, None)
    futures[0].set_result(1)
    assert tally.progress().seconds_left == 10.0


def test_speed_is_that_of_the_last_seconds():
    """Tokens per second are counted over the window; what is older, or was before a pause, has no part in it."""
    clock = Clock()
    tally = Tally(clock)
    future = asked(tally, 1)[0]
    assert tally.progress().tokens_per_second == 0.0
    for second in range(1, 31):
        clock.now += 1.0
        tally.tokens += 100 if second <= 15 else 10
        found = tally.progress().tokens_per_second
        if second <= 15:
            assert found == 100.0
        if second >= 15 + WINDOW_S:
            assert found == 10.0
    assert tally.progress().tokens_per_second == 10.0
    future.set_result(1)
    clock.now += 500.0
    asked(tally, 1)
    clock.now += 2.0
    tally.tokens += 14
    assert tally.progress().tokens_per_second == 7.0


def test_a_rare_look_sees_the_time_since_the_last():
    """Looking once a minute gives the mean of that minute, and keeps no more than it needs."""
    clock = Clock()
    tally = Tally(clock)
    asked(tally, 1)
    for _ in range(5):
        clock.now += 60.0
        tally.tokens += 120
        assert tally.progress().tokens_per_second == 2.0
    assert len(tally._seen) <= 2


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(0, 32, 100, 209.6, None), "running 32, waiting 100, 210 tok/s"),
        (Progress(9, 32, 100, 210.0, 45.4), "running 32, waiting 100, 210 tok/s, ~45 s left"),
        (Progress(9, 1, 0, 0.0, 90.0), "running 1, waiting 0, 0 tok/s, ~2 min left"),
        (Progress(9, 1, 0, 1.0, 180.0), "running 1, waiting 0, 1 tok/s, ~3 min left"),
        (Progress(9, 1, 0, 1.0, 5400.0), "running 1, waiting 0, 1 tok/s, ~1.5 h left"),
    ],
)
def test_it_reads_as_a_line(progress, text):
    """One short line; the estimate in seconds, minutes or hours."""
    assert str(progress) == text


# The engine


def test_the_engine_counts_what_it_does():
    """While a pass is held, one row runs and others wait; greedy twins count each; in the end all are finished."""
    model = another_model()

    async def work(backend, reached, go_on):
        first = [asyncio.create_task(backend.complete(Request(user("a"), CONTROL, TEN))) for _ in range(3)]
        await asyncio.to_thread(reached.wait, 30)
        later = [asyncio.create_task(backend.complete(Request(user(str(n)), CONTROL, TEN))) for n in range(4)]
        dropped = asyncio.create_task(backend.complete(Request(user("x"), CONTROL, TEN)))
        scored = asyncio.create_task(backend.score(user("b"), "text"))
        while backend.progress().waiting < 6:
            await asyncio.sleep(0.01)
        dropped.cancel()
        await asyncio.gather(dropped, return_exceptions=True)
        found = backend.progress()
        go_on.set()
        return found, await asyncio.gather(*first, *later, scored)

    with opened(model, rows=1) as backend:
        assert isinstance(backend, ShowsProgress)
        with held(model) as (reached, go_on):
            found, done = run(work(backend, reached, go_on))
        assert (found.finished, found.running, found.waiting) == (0, 3, 5)
        after = backend.progress()
    assert (after.finished, after.running, after.waiting) == (8, 0, 0)
    assert after.seconds_left == 0.0
    written = sum(len(one.token_ids) for one in (done[0], *done[3:7]))
    pair = backend.encoding.pair(user("b"), "text", CONTROL)
    # The last token is scored and not read.
    assert backend._engine.tally.tokens == written + len(pair.context) + len(pair.continuation) - 1


def test_a_row_that_nobody_waits_for_counts_nowhere():
    """A request that is cancelled while it is written is neither finished nor running afterwards."""
    model = another_model()

    async def work(backend, reached, go_on):
        task = asyncio.create_task(backend.complete(Request(user(), CONTROL, LONG)))
        await asyncio.to_thread(reached.wait, 30)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        await backend.complete(Request(user("b"), CONTROL, TEN))

    with opened(model) as backend:
        with held(model, at_pass=4) as (reached, go_on):
            run(work(backend, reached, go_on))
        found = backend.progress()
    assert (found.finished, found.running, found.waiting) == (1, 0, 0)


def test_static_batches_are_counted_too(monkeypatch):
    """Tokens of a model whose rows are written together from start to end are counted as they come."""
    monkeypatch.setattr("model_adapters.backends.local.backend.footprint", lambda *_: None)
    with opened(another_model()) as backend:
        done = run(backend.complete(Request(Text("abc"), CONTROL, Sampling(max_tokens=7))))
        assert backend._engine.tally.tokens == len(done.token_ids)


# lm-eval


class Bar:
    """What a bar of tqdm is told."""

    def __init__(self, disable=False):
        self.disable, self.said = disable, []

    def set_postfix_str(self, text):
        self.said.append(text)


class Steady(ScriptedBackend):
    """A backend that is always at the same place."""

    looks = 0

    def progress(self):
        self.looks += 1
        return Progress(0, 1, self.looks, 3.0, None)


def test_the_bar_changes_once_a_second():
    """However often requests finish; never where the bar is off, and never for a backend that doesn't know."""
    clock, bar, backend = Clock(), Bar(), Steady(lambda _: "")
    shown = ShownProgress(bar, backend, clock)
    for _ in range(10):
        for _ in range(50):
            shown.look()
        clock.now += 0.25
    assert bar.said == ["running 1, waiting 1, 3 tok/s", "running 1, waiting 2, 3 tok/s"]
    for other, silent in ((Bar(disable=True), backend), (Bar(), ScriptedBackend(lambda _: ""))):
        shown = ShownProgress(other, silent, clock)
        clock.now += 5.0
        shown.look()
        assert other.said == []
    assert backend.looks == 2


def test_there_is_news_while_nothing_finishes(monkeypatch):
    """A caller that waits for its calls is told in between."""
    monkeypatch.setattr("model_adapters.harnesses.loop.LOOK_S", 0.01)
    told = []
    loop = LoopThread()

    async def slow():
        while len(told) < 3:
            await asyncio.sleep(0.005)
        return "done"

    assert list(loop.as_finished([slow], lambda: told.append(1))) == [(0, "done")]
    loop.close()
    assert len(told) >= 3


def test_no_bar_means_no_look(tiny, capfd, monkeypatch):
    """With `disable_tqdm` nothing is printed, and nobody asks how far the model is."""
    monkeypatch.setattr(lm_eval_progress, "EVERY_S", 0.0)
    model = HookSteered(**local(tiny), method="control")
    monkeypatch.setattr(model.backend, "progress", lambda: pytest.fail("looked"))
    capfd.readouterr()
    model.loglikelihood([request("loglikelihood", "a", " b")], disable_tqdm=True)
    assert capfd.readouterr().err == ""
    model.close()


def test_the_command_shows_it(root, mmlu, tiny, tmp_path):
    """The bar of `lm_eval` ends in running and waiting requests, tokens per second, what is left."""
    words = [
        *("--model", "hook_steered", "--tasks", "mmlu_171", "--limit", "20", "--gen_kwargs", "max_gen_toks=200"),
        *("--model_args", f"pretrained={tiny},method=control,max_rows=4", "--output_path", str(tmp_path)),
    ]
    line, environment = command(root, *words)
    environment["OMP_NUM_THREADS"] = "1"  # a second thread for layers of 32 numbers only waits, and longer under load
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"running [1-4], waiting \d+, [1-9]\d* tok/s, ~\d+ (s|min) left", done.stderr), done.stderr[-3000:]


# Inspect


def test_inspect_shows_it_while_requests_are_under_way(monkeypatch):
    """One counter however many requests there are, renewed in between, and gone with the last of them."""
    monkeypatch.setattr(inspect_progress, "EVERY_S", 0.01)
    monkeypatch.setattr(inspect_progress, "_has_display", lambda: True)
    monkeypatch.setattr(inspect_progress, "display_type", lambda: "rich")
    said = []
    monkeypatch.setattr(inspect_progress, "display_counter", lambda caption, value: said.append((caption, value)))
    backend = Steady(lambda _: "")
    counter = ProgressCounter("hook_steered")

    async def work():
        with counter.shown(backend):
            with counter.shown(backend):
                while len(said) < 3:
                    await asyncio.sleep(0.005)
            tasks = len(asyncio.all_tasks())
        await asyncio.sleep(0.03)
        count = len(said)
        await asyncio.sleep(0.05)
        assert len(said) == count
        return tasks

    assert asyncio.run(work()) == 2
    assert said[0] == ("hook_steered", "finished 0, running 1, waiting 1, 3 tok/s")
    assert said[2] == ("hook_steered", "finished 0, running 1, waiting 3, 3 tok/s")


def test_outside_an_eval_nothing_is_shown_or_decided(monkeypatch):
    """A provider that is asked directly leaves Inspect's display alone, and a backend that can't tell is left alone."""
    monkeypatch.setattr(inspect_progress, "_has_display", lambda: False)
    monkeypatch.setattr(inspect_progress, "display_type", lambda: pytest.fail("asked"))
    monkeypatch.setattr(inspect_progress, "display_counter", lambda *_: pytest.fail("shown"))

    async def work():
        with ProgressCounter("x").shown(Steady(lambda _: "")):
            await asyncio.sleep(0.01)
        with ProgressCounter("x").shown(ScriptedBackend(lambda _: "")):
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(work())


def test_an_eval_has_the_counter(tiny, tmp_path, monkeypatch):
    """While a local model answers an eval's samples, Inspect's display is told."""
    said = []
    monkeypatch.setattr(inspect_progress, "display_counter", lambda caption, value: said.append((caption, value)))
    monkeypatch.setattr(inspect_progress, "EVERY_S", 0.01)
    model = get_model(f"hook_steered/{tiny}", memoize=False, dtype="float32", unsteered=True)
    samples = [Sample(input=f"number {n}") for n in range(6)]
    [log] = eval(Task(samples), model=model, display="plain", log_dir=str(tmp_path), log_format="json", max_tokens=100)
    assert log.status == "success", log.error
    assert {caption for caption, _ in said} == {"hook_steered"}
    form = r"finished \d, running [1-6], waiting \d, \d+ tok/s(, ~\d+ s left)?"
    assert any(re.fullmatch(form, value) for _, value in said)
    asyncio.run(model.api.aclose())
