"""A service that misbehaves: every question ends answered or with a named error, none is lost or asked in vain."""

import asyncio
import json
import logging
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.ember import open_ember
from model_adapters.backends.ember.call import EmberError
from tests.ember_server import Answer, chat, chat_body, event, events, response, serving

KEY = "gf-planted-Zq81xTn4vW7r"
FAST = {"first_wait": 0.01, "longest_wait": 0.05, "attempt_seconds": 1.0, "attempts": 4}
BODY = json.dumps(chat_body("never said in full")).encode()

CUT = Answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 400\r\n\r\n" + BODY[:90], cut=True)
CUT_UNFRAMED = Answer(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + BODY[:90], cut=True)
CUT_STREAM = Answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
                    + event({"choices": [{"index": 0, "delta": {"content": "half"}}]}), cut=True)  # fmt: skip

PASSING = {
    "429 with seconds": response(429, {"detail": "slow down"}, Retry_After="0.05"),
    "429 with a date": response(429, b"slow down", kind="text/plain", Retry_After="Thu, 01 Jan 2026 00:00:00 GMT"),
    "429 without": response(429, {"detail": "slow down"}),
    "429 with nonsense": response(429, {"detail": "slow down"}, Retry_After="soon"),
    "500": response(500, b"<html>oops</html>", kind="text/html"),
    "502": response(502, b""),
    "503": response(503, {"detail": "starting"}, Retry_After="0"),
    "504": response(504, b""),
    "a stall": Answer(chat("too late").data, stall=3.0),
    "a cut body": CUT,
    "a cut body of unknown length": CUT_UNFRAMED,
    "a cut stream": CUT_STREAM,
    "no answer at all": Answer(b"", cut=True),
    "no HTTP": Answer(b"hello\r\n\r\n", cut=True),
    "malformed JSON": response(200, b'{"choices": [}'),
    "JSON that isn't UTF-8": response(200, b'{"choices": "\xff"}'),
    "an empty body": response(200, b""),
    "a broken chunk": events(b"data: {\n\n", event(b"[DONE]")),
    "wrong gzip": response(200, b"plain", Content_Encoding="gzip"),
}
FINAL = {
    "400": (response(400, {"detail": "bad"}), "400: .*bad.*correct the request"),
    "401": (response(401, {"detail": "no"}), "401: .*check the key in GOODFIRE_API_KEY"),
    "402": (response(402, {"detail": "no funds"}), "402: .*top it up"),
    "403": (response(403, {"detail": "no"}), "403: .*ask for access"),
    "404": (response(404, {"detail": "no such path"}), "404: .*check the base URL"),
    "422": (response(422, {"detail": [{"loc": ["body", "seed"], "msg": "wrong"}]}), "422: .*seed.*correct what"),
    "501": (response(501, b""), "501: no text; try later"),
    "204": (Answer(b"HTTP/1.1 204 No\r\n\r\n"), "204: .*only 200 is an answer"),
    "a wrong content type": (response(200, b"<html>hi</html>", kind="text/html"), "answered with text/html .*base URL"),
    "a redirect": (
        response(307, b"", Location="http://127.0.0.1:9/x"),
        "307, redirected to http://127.0.0.1:9/x; give",
    ),
    "no choices": (response(200, {**chat_body(""), "choices": []}), "choices are empty; the service doesn't speak"),
    "a missing key": (response(200, {"id": "1"}), "the answer lacks 'choices'"),
    "no text": (response(200, chat_body(None)), "'content' is None"),
    "no object": (response(200, [1]), r"the answer is \[1\], not an object"),
    "an error in the stream": (events(event({"error": {"message": "burnt"}})), "reports an error: .*burnt"),
    "an empty stream": (events(event(b"[DONE]")), "choices are empty"),
}


def request(text="Hi", **sampling):
    return Request((Message("user", text),), sampling=Sampling(max_tokens=5, **sampling))


async def ask(server, text="Hi", **options):
    backend = await open_ember("m", base_url=server.url, **{**FAST, **options})
    try:
        return await backend.complete(request(text))
    finally:
        await backend.aclose()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("GOODFIRE_API_KEY", KEY)


def after(fault, times=1):
    """Answers with `fault` so many times for each question, then properly."""
    seen = Counter()

    def script(asked):
        seen[asked.question] += 1
        return fault if seen[asked.question] <= times else chat(f"answer to {asked.question}")

    return script


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again_until_answered(name):
    """After a fault that may pass, the same question is asked again, and once answered never more."""

    async def work():
        async with serving(after(PASSING[name])) as server:
            done = await ask(server)
            return server.questions, done.text

    assert asyncio.run(work()) == (["Hi", "Hi"], "answer to Hi")


@pytest.mark.parametrize("name", FINAL)
def test_what_will_not_pass_is_a_named_error_at_once(name):
    """A refusal or an answer that is none ends in one error with its status, its words and a remedy; asked once."""
    fault, said = FINAL[name]

    async def work():
        async with serving(lambda asked: fault) as server:
            with pytest.raises(EmberError, match=said) as caught:
                await ask(server)
            return server, str(caught.value)

    server, text = asyncio.run(work())
    assert server.questions == ["Hi"]
    assert text.startswith(f"POST {server.url}/api/inference/v1/chat/completions: ")
    assert "\n" not in text


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_ends_in_a_named_error(name):
    """A fault that stays is an error after the stated number of attempts, with the last reason in it."""

    async def work():
        async with serving(lambda asked: PASSING[name]) as server:
            with pytest.raises(EmberError, match=r"no answer after 2 attempts, the last one: .*; .*try later"):
                await ask(server, attempts=2, attempt_seconds=0.2)
            return server.questions

    assert asyncio.run(work()) == ["Hi", "Hi"]


def test_a_crowd_of_questions_survives_every_fault():
    """Of a hundred questions, each hit by its own faults, all are answered by their own answer and exactly once."""
    faults = list(PASSING.values())
    seen, answered = Counter(), Counter()

    def script(asked):
        number = int(asked.question)
        seen[number] += 1
        if seen[number] <= number % 3:
            return faults[(number + seen[number]) % len(faults)]
        answered[number] += 1
        return chat(f"answer to {number}")

    async def work():
        async with serving(script) as server:
            backend = await open_ember("m", base_url=server.url, concurrency=8, **FAST)
            done = await asyncio.gather(*(backend.complete(request(str(n))) for n in range(100)))
            await backend.aclose()
            return server, [one.text for one in done]

    server, texts = asyncio.run(work())
    assert texts == [f"answer to {n}" for n in range(100)]
    assert answered == dict.fromkeys(range(100), 1)
    assert Counter(map(int, server.questions)) == {n: n % 3 + 1 for n in range(100)}


def test_some_fail_and_the_others_are_answered():
    """A question that the service refuses fails alone; those beside it are answered."""

    def script(asked):
        return response(422, {"detail": "odd"}) if int(asked.question) % 2 else chat(asked.question)

    async def work():
        async with serving(script) as server:
            backend = await open_ember("m", base_url=server.url, concurrency=4, **FAST)
            asks = (backend.complete(request(str(n))) for n in range(10))
            done = await asyncio.gather(*asks, return_exceptions=True)
            await backend.aclose()
            return server.questions, done

    questions, done = asyncio.run(work())
    assert sorted(questions) == sorted(map(str, range(10)))
    assert [one.text for one in done[::2]] == ["0", "2", "4", "6", "8"]
    assert all(isinstance(one, EmberError) and one.status == 422 for one in done[1::2])


@pytest.mark.parametrize("with_date", [False, True])
def test_retry_after_is_waited(with_date):
    """What the service asks for is waited at least, in seconds or as a date by the service's own clock."""
    served = datetime(2031, 5, 1, tzinfo=UTC)
    until = format_datetime(served + timedelta(seconds=1), usegmt=True)
    asked_for = (
        {"Retry_After": until, "Date": format_datetime(served, usegmt=True)} if with_date else {"Retry_After": "1"}
    )

    async def work():
        async with serving(after(response(429, b"{}", **asked_for))) as server:
            began = time.monotonic()
            await ask(server)
            return time.monotonic() - began

    assert asyncio.run(work()) >= 1.0


def test_a_wait_beyond_the_deadline_is_an_error_now():
    """Asked to come back after the request's deadline, the client says so instead of waiting."""

    async def work():
        async with serving(lambda asked: response(429, b"{}", Retry_After="3600")) as server:
            began = time.monotonic()
            with pytest.raises(EmberError, match=r"no answer within request_seconds=5 \(1 attempt, .*429.*raise it"):
                await ask(server, request_seconds=5)
            return time.monotonic() - began, server.questions

    seconds, questions = asyncio.run(work())
    assert questions == ["Hi"]
    assert seconds < 3


def test_a_request_ends_at_its_deadline():
    """A service that never answers costs one question no more than its deadline."""

    async def work():
        async with serving(lambda asked: Answer(b"", stall=20)) as server:
            began = time.monotonic()
            with pytest.raises(EmberError, match=r"no answer within request_seconds=0\.5"):
                await ask(server, request_seconds=0.5, attempt_seconds=10, attempts=9)
            return time.monotonic() - began

    assert asyncio.run(work()) < 5


def test_the_run_ends_at_its_deadline():
    """After the run's deadline nothing is asked any more, and each question left says which deadline it was."""

    async def work():
        async with serving(lambda asked: Answer(chat(asked.question).data, stall=0.4)) as server:
            options = {**FAST, "attempt_seconds": 10}
            backend = await open_ember("m", base_url=server.url, concurrency=1, run_seconds=1.0, **options)
            asks = (backend.complete(request(str(n))) for n in range(6))
            done = await asyncio.gather(*asks, return_exceptions=True)
            await backend.aclose()
            return server.questions, done

    questions, done = asyncio.run(work())
    answered = [one for one in done if not isinstance(one, EmberError)]
    assert len(answered) <= 2
    assert all("run_seconds=1" in str(one) for one in done if isinstance(one, EmberError))
    assert len(questions) <= len(answered) + 1


def test_a_request_given_up_closes_its_connection():
    """A cancelled question is not asked again, and the next one is answered."""

    async def work():
        def script(asked):
            return Answer(b"", stall=20) if asked.question == "slow" else chat("quick")

        async with serving(script) as server:
            backend = await open_ember("m", base_url=server.url, concurrency=1, **{**FAST, "attempt_seconds": 30})
            slow = asyncio.create_task(backend.complete(request("slow")))
            while not server.questions:
                await asyncio.sleep(0.01)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            done = await backend.complete(request("next"))
            await backend.aclose()
            return server.questions, done.text

    assert asyncio.run(work()) == (["slow", "next"], "quick")


def test_nobody_listens():
    """An address where nothing listens is told within seconds, by name."""

    async def work():
        with pytest.raises(
            EmberError, match=r"GET http://127.0.0.1:9/.*/models: no answer after 3 attempts.*connection"
        ):
            await open_ember("m", base_url="http://127.0.0.1:9", first_wait=0.01)

    asyncio.run(work())


def echoes():
    """Every way a service may say the key back, in an error and in an answer."""
    for status in (400, 401, 403, 422, 429, 500):
        yield response(status, {"detail": f"key {KEY} of header Bearer {KEY}"})
        yield response(status, f"<p>{KEY}</p>".encode(), kind="text/html")
        yield response(status, {"detail": f"key {KEY[:16]}… is unknown"})
    yield response(200, f"not JSON {KEY}".encode())
    yield response(200, f"<p>{KEY}</p>".encode(), kind="text/html")
    yield response(200, {KEY: KEY})
    yield response(200, b"{}", kind=f"text/{KEY}")
    yield response(302, b"", Location=f"http://127.0.0.1:9/?key={KEY}")
    yield events(event({"error": f"key {KEY}"}))
    yield events(event(f'{{"{KEY}'.encode()))
    yield Answer(f"HTTP/1.1 {KEY}\r\n\r\n".encode(), cut=True)
    yield Answer(f"{KEY} 200 OK\r\n\r\n".encode(), cut=True)
    yield chat(f"the key is {KEY}")
    yield chat(KEY[:13] + "…")


@pytest.mark.parametrize("stream", [False, True])
def test_the_key_shows_nowhere(tmp_path, caplog, stream):
    """A key that the service says back is in no error, log, answer or cassette, not even in part."""
    caplog.set_level(logging.DEBUG)
    parts = {KEY[start : start + 12] for start in range(len(KEY) - 11)}
    answers = list(echoes())
    cassette = tmp_path / "cassette.jsonl"
    shown = []

    async def work():
        async with serving(lambda asked: answers[int(asked.question)]) as server:
            options = {**FAST, "attempts": 2, "stream": stream, "record": cassette}
            backend = await open_ember("m", base_url=server.url, **options)
            for number in range(len(answers)):
                try:
                    shown.append(repr(await backend.complete(request(str(number)))))
                except EmberError as problem:
                    while problem is not None:
                        shown.append(f"{problem!r} {problem.__dict__} {problem}")
                        problem = problem.__cause__
            shown.append(f"{backend!r} {vars(backend)} {vars(backend._asks)} {backend.identity}")
            await backend.aclose()
            return server.of("/chat/completions")

    asked = asyncio.run(work())
    assert all(one.headers["authorization"] == f"Bearer {KEY}" for one in asked)
    assert len(shown) == len(answers) + 1
    # httpcore's own debug log holds responses as they came, headers included; it is not ours to change.
    logs = [one.getMessage() for one in caplog.records if not one.name.startswith("httpcore")]
    written = "\n".join([*shown, cassette.read_text(), *logs])
    assert [part for part in parts if part in written] == []
    assert "[key]" in written


def test_a_status_line_with_the_key_is_not_quoted():
    """The words that a service puts behind its status are in no error when they hold the key."""
    fault = Answer(f"HTTP/1.1 503 {KEY}\r\nContent-Length: 0\r\n\r\n".encode())

    async def work():
        async with serving(lambda asked: fault) as server:
            with pytest.raises(EmberError, match=r"the last one: 503: \[key\]; check the service"):
                await ask(server, attempts=2)

    asyncio.run(work())


def test_a_question_that_holds_the_key_is_not_asked():
    """A key among the messages is refused, for it would end up in records."""

    async def work():
        async with serving(lambda asked: chat("ok")) as server:
            with pytest.raises(EmberError, match="the request holds the key of the service; take it out"):
                await ask(server, f"my key is {KEY}")
            return server.questions

    assert asyncio.run(work()) == []
