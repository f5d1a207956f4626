"""The HTTP under an Ember client: connections, event streams however they are cut, waits, and the key."""

import asyncio
import copy
import itertools
import json
import math
import pickle
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backends.ember.call import Call, EmberError, canonical, request_key
from model_adapters.backends.ember.http import EmberHttp
from model_adapters.backends.ember.key import Key
from model_adapters.backends.ember.patience import Patience
from model_adapters.backends.ember.stream import EventReader, StreamedAnswer
from model_adapters.errors import Refused
from tests.ember_server import Answer, chat, chat_body, event, events, response, serving

KEY = "gf-planted-Zq81xTn4vW7r"
PATIENCE = Patience(attempts=2, first_wait=0.01, longest_wait=0.02)


def call(text="Hi", stream=False, seconds=5.0):
    payload = {"messages": [{"role": "user", "content": text}], "stream": stream}
    return Call("POST", "/chat/completions", payload, seconds, stream=stream)


async def reply(server, one=None, **options):
    http = EmberHttp(server.url, Key(None), patience=PATIENCE, **options)
    try:
        return (await http.ask(one or call())).body
    finally:
        await http.aclose()


def streamed(answer):
    """What a client makes of a stream."""

    async def work():
        async with serving(lambda asked: answer) as server:
            return await reply(server, call(stream=True))

    return asyncio.run(work())


def chunk(text, index=None, **choice):
    held = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None, **choice}
    return {"id": "1", "choices": [held if index is None else {**held, "gf_token_index": index}]}


# Connections.


def test_connections_are_pooled_and_bounded():
    """Thirty questions at a concurrency of three use three connections, and never more than three at once."""

    async def work():
        async with serving(lambda asked: Answer(chat("ok").data, stall=0.01)) as server:
            http = EmberHttp(server.url, Key(None), concurrency=3)
            await asyncio.gather(*(http.ask(call(str(n))) for n in range(30)))
            await http.aclose()
            return server.connections, server.most_at_once, len(server.questions)

    assert asyncio.run(work()) == (3, 3, 30)


def test_the_loop_runs_on_while_the_client_waits():
    """Waiting for an answer and waiting to ask again both leave the event loop free."""

    async def work():
        answers = [response(503, b"", Retry_After="0.3"), Answer(chat("ok").data, stall=0.3)]
        turns = 0

        async def watch():
            nonlocal turns
            while True:
                await asyncio.sleep(0.01)
                turns += 1

        async with serving(lambda asked: answers.pop(0)) as server:
            watching = asyncio.create_task(watch())
            await reply(server)
            watching.cancel()
        return turns

    assert asyncio.run(work()) > 10


def test_several_event_loops_share_one_client():
    """A client opened in one event loop answers in another, after the first is closed too."""
    seen = []
    http = EmberHttp("http://service", Key(None), transport=httpx.MockTransport(lambda request: _answered(seen)))
    assert [asyncio.run(http.ask(call())).body["n"] for _ in range(3)] == [1, 2, 3]


def _answered(seen):
    seen.append(None)
    return httpx.Response(200, json={"n": len(seen)})


def test_loops_have_connections_of_their_own():
    """Over real connections too, a second event loop doesn't touch what the first one left behind."""

    async def work():
        async with serving(lambda asked: chat("ok")) as server:
            http = EmberHttp(server.url, Key(None), patience=PATIENCE)
            await http.ask(call())
            await asyncio.to_thread(lambda: asyncio.run(http.ask(call())))
            await http.ask(call())
            await http.aclose()
            return server.connections, len(server.questions)

    assert asyncio.run(work()) == (2, 3)


def test_a_service_in_this_process_is_asked_without_a_port():
    """Behind an ASGI transport an application answers; where it fails, the error names its exception."""

    async def application(scope, receive, send):
        held = json.loads((await receive())["body"])
        if held["messages"][0]["content"] == "break":
            raise RuntimeError("no such layer")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(chat_body(scope["path"])).encode()})

    async def work():
        http = EmberHttp("http://in-process", Key(None), transport=httpx.ASGITransport(application))
        body = (await http.ask(call())).body
        with pytest.raises(EmberError, match="RuntimeError: no such layer; the service failed in this process"):
            await http.ask(call("break"))
        return body["choices"][0]["message"]["content"]

    assert asyncio.run(work()) == "/api/inference/v1/chat/completions"


def test_without_limits_nothing_is_cut():
    """An attempt and a request without a bound wait as long as it takes."""

    async def work():
        async with serving(lambda asked: Answer(chat("ok").data, stall=0.1)) as server:
            patience = Patience(attempt_seconds=math.inf, request_seconds=math.inf)
            http = EmberHttp(server.url, Key(None), patience=patience)
            await http.ask(call(seconds=0.01))
            await http.aclose()
            return len(server.questions)

    assert asyncio.run(work()) == 1


def test_any_text_arrives_as_it_was():
    """Messages arrive character by character, lone surrogates and control characters included."""
    text = "Grüße 🙂 \ud800 \x00 \u2028"

    async def work():
        async with serving(lambda asked: chat("ok")) as server:
            await reply(server, call(text))
            return server.questions

    assert asyncio.run(work()) == [text]


# Streams.


def test_a_stream_is_put_together():
    """Chunks of this protocol become one answer; tokens sent twice count once, comments and pings don't count."""
    pieces = [
        event(chunk("Hel", 0)),
        b": ping\n\n",
        event(chunk("lo", 1)),
        event(chunk("lo", 1)),
        b"event: x\nid: 3\nretry: 9\n\n",
        event(chunk("", 2, finish_reason="length")),
        event(b"[DONE]"),
    ]
    body = streamed(events(*pieces))
    message = {"role": "assistant", "content": "Hello"}
    assert body["choices"] == [{"index": 0, "message": message, "finish_reason": "length"}]
    assert body["id"] == "1"


def test_openai_chunks_are_taken():
    """Chunks without token indices, with empty deltas and a closing chunk of usage make the same answer."""
    pieces = [
        event({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}], "usage": None}),
        event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}),
        event({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}),
        event({"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "stop"}]}),
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
        event(b"[DONE]"),
    ]
    body = streamed(events(*pieces))
    assert body["choices"][0]["message"]["content"] == "aa"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}


def test_events_and_extras_of_a_stream_are_kept():
    """Names of fired events are gathered once each, and keys that only our own service adds stay."""
    pieces = [
        event({**chunk("a", 0), "gf_event_names": ["x"]}),
        event({**chunk("b", 1), "gf_event_names": ["x", "y"], "steer": {"fingerprint": "f"}}),
    ]
    body = streamed(events(*pieces))
    assert body["gf_event_names"] == ["x", "y"]
    assert body["steer"] == {"fingerprint": "f"}


def test_a_stream_asked_for_may_come_whole():
    """A service that answers a request for a stream with plain JSON is understood."""
    assert streamed(chat("whole"))["choices"][0]["message"]["content"] == "whole"


@given(st.lists(st.integers(0, 200), max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_a_stream_may_be_cut_anywhere(places, line_end):
    """Wherever pieces of the stream end, in a character or in a line's end, the events in it are the same."""
    data = json.dumps(chunk("grüß", 0), ensure_ascii=False).encode()
    raw = b"\xef\xbb\xbfdata: " + data + b"\n\n:x\ndata:1\ndata: 2\n\ndata: [DONE]\n\n"
    raw = raw.replace(b"\n", line_end)
    cuts = [0, *sorted(place % len(raw) for place in places), len(raw)]
    reader = EventReader()
    found = [one for start, end in itertools.pairwise(cuts) for one in reader.feed(raw[start:end])]
    found += reader.end()
    assert found == [data.decode(), "1\n2", "[DONE]"]


def test_the_last_event_needs_no_blank_line():
    """A stream that ends right behind its last event has that event."""
    reader = EventReader()
    assert reader.feed(b"data: a\n\ndata: b") == ["a"]
    assert reader.end() == ["b"]


@pytest.mark.parametrize("data", ["{", "[]", "3", '{"id": 1}', '{"choices": {}}'])
def test_what_is_no_chunk_is_refused(data):
    """A streamed event that holds no chunk is told from one that does."""
    with pytest.raises(ValueError):  # noqa: PT011 (JSON's own error is one)
        StreamedAnswer().add(data)


# Waits.


def test_waits_double_up_to_the_longest():
    """Waits lie in the upper half of first_wait doubled each time, and end at longest_wait."""
    patience = Patience(first_wait=1.0, longest_wait=5.0)
    assert [patience.wait_after(attempt, None, 1.0) for attempt in (1, 2, 3, 4, 60)] == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert [patience.wait_after(attempt, None, 0.0) for attempt in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 2.5]


@given(st.integers(1, 5000), st.floats(0, 1e6), st.floats(0, 1))
def test_what_is_asked_for_is_waited_at_least(attempt, asked, luck):
    """With Retry-After nobody comes back earlier, nor more than a second later."""
    assert asked <= Patience().wait_after(attempt, asked, luck) <= asked + 1.0


@pytest.mark.parametrize("name", ["attempts", "first_wait", "request_seconds", "attempt_seconds", "run_seconds"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_patience_is_positive(name, value):
    """A deadline or number of attempts of nothing is refused by its name."""
    with pytest.raises(Refused, match=f"{name} is {value}; it is a number above 0"):
        Patience(**{name: value})


# The key.


def test_a_key_does_not_show():
    """A key is in its header, and in no repr, copy or pickle."""
    key = Key(f"  {KEY}\n")
    assert key.headers() == {"Authorization": f"Bearer {KEY}"}
    assert KEY not in repr(key) + str(key) + f"{[key]}"
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not copied or stored"):
            way(key)


@given(st.text(max_size=40), st.text(max_size=40), st.integers(0, 11), st.integers(12, 23))
def test_a_key_and_its_parts_are_taken_out(before, after, start, size):
    """A part of a key of 12 characters or more is replaced, whatever stands around it."""
    part = KEY[start : start + size]
    removed = Key(KEY).removed({before: [before + part + after, 3, None]})
    windows = {KEY[at : at + 12] for at in range(len(KEY) - 11)}
    assert not any(one in json.dumps(removed, ensure_ascii=False) for one in windows)
    assert "[key]" in removed[before][0]


@given(st.text())
def test_other_text_is_left_alone(text):
    """What holds no part of the key stays as it is, and without a key everything does."""
    assert Key(None).removed(text + KEY) == text + KEY
    assert Key(KEY).removed(text) == text


@pytest.mark.parametrize("text", ["short", "with a blank in it", "Schlüssel-mit-Umlaut", "two\nlines-of-key"])
def test_what_cannot_be_a_key_is_refused_without_showing_it(text):
    """A value that can't be sent or kept secret is refused by the variable's name alone."""
    with pytest.raises(Refused, match="GOODFIRE_API_KEY doesn't hold a key") as caught:
        Key(text)
    assert text not in str(caught.value)


# Equal questions.


CONTROLLER: dict[str, Any] = {
    "interventions": [{"mode": "nudge", "value": 0.5, "features": {"features": [{"index_in_sae": 5, "label": "a"}]}}],
    "scopes": [{"conditionals": {}, "controller": {"name": "x"}, "is_active": False, "event_name": "e1"}],
    "name": "controller__1",
}


def chat_call(**changes):
    return Call("POST", "/chat/completions", {"seed": 1, "controller": CONTROLLER, "stream": False, **changes}, 1.0)


def test_names_do_not_make_another_question():
    """Names of controllers and events, labels and ids of features, and streaming leave the question the same."""
    other = json.loads(json.dumps(CONTROLLER))
    other["name"] = "controller__2"
    other["scopes"][0]["controller"]["name"] = "y"
    other["scopes"][0]["event_name"] = "e2"
    other["interventions"][0]["features"]["features"][0] |= {"label": "b", "uuid": "1"}
    assert request_key(chat_call()) == request_key(chat_call(controller=other, stream=True))
    assert canonical(chat_call())["payload"]["controller"]["interventions"][0]["features"] == {"features": [5]}


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"controller": None},
        {"controller": {**CONTROLLER, "interventions": []}},
        {"controller": {**CONTROLLER, "scopes": [{**CONTROLLER["scopes"][0], "event_name": None}]}},
    ],
)
def test_what_changes_an_answer_makes_another_question(change):
    """The seed, the edits, and whether a scope interrupts are part of the question."""
    assert request_key(chat_call()) != request_key(chat_call(**change))


def test_a_fresh_question_is_known_without_its_seed():
    """Two calls for a fresh sample are one question, whatever seed was drawn."""
    one, other = (Call("POST", "/chat/completions", {"seed": seed}, 1.0, fresh=True) for seed in (1, 2))
    assert request_key(one) == request_key(other)
