"""What the local Ember refuses, with which status, and how it says so."""

import asyncio
import json

import httpx
import pytest

from model_adapters.ember_service.app import create_app
from model_adapters.ember_service.identifiers import feature_id
from model_adapters.errors import SteerError
from tests.tiny_service import CHAT, NAME, TinyService, chat_body, compare, controller, scope, tiny_service

CONVERSATION = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with tiny_service(tmp_path_factory.mktemp("service"), body_bytes=200_000) as one:
        yield one


def many(count):
    return [{"role": "user", "content": "a"}] * count


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": []}),
        (CHAT, {"messages": many(129)}),
        (CHAT, {"messages": [{"role": "robot", "content": "a"}]}),
        (CHAT, {"messages": [{"role": "user", "content": None}]}),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 1100}]}),
        (CHAT, {"messages": CONVERSATION, "top_p": 1.1}),
        (CHAT, {"messages": CONVERSATION, "top_p": -0.1}),
        (CHAT, {"messages": CONVERSATION, "temperature": 2.1}),
        (CHAT, {"messages": CONVERSATION, "temperature": -1}),
        (CHAT, {"messages": CONVERSATION, "max_completion_tokens": 0}),
        (CHAT, {"messages": CONVERSATION, "stop": [""]}),
        (CHAT, {"messages": CONVERSATION, "controller": {}}),
        (CHAT, {"messages": CONVERSATION, "controller": []}),
        (CHAT, {"messages": CONVERSATION, "model": "gpt-4"}),
        ("/chat/tokenize", {"messages": []}),
        ("/chat-attribution/compute-logits", {"messages": CONVERSATION, "top_k": 0}),
        ("/chat-attribution/compute-logits", {"messages": CONVERSATION, "filter_vocabulary": ["AB"]}),
        ("/chat-attribution/compute-logits", {"messages": CONVERSATION, "model": "other"}),
        ("/features/rerank", {"query": "a", "feature_ids": ["nonsense"]}),
        ("/features/rerank", {"query": "a", "feature_ids": [feature_id("f" * 16, 1)]}),
        ("/features/rerank", {"query": "a", "feature_ids": [], "top_k": 8193}),
        ("/features/rerank", {"query": "a", "feature_ids": ["a"] * 8193}),
        ("/features/lookup", {"indices": [48]}),
        ("/features/lookup", {"indices": [-1]}),
        ("/attributions/neighbors", {"feature_indices": []}),
        ("/attributions/neighbors", {"feature_indices": [0] * 2049}),
        ("/attributions/neighbors", {"feature_indices": [0], "top_k": 8193}),
        ("/attributions/neighbors", {"feature_indices": [0], "top_k": 0}),
        ("/chat-attribution/compute-features", {"messages": CONVERSATION, "aggregate_by": "frequency"}),
        ("/chat-attribution/compute-features", {"messages": CONVERSATION, "include_feature_indexes": [0] * 513}),
        ("/chat-attribution/compute-features", {"messages": CONVERSATION, "include_feature_indexes": [48]}),
        ("/chat-attribution/compute-features", {"messages": [{"role": "user", "content": "x" * 1100}]}),
        ("/chat-attribution/contrast", {"dataset_1": [], "dataset_2": []}),
        ("/chat-attribution/contrast", {"dataset_1": [CONVERSATION] * 65, "dataset_2": [CONVERSATION] * 65}),
        ("/chat-attribution/contrast", {"dataset_1": [CONVERSATION], "dataset_2": [CONVERSATION] * 2}),
        ("/chat-attribution/contrast", {"dataset_1": [[]], "dataset_2": [[]]}),
        ("/chat-attribution/contrast", {"dataset_1": [CONVERSATION], "dataset_2": [CONVERSATION], "k_to_add": 8193}),
        ("/attributions/compute-logit-attribution", {"messages": CONVERSATION, "startIndex": 0, "endIndex": 0}),
        ("/attributions/compute-logit-attribution", {"messages": CONVERSATION, "startIndex": 999, "endIndex": 999}),
        ("/attributions/compute-logit-attribution", {"messages": CONVERSATION, "startIndex": 1, "endIndex": 2}),
        ("/features/auto-edits", {"specification": " "}),
        ("/features/auto-conditional", {"specification": "when quokkas zigzag"}),
        ("/features/auto-edits", {"specification": "be funny", "draw": -1}),
    ],
)
def test_beyond_a_limit_is_422(service, path, body):
    """What lies outside the protocol's limits is 422, in the layout `detail: [{type, loc, msg}]`."""
    answer = service.post(path, body)
    assert answer.status_code == 422, answer.text
    for one in answer.json()["detail"]:
        assert set(one) == {"type", "loc", "msg"}
        assert one["loc"][0] in ("body", "query")


@pytest.mark.parametrize("query", [{"perPage": 101}, {"perPage": 0}, {"page": 0}, {"model": "other"}])
def test_beyond_a_searchs_limits_is_422(service, query):
    """A search page holds 1 to 100 features, of a model that is served."""
    assert service.ask("GET", "/features/search", params={"query": "a", "model": NAME, **query}).status_code == 422


def test_at_the_limits_it_works(service):
    """128 messages, temperature 2, 100 results and 2048 neighbors of one feature are taken."""
    assert service.post(CHAT, chat_body(messages=many(40), temperature=2, top_p=1)).status_code == 200
    found = service.ask("GET", "/features/search", params={"query": "ships", "model": NAME, "perPage": 100})
    assert found.status_code == 200
    assert service.post("/attributions/neighbors", {"feature_indices": [1] * 2048, "top_k": 8192}).status_code == 200


def refused_controller(service, given):
    answer = service.post(CHAT, chat_body(controller=given))
    assert answer.status_code == 422, answer.text
    (one,) = answer.json()["detail"]
    assert one["loc"] == ["body", "controller"]
    return one["msg"]


def test_an_edit_that_is_not_understood_is_never_dropped(service):
    """Unknown modes, operators, indices and options of a controller are refused by name, at any depth."""
    assert "mul" in refused_controller(service, controller(service.edit(1, 1.0, "mul")))
    assert "48" in refused_controller(service, controller(service.edit(48, 1.0)))
    odd = scope(compare(service.group(1), "~", 1.0), controller(service.edit(1, 1.0)))
    assert "~" in refused_controller(service, controller(scopes=[odd]))
    beyond = scope(compare(service.group(1), ">", service.group(99)), controller(service.edit(1, 1.0)))
    assert "99" in refused_controller(service, controller(scopes=[beyond]))
    assert "entropy" in refused_controller(service, {**controller(), "min_nudge_entropy": 0.5})
    assert "huge" in refused_controller(service, controller({"mode": "nudge", "value": "huge", "features": {}}))


def test_a_feature_of_another_dictionary_is_refused(service):
    """A feature whose id says another dictionary, or another index than `index_in_sae`, is refused."""
    foreign = service.edit(1, 1.0)
    foreign["features"]["features"][0]["uuid"] = feature_id("f" * 16, 1)
    assert "another dictionary" in refused_controller(service, controller(foreign))
    swapped = service.edit(1, 1.0)
    swapped["features"]["features"][0]["index_in_sae"] = 2
    assert "feature 1" in refused_controller(service, controller(swapped))


def test_a_value_that_is_no_number_is_refused(service):
    """Not-a-number and infinity, which JSON as Python reads it can hold, are refused."""
    for value in ("NaN", "Infinity"):
        body = json.dumps(chat_body(controller=controller(service.edit(1, 1.0))))
        body = body.replace('"value": 1.0', f'"value": {value}')
        answer = service.ask("POST", CHAT, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        body = json.dumps(chat_body()).replace('"temperature": 0', f'"temperature": {value}')
        answer = service.ask("POST", CHAT, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422


def test_what_was_sent_is_not_repeated_in_a_refusal(service):
    """A refusal says what and where, not the text of the conversation."""
    answer = service.post(CHAT, chat_body(messages=[{"role": "user", "content": ["a private text"]}]))
    assert answer.status_code == 422
    assert "private" not in answer.text


@pytest.mark.parametrize("text", ["", "{", "[]", '"a"', "\xff"])
def test_a_body_that_is_no_object_is_422(service, text):
    """Malformed JSON and JSON that is no object are the client's error."""
    content = text.encode("latin-1")
    answer = service.ask("POST", CHAT, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


def test_a_large_body_is_413(service):
    """A body over the limit is refused, announced or not."""
    body = json.dumps(chat_body(messages=[{"role": "user", "content": "x" * 200_000}])).encode()

    async def pieces():
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    assert service.ask("POST", CHAT, content=body).status_code == 413
    assert service.ask("POST", CHAT, content=pieces()).status_code == 413


def test_a_key_is_asked_for_where_one_is_set(service):
    """With a key set every path answers 401 to a request without it, and the key is never in the answer."""
    keyed = TinyService(service.backend, service.dictionary, service.folder, api_key="s3cret-key")
    for path in ("/models", "/features/search", "/nowhere"):
        for header in ({}, {"Authorization": "Bearer s3cret"}, {"Authorization": "s3cret-key"}):
            answer = keyed.ask("GET", path, headers=header)
            assert answer.status_code == 401
            assert "s3cret" not in answer.text
    assert keyed.ask("GET", "/models", headers={"Authorization": "Bearer s3cret-key"}).status_code == 200
    assert keyed.ask("GET", "/models", headers={"authorization": "bearer s3cret-key"}).status_code == 200


def test_too_many_requests_are_429(service):
    """One request more than may be under way is told when to ask again, and the others are answered."""
    small = TinyService(service.backend, service.dictionary, service.folder, most_requests=2)

    async def at_once():
        async with small.client() as client:
            asked = [client.post(CHAT[1:], json=chat_body()) for _ in range(3)]
            return await asyncio.gather(*asked)

    answers = asyncio.run(at_once())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429]
    (late,) = [answer for answer in answers if answer.status_code == 429]
    assert late.headers["retry-after"] == "1"
    assert small.ask("GET", "/models").status_code == 200


def test_nothing_is_redirected(service):
    """A path with a slash too many or too few is 404, never a redirect, which the SDK takes for success."""
    for path in ("/features", "/chat/completions/", "/models/", "/nowhere"):
        assert service.ask("GET", path).status_code in (404, 405)


def test_the_models_are_named(service):
    """The service says which model and dictionary it is, under each of its names."""
    both = TinyService(service.backend, service.dictionary, service.folder, names=[NAME, "an/alias", NAME])
    answer = both.ask("GET", "/models").json()
    assert [one["id"] for one in answer["data"]] == [NAME, "an/alias"]
    steer = answer["data"][1]["steer"]
    assert steer["identity_digest"] == service.backend.identity.digest
    assert steer["identity"] == json.loads(json.dumps(service.backend.identity.as_dict()))
    assert steer["dictionary"] == {
        "name": "tiny-random",
        "digest": service.dictionary.digest,
        "layer": 2,
        "factor": 4.0,
        "activation": "relu",
    }
    assert (steer["positions"], steer["draws"]) == ("response", True)
    assert both.post(CHAT, chat_body(model="an/alias")).json()["model"] == "an/alias"


def test_a_dictionary_that_does_not_fit_is_refused(service):
    """A service whose steering layer the model doesn't have, or without a name, is refused before it answers."""
    with pytest.raises(SteerError, match="layers 0 to 3"):
        create_app(service.backend, service.dictionary, names=[NAME], layer=4)
    with pytest.raises(SteerError, match="name"):
        create_app(service.backend, service.dictionary, names=[])


def test_an_answer_whose_proof_fails_is_withheld(service, monkeypatch):
    """An answer that ran under another steering than was asked is a server error, and its text isn't sent."""
    from dataclasses import replace

    complete = service.backend.complete

    async def unsteered(request):
        done = await complete(request)
        return replace(done, proof=replace(done.proof, fingerprint="0" * 16))

    monkeypatch.setattr(service.backend, "complete", unsteered)
    answer = service.post(CHAT, chat_body(controller=controller(service.edit(5, 1.0))))
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "NotApplied"
    assert isinstance(answer, httpx.Response)
