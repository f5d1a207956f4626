"""The response store: what comes back, what is never given, and what a damaged store does to a run."""

import asyncio
import json
import logging
import pickle
import sqlite3
import subprocess
import sys
import time
import zlib
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_adapters.backend import (
    Completion,
    Likelihood,
    Message,
    Proof,
    Request,
    Sampling,
    ScoresText,
    Text,
    check_applied,
)
from model_adapters.backends.response_store import RAW, ResponseStore
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.backends.stand_in import StandIn
from model_adapters.backends.stored import (
    COMPLETIONS,
    LIKELIHOODS,
    Stored,
    StoredTexts,
    completion_key,
    rolling_key,
    score_key,
    stored,
)
from model_adapters.conditions import Compare, Reading
from model_adapters.errors import NotApplied, Refused, SteerError
from model_adapters.harnesses.answer_store import kept_in, opened_store, run_store
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AddVector, Steering, SystemPrompt, When

ASKED = (Message("system", "Be exact."), Message("user", "Count to three."))
SAMPLED = Sampling(temperature=1.0, seed=3)
REQUEST = Request(ASKED, CONTROL, SAMPLED, 1)


def push(seed=0):
    return Steering((AddVector(1, np.random.default_rng(seed).standard_normal(8), 1.0),))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "responses"


class Counted(StandIn):
    """A stand-in that counts what it is asked to score."""

    scored = 0

    async def score(self, prompt, continuation, steering):
        self.scored += 1
        return await super().score(prompt, continuation, steering)


def asked(folder, *requests, backend=None):
    """Answers one after the other through a store opened for this; the backend, and how many the store had."""
    backend = backend or ScriptedBackend(lambda request: f"answer {len(backend.requests)}")

    async def answers(kept):
        return [await kept.complete(request) for request in requests]

    store = ResponseStore(folder)
    found = asyncio.run(answers(Stored(backend, store)))
    store.close()
    return found, backend, store


def rows(folder, statement="SELECT key, mode, value FROM Cache", *values):
    with sqlite3.connect(folder / "cache.db") as database:
        return database.execute(statement, values).fetchall()


# Round trips


@settings(max_examples=60)
@given(st.from_type(Completion), st.from_type(Likelihood))
def test_answers_survive_json(completion, likelihood):
    """Every completion and likelihood is read back equal, each number to its last bit."""
    for answer, form in ((completion, COMPLETIONS), (likelihood, LIKELIHOODS)):
        written = json.dumps(asdict(answer))
        again = form.validate_python(json.loads(written))
        assert type(again) is type(answer)
        assert json.dumps(asdict(again)) == written
        if "NaN" not in written:
            assert again == answer


@given(st.lists(st.floats(allow_nan=False)))
def test_log_probabilities_come_back_bit_for_bit(values):
    """Infinities and the smallest numbers, too."""
    held = Likelihood(tuple(values), True, Proof("measured", "f", "i"))
    again = LIKELIHOODS.validate_python(json.loads(json.dumps(asdict(held))))
    assert np.array(again.logprobs, dtype=float).tobytes() == np.array(values, dtype=float).tobytes()


def test_the_second_time_nothing_is_asked(folder):
    """A later run is given the same answer with its proof, marked as stored; the first one's isn't."""
    [first], backend, _ = asked(folder, REQUEST)
    [second], silent, store = asked(folder, REQUEST)
    assert (len(backend.requests), len(silent.requests)) == (1, 0)
    assert not first.stored
    assert second == replace(first, stored=True)
    assert (store.found, store.missing) == (1, 0)
    check_applied(CONTROL, second.proof, silent.identity)


def test_likelihoods_are_kept_too(folder):
    """Texts, token ids and whole texts are scored once each, and greedy or not stays what it was."""

    async def all_of_them(kept):
        return [
            await kept.score(ASKED, "one", CONTROL),
            await kept.score(ASKED, [1, 2], CONTROL),
            await kept.score(Text("one"), "two", CONTROL),
            await kept.score_rolling("one two", CONTROL),
        ]

    counts, answers = [], []
    for _ in range(2):
        store, backend = ResponseStore(folder), Counted("m")
        answers.append(asyncio.run(all_of_them(stored(backend, store))))
        counts.append(backend.scored)
        store.close()
    assert counts == [4, 0]
    assert answers[1] == [replace(one, stored=True) for one in answers[0]]


def test_a_store_shows_what_the_backend_can(folder):
    """Only a backend that scores texts does so behind a store; without a store the backend stays itself."""
    store, plain = ResponseStore(folder), ScriptedBackend(lambda _: "x")
    assert stored(plain, None) is plain
    assert not isinstance(stored(plain, store), ScoresText)
    assert isinstance(stored(StandIn("m"), store), ScoresText)
    assert isinstance(stored(StandIn("m"), store), StoredTexts)
    assert stored(StandIn("m"), store).identity == StandIn("m").identity


# What is another request

OTHER_SAMPLING = {
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "seed": 4,
    "stop": ("\n",),
}
OTHER_REQUEST = {
    "prompt": (*ASKED, Message("assistant", "One")),
    "steering": push(),
    "sampling": replace(SAMPLED, seed=5),
    "sample_index": 2,
}
OTHER_IDENTITY = {
    "name": "another",
    "backend": "another",
    "model_digest": "0" * 16,
    "revision": "r",
    "dtype": "float32",
    "url": "http://x",
    "dictionary_digest": "d",
    "template_digest": "t",
    "template_mode": "always",
    "arguments": {"max_length": "12"},
}


@pytest.mark.parametrize("name", [one.name for one in fields(Sampling)])
def test_another_sampling_finds_nothing(folder, name):
    """Each field of Sampling tells requests apart, greedy or not."""
    for sampling in (SAMPLED, replace(SAMPLED, temperature=0.0)):
        one = replace(REQUEST, sampling=sampling)
        other = replace(REQUEST, sampling=replace(sampling, **{name: OTHER_SAMPLING[name]}))
        assert completion_key(one, StandIn("m").identity) != completion_key(other, StandIn("m").identity)
    _, _, store = asked(folder, one, other)
    assert (store.found, store.missing) == (0, 2)


@pytest.mark.parametrize("name", [one.name for one in fields(Request)])
def test_another_request_finds_nothing(folder, name):
    """Each field of Request does: a control is not answered by a steered answer, nor one sample by another."""
    other = replace(REQUEST, **{name: OTHER_REQUEST[name]})
    _, _, store = asked(folder, REQUEST, other)
    assert (store.found, store.missing) == (0, 2)


@pytest.mark.parametrize("name", [one.name for one in fields(ModelIdentity)])
def test_another_model_finds_nothing(name):
    """Each field of the model's identity does, for completions and likelihoods."""
    here = ModelIdentity(name="m", backend="b")
    there = replace(here, **{name: OTHER_IDENTITY[name]})
    for key in (
        lambda identity: completion_key(REQUEST, identity),
        lambda identity: score_key(ASKED, "x", CONTROL, identity),
        lambda identity: rolling_key("x", CONTROL, identity),
    ):
        assert key(here) != key(there)


def test_another_version_of_the_package_finds_nothing(monkeypatch):
    """What an older version answered is not given by a newer one."""
    here = completion_key(REQUEST, StandIn("m").identity)
    monkeypatch.setattr("model_adapters.identity.package_version", lambda: "another")
    assert completion_key(REQUEST, StandIn("m").identity) != here


def test_keys_of_alike_things_differ():
    """Messages and their text, text and token ids, a prompt and a continuation, entered prompts and none."""
    identity = StandIn("m").identity
    prompted = Steering((SystemPrompt("Be brief."),))
    keys = [
        score_key(Text("ab"), "c", CONTROL, identity),
        score_key(Text("a"), "bc", CONTROL, identity),
        score_key(Text("ab"), [1], CONTROL, identity),
        score_key((Message("user", "ab"),), "c", CONTROL, identity),
        score_key((Message("assistant", "ab"),), "c", CONTROL, identity),
        score_key(Text("ab"), "c", push(), identity),
        score_key(Text("ab"), "c", prompted, identity),
        score_key(Text("ab", prompted.system_prompts), "c", prompted, identity),
        rolling_key("ab", CONTROL, identity),
        rolling_key("ab", push(), identity),
    ]
    assert len(set(keys)) == len(keys)
    assert score_key(Text("ab"), (1, 2), CONTROL, identity) == score_key(
        Text("ab"), list(np.array([1, 2])), CONTROL, identity
    )


def test_greedy_samples_are_one_and_seeded_ones_are_not(folder):
    """A greedy answer serves every sample index; a seedless sample is never kept; equal seeded ones stay several."""
    greedy = Request(ASKED)
    found, backend, _ = asked(folder / "greedy", greedy, replace(greedy, sample_index=9))
    assert found[0].text == found[1].text
    seedless = replace(REQUEST, sampling=replace(SAMPLED, seed=None))
    assert completion_key(seedless, backend.identity) is None
    _, backend, store = asked(folder / "seedless", seedless, seedless)
    assert (len(backend.requests), store.found, store.missing) == (2, 0, 0)
    first, backend, _ = asked(folder / "seeded", REQUEST, REQUEST)
    assert first[0].text != first[1].text
    second, silent, _ = asked(folder / "seeded", REQUEST, REQUEST)
    assert [one.text for one in second] == [one.text for one in first]
    assert silent.requests == []


def test_answers_to_events_are_not_kept(folder):
    """The names of a steering's events are no content, so an answer that bears one is given to nobody else."""
    steering = Steering((When(Compare(Reading(1, np.ones(8)), ">", 0.5), (), event="stop"),))
    assert steering.events
    assert completion_key(Request(ASKED, steering), StandIn("m").identity) is None


# Damage


def planted(folder, key, value, mode=RAW, filename=None):
    """Puts a row into the database in place of an answer."""
    with sqlite3.connect(folder / "cache.db") as database:
        database.execute("UPDATE Cache SET value = ?, mode = ?, filename = ?", (value, mode, filename))


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def packed(value):
    return zlib.compress(json.dumps(value).encode())


def poisons(folder, trace):
    """Rows that hold no answer of this request, by what is wrong with them: `(value, mode, file)`."""
    poison = pickle.dumps(Touches(trace))
    (folder / "aa").mkdir(exist_ok=True)
    (folder / "aa" / "poison.val").write_bytes(poison)
    (folder / "aa" / "plain.val").write_bytes(packed({}))
    good = asdict(asked(folder / "other", Request(ASKED, push()))[0][0])
    return {
        "pickle": (poison, 4, None),
        "pickle in a file": (None, 4, "aa/poison.val"),
        "pickle marked raw": (poison, RAW, None),
        "a file": (None, 2, "aa/plain.val"),
        "a file outside": (None, 2, "../../etc/passwd"),
        "cut short": (packed(good)[:40], RAW, None),
        "not JSON": (zlib.compress(b"{"), RAW, None),
        "not an answer": (packed({"text": 3}), RAW, None),
        "text": ("text", RAW, None),
        "nothing": (None, RAW, None),
        "another steering": (packed(good), RAW, None),
    }


@pytest.mark.parametrize(
    "kind",
    [
        *("pickle", "pickle in a file", "pickle marked raw", "a file", "a file outside", "cut short"),
        *("not JSON", "not an answer", "text", "nothing", "another steering"),
    ],
)
def test_a_damaged_entry_is_a_miss(folder, tmp_path, caplog, kind):
    """It is asked for anew and mended, one line says so, and nothing in it is unpickled."""
    [first], _, _ = asked(folder, REQUEST)
    trace = tmp_path / "trace"
    planted(folder, None, *poisons(folder, trace)[kind])
    with caplog.at_level(logging.WARNING):
        [again], backend, store = asked(folder, REQUEST)
    assert len(backend.requests) == 1
    assert (store.found, store.missing) == (0, 1)
    assert not trace.exists()
    assert "an entry can't be read" in caplog.text
    [last], backend, _ = asked(folder, REQUEST)
    assert backend.requests == []
    assert last == replace(again, stored=True)
    assert first.text == again.text


def test_a_pickle_in_place_of_a_key_is_not_read(folder, tmp_path):
    """A row whose key is pickled is no answer to anything."""
    asked(folder, REQUEST)
    trace = tmp_path / "trace"
    rows(folder, "UPDATE Cache SET key = ?, raw = 0", pickle.dumps(Touches(trace)))
    _, backend, _ = asked(folder, REQUEST)
    assert len(backend.requests) == 1
    assert not trace.exists()


def test_nothing_that_is_stored_is_pickled(folder):
    """Keys are SHA-256 digests, values compressed JSON; a rendered prompt is nowhere, messages are with answers."""
    asked(folder, REQUEST, Request(Text("a rendered prompt")))
    for key, mode, value in rows(folder):
        assert int(key.split()[0], 16) >= 0
        assert len(key.split()[0]) == 64
        assert mode == RAW
        held = json.loads(zlib.decompress(value))
        assert held["text"].startswith("answer")
        assert held["messages_sent"] in (None, [asdict(message) for message in ASKED])
        assert "rendered" not in json.dumps(held)


def test_a_damaged_database_stops_no_run(folder, caplog):
    """The run goes on without the store, and one line says what to remove."""
    folder.mkdir()
    (folder / "cache.db").write_bytes(b"no database " * 1000)
    with caplog.at_level(logging.WARNING):
        found, backend, store = asked(folder, REQUEST, Request(ASKED), REQUEST)
    assert len(backend.requests) == len(found) == 3
    assert store.missing == 3
    assert caplog.text.count("response store") == 1
    assert "remove the folder" in caplog.text


def test_a_full_disk_stops_no_run(folder, caplog, monkeypatch):
    """What can't be written is answered all the same; one line says so."""

    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("diskcache.Cache.set", full)
    with caplog.at_level(logging.WARNING):
        found, backend, _ = asked(folder, Request(ASKED), Request(ASKED))
    assert len(found) == len(backend.requests) == 2
    assert caplog.text.count("an answer can't be stored") == 1


def test_a_lock_that_stays_stops_no_run(folder, caplog, monkeypatch):
    """Where another process never lets go, it is waited for once, and what was stored is still found."""
    monkeypatch.setattr("model_adapters.backends.response_store.LOCKED_S", 0.5)
    backend, store = ScriptedBackend(lambda _: "x"), ResponseStore(folder)

    async def answers(count):
        return [await Stored(backend, store).complete(Request((Message("user", str(n)),))) for n in range(count)]

    asyncio.run(answers(1))
    holder = sqlite3.connect(folder / "cache.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    before = time.monotonic()
    with caplog.at_level(logging.WARNING):
        found = asyncio.run(answers(8))
    assert time.monotonic() - before < 7 * 0.5
    holder.close()
    store.close()
    assert [one.stored for one in found] == [True] + 7 * [False]
    assert len(backend.requests) == 8
    assert caplog.text.count("keeps it locked") == 1


def test_a_failed_request_leaves_nothing(folder):
    """What was refused, or was not applied, is asked again."""

    class Lying(ScriptedBackend):
        async def complete(self, request):
            answer = await super().complete(request)
            raise NotApplied(answer.text)

    for expected in (1, 1):
        backend = Lying(lambda _: "x")
        with pytest.raises(NotApplied):
            asked(folder, REQUEST, backend=backend)
        assert len(backend.requests) == expected


WRITER = """
import asyncio, sys
from pathlib import Path
from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.response_store import ResponseStore
from model_adapters.backends.scripted import ScriptedBackend
from model_adapters.backends.stored import Stored
from model_adapters.steering import CONTROL

async def main():
    store = ResponseStore(Path(sys.argv[1]))
    kept = Stored(ScriptedBackend(lambda request: "x" * 200), store)
    asked = [Request((Message("user", str(n)),), CONTROL, Sampling()) for n in range(int(sys.argv[2]))]
    answers = await asyncio.gather(*map(kept.complete, asked))
    assert len(answers) == len(asked)
    store.close()

asyncio.run(main())
"""


def test_two_processes_share_a_store(folder, root):
    """Both begin with no store and ask the same; neither fails, and every answer is there once."""
    line = [sys.executable, "-c", WRITER, str(folder), "150"]
    both = [subprocess.Popen(line, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
        assert said == ""
    assert len(rows(folder)) == 150
    _, backend, store = asked(folder, *[Request((Message("user", str(n)),)) for n in range(150)])
    assert (len(backend.requests), store.found) == (0, 150)


# How it is asked for


def test_the_argument_names_a_place(tmp_path, empty_cache):
    """True is the cache folder, a text a folder, false nothing; everything else is refused."""
    for value in (None, False, "false", "False"):
        assert opened_store(value) is None
    for value in (True, "true", "True"):
        assert opened_store(value).folder == empty_cache / "responses"
    assert opened_store(str(tmp_path / "mine")).folder == tmp_path / "mine"
    for value in (3, 1.0, "", ["a"]):
        with pytest.raises(Refused, match="it is true, false, or a folder"):
            opened_store(value)
    (tmp_path / "file").write_text("")
    with pytest.raises(SteerError, match="no folder can be made there"):
        opened_store(str(tmp_path / "file"))


def test_a_runs_store_ends_with_the_run(folder):
    """Inside the run its models find the store, outside they don't."""
    store = ResponseStore(folder)
    with kept_in(store):
        assert run_store() is store
    assert run_store() is None
    with kept_in(None):
        assert run_store() is None
