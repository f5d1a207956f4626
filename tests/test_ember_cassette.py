"""Cassettes: what a run recorded answers it again, without a connection and without a key."""

import asyncio
import json
import os
import stat

import httpx
import pytest

from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.ember import open_ember
from model_adapters.backends.ember.call import EmberError
from model_adapters.backends.ember.cassette import Recorder
from model_adapters.behavior import find_behavior
from model_adapters.errors import Refused, SteerError
from model_adapters.steering import CONTROL, EditFeatures, FeatureCompare, FeatureEdit, Steering, When
from tests.ember_server import chat_body
from tests.test_ember_client import FUNNY, Service, found, honest, models

KEY = "gf-planted-Zq81xTn4vW7r"
FAST = {"first_wait": 0.001, "longest_wait": 0.001}


class Nowhere(httpx.AsyncBaseTransport):
    """A network that must not be used."""

    async def handle_async_request(self, request):
        raise AssertionError(f"a connection to {request.url}")


def request(text="Hi", steering=CONTROL, **sampling):
    return Request((Message("user", text),), steering, Sampling(**sampling))


def record(path, service, *requests, **options):
    """Ask the service and record it."""

    async def run():
        transport = httpx.MockTransport(service)
        backend = await open_ember("m", transport=transport, record=path, **{**FAST, **options})
        done = await asyncio.gather(*(backend.complete(one) for one in requests), return_exceptions=True)
        await backend.aclose()
        return done, backend.identity

    return asyncio.run(run())


def replay(path, *requests, **options):
    """Ask the recording, one by one, with a network that raises."""

    async def run():
        backend = await open_ember("m", transport=Nowhere(), replay=path, **options)
        done = []
        for one in requests:
            try:
                done.append(await backend.complete(one))
            except EmberError as problem:
                done.append(problem)
        await backend.aclose()
        return done, backend.identity

    return asyncio.run(run())


def says(service_text="{}"):
    """A service that says the question back."""
    return {"/chat/completions": lambda sent: chat_body(service_text.format(sent["messages"][-1]["content"]))}


def test_a_recorded_run_is_answered_again(tmp_path, monkeypatch):
    """Replayed, every question has the recorded completion and the service its identity; no key is needed."""
    path = tmp_path / "cassette.jsonl"
    requests = [request("a"), request("b", FUNNY), request("c", FUNNY, temperature=0.6, seed=3)]
    monkeypatch.setenv("GOODFIRE_API_KEY", KEY)
    service = Service({"/chat/completions": honest}, listed=models("m"))
    live = record(path, service, *requests, base_url="http://ember:8080")
    monkeypatch.delenv("GOODFIRE_API_KEY")
    assert replay(path, *requests) == live
    assert replay(path, *requests, stream=True) == live
    assert live[1].url == "http://ember:8080"
    assert KEY not in path.read_text()


def test_each_exchange_is_one_line(tmp_path):
    """A cassette is JSON lines, one for each exchange with its request and answer, appended as they come."""
    path = tmp_path / "cassette.jsonl"
    record(path, Service(says()), request("a"))
    first = path.read_bytes()
    record(path, Service(says()), request("b"))
    assert path.read_bytes().startswith(first)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    paths = [(line["method"], line["path"], line["status"]) for line in lines]
    assert paths == [("GET", "/models", 404), ("POST", "/chat/completions", 200)] * 2
    assert lines[1]["request"]["messages"] == [{"role": "user", "content": "a"}]
    assert lines[1]["answer"]["choices"][0]["message"]["content"] == "a"


def test_many_at_once_are_recorded_whole(tmp_path):
    """Two hundred exchanges recorded at once are two hundred whole lines, each question with its own answer."""
    path = tmp_path / "cassette.jsonl"
    requests = [request(f"{n} " + "x" * 5000) for n in range(200)]
    record(path, Service(says()), *requests)
    assert len(path.read_text().splitlines()) == 201
    done, _ = replay(path, *requests)
    assert [one.text for one in done] == [one.prompt[0].content for one in requests]


def test_failures_on_the_way_are_recorded_and_passed_over(tmp_path):
    """What the client asked again is on the cassette as not final; a replay gives the answer that came in the end."""
    path = tmp_path / "cassette.jsonl"
    answers = [
        httpx.Response(503, text="starting"),
        httpx.Response(200, text="{", headers={"content-type": "application/json"}),
        httpx.Response(200, json=chat_body("ok")),
    ]

    def service(asked):
        return httpx.Response(404) if asked.url.path.endswith("/models") else answers.pop(0)

    record(path, service, request())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["status"], line["final"]) for line in lines] == [(404, True), (503, False), (200, False), (200, True)]
    assert replay(path, request())[0][0].text == "ok"


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(422, json={"detail": "odd"}),
        httpx.Response(302, headers={"location": "http://other"}),
        httpx.Response(200, text="<p>", headers={"content-type": "text/html"}),
        httpx.Response(200, json={}),
    ],
)
def test_refusals_are_replayed(tmp_path, answer):
    """A question that ended in an error ends in the same error when replayed."""
    path = tmp_path / "cassette.jsonl"

    def service(asked):
        return httpx.Response(404) if asked.url.path.endswith("/models") else answer

    (live,), _ = record(path, service, request())
    (again,), _ = replay(path, request())
    assert isinstance(live, EmberError)
    assert live.status == again.status == answer.status_code
    assert str(again).split(": ", 1)[1] == str(live).split(": ", 1)[1]


def test_repeats_get_their_answers_in_order(tmp_path):
    """Equal questions get the recorded answers in order; a question asked more often gets the last one again."""
    path, count = tmp_path / "cassette.jsonl", iter(range(9))
    service = Service({"/chat/completions": lambda sent: chat_body(str(next(count)))})
    record(path, service, request(), request(), concurrency=1)
    done, _ = replay(path, *[request()] * 4)
    assert [one.text for one in done] == ["0", "1", "1", "1"]


def test_fresh_samples_are_given_once(tmp_path):
    """Samples without a seed get a recorded answer each, with its seed; one more than recorded is an error."""
    path, count = tmp_path / "cassette.jsonl", iter(range(9))
    service = Service({"/chat/completions": lambda sent: chat_body(str(next(count)))})
    live, _ = record(path, service, *[request(temperature=0.6)] * 2, concurrency=1)
    done, _ = replay(path, *[request(temperature=0.6)] * 3)
    assert done[:2] == live
    assert len({one.seed for one in done[:2]}) == 2
    assert "was recorded 2 times with this request and is asked once more for a fresh answer" in str(done[2])


def test_events_are_named_as_they_are_now(tmp_path):
    """Events have a fresh name in each run; a replay gives the name of the steering at hand."""

    def steering(event):
        inner = When(FeatureCompare((7,), ">", 0.5), (), event=event)
        return Steering((When(FeatureCompare((6,), ">", 0.5), (*FUNNY.interventions, inner)),))

    path = tmp_path / "cassette.jsonl"
    service = Service({"/chat/completions": chat_body("x", gf_event_names=["name of then"])})
    (live,), _ = record(path, service, request(steering=steering("name of then")))
    (done,), _ = replay(path, request(steering=steering("name of now")))
    assert live.events == ("name of then",)
    assert done.events == ("name of now",)
    assert done.stop_reason == "interrupt"


def test_edits_are_replayed_draw_by_draw(tmp_path):
    """A service that knows no draws chose anew at each call; a replay gives its choices in order."""
    path, values = tmp_path / "cassette.jsonl", iter([0.25, 0.5])
    service = Service({"/features/auto-edits": lambda sent: {"edits": [[found(5), next(values)]]}})

    async def draws(**options):
        backend = await open_ember("m", **options)
        drawn = [(await backend.suggest_edits(find_behavior("funny"), draw)).edits for draw in (0, 1)]
        await backend.aclose()
        return drawn

    live = asyncio.run(draws(transport=httpx.MockTransport(service), record=path))
    assert live == [(FeatureEdit(5, 0.25),), (FeatureEdit(5, 0.5),)]
    assert asyncio.run(draws(transport=Nowhere(), replay=path)) == live


EDITED = Steering((EditFeatures((FeatureEdit(5, 0.75), FeatureEdit(9, -0.25, "pin"))),))
LONG = "The first of these sentences is long enough to be cut, and the end differs"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (request(LONG, FUNNY, temperature=0.5, seed=3), "differs in temperature (0.5 asked, 0.6 recorded); ask what"),
        (request(LONG, FUNNY, temperature=0.6, seed=4), "differs in seed (4 asked, 3 recorded); ask what"),
        (
            request(LONG, EDITED, temperature=0.6, seed=3),
            "differs in controller.interventions[1].value (0.75 asked, 0.5 recorded);",
        ),
        (
            request(LONG + "!", FUNNY, temperature=0.6, seed=3, stop=("x",)),
            "messages[0].content ('…nd differs!' asked, '…nd differs' recorded); "
            'stop[0] ("x" asked, nothing recorded); stop (nothing asked, null recorded); ask',
        ),
    ],
)
def test_a_question_that_was_not_recorded_says_what_differs(tmp_path, asked, said):
    """A question that is not on the cassette is an error with the fields in which the nearest one differs."""
    path = tmp_path / "cassette.jsonl"
    far = request("something else", max_tokens=3, seed=8)
    record(path, Service(says()), far, request(LONG, FUNNY, temperature=0.6, seed=3))
    ((problem,), _) = replay(path, asked)
    assert str(problem).startswith(f"{path} doesn't hold this /chat/completions request; the nearest recorded one ")
    assert said in str(problem)


def test_many_differences_are_counted(tmp_path):
    """Where nearly all differs, five fields are named and the others counted."""
    path = tmp_path / "cassette.jsonl"
    record(path, Service(says()), request(FUNNY.fingerprint, FUNNY, temperature=0.6, seed=3))
    ((problem,), _) = replay(path, request("x", max_tokens=3))
    assert str(problem).count(" recorded)") == 5
    assert " and " in str(problem)


def test_a_call_of_a_kind_that_was_not_recorded_says_what_there_is(tmp_path):
    """A kind of call that is not on the cassette is an error with the kinds that are."""
    path = tmp_path / "cassette.jsonl"
    record(path, Service(says()), request())

    async def run():
        backend = await open_ember("m", replay=path)
        await backend.suggest_features("x", 1)

    with pytest.raises(
        EmberError, match="holds no GET /features/search, only GET /models, POST /chat/completions; rec"
    ):
        asyncio.run(run())


def test_a_killed_recording_goes_on(tmp_path):
    """A line torn by a killed run is passed over by a replay and cut off by the next recording."""
    path = tmp_path / "cassette.jsonl"
    record(path, Service(says()), request("a"), request("b"))
    path.write_bytes(path.read_bytes()[:-40])
    done, _ = replay(path, request("a"), request("b"))
    assert done[0].text == "a"
    assert isinstance(done[1], EmberError)
    record(path, Service(says()), request("b"))
    assert [one.text for one in replay(path, request("a"), request("b"))[0]] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be replayed .No such file"),
        ("", "holds no exchange"),
        ("hello\nyou\n", "line 1, is not an exchange"),
        ("{}\n", "line 1, is not an exchange .it is not of the format"),
        ('{"format": "steer-tasks cassette 1"}\n', "line 1, is not an exchange .it lacks 'request'"),
    ],
)
def test_what_is_no_cassette_is_refused(tmp_path, text, said):
    """A file that is missing, empty or something else is refused by its name and line."""
    path = tmp_path / "cassette.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SteerError, match=said):
        replay(path)


def test_another_file_is_not_recorded_over(tmp_path):
    """A file that is no cassette is never cut or written to."""
    path = tmp_path / "notes.txt"
    path.write_text("precious, no line break")
    with pytest.raises(SteerError, match="is not a cassette; give another path"):
        Recorder(path)
    assert path.read_text() == "precious, no line break"


def test_two_services_are_not_one_recording(tmp_path):
    """A cassette of two services is refused, and so is another address than the recorded one."""
    path = tmp_path / "cassette.jsonl"
    record(path, Service(says()), request("a"), base_url="http://one")
    with pytest.raises(Refused, match="was recorded from http://one, not http://two; leave the URL out"):
        replay(path, base_url="http://two")
    assert replay(path, request("a"), base_url="http://one/")[0][0].text == "a"
    record(path, Service(says()), request("a"), base_url="http://two")
    with pytest.raises(SteerError, match="holds exchanges with 2 services"):
        replay(path)


def test_a_recording_that_cannot_be_written_is_an_error(tmp_path):
    """Where the cassette can't be made the run ends before anything is asked."""
    with pytest.raises(SteerError, match=r"can't be recorded to .Is a directory.; give another path"):
        record(tmp_path, Service(says()), request())
    recorder = Recorder(tmp_path / "a.jsonl")
    assert stat.S_ISREG(os.stat(recorder.path).st_mode)
    recorder.close()
    recorder.close()
