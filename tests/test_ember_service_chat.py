"""Chat over the local Ember: the layout, the steering that a controller means, conditions, interrupts and streams."""

import asyncio
import json

import pytest

from model_adapters.backend import Message, Request, Sampling
from model_adapters.steering import AddVector, ClampFeature, Compare, Reading, Steering, When
from tests.tiny_backend import Passes, alone, another_model, user
from tests.tiny_service import (
    CHAT,
    FACTOR,
    LAYER,
    NAME,
    chat_body,
    compare,
    controller,
    scope,
    tiny_service,
    weights_of,
)

SAMPLED = {"temperature": 0.9, "top_p": 0.8, "seed": 42, "max_completion_tokens": 12}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with tiny_service(tmp_path_factory.mktemp("service"), api_key=None) as one:
        yield one


@pytest.fixture(scope="module")
def weights(service):
    return weights_of(service.folder)


def nudged(weights, index, value, positions="response"):
    """What a nudge means, by hand: a multiple of the decoder's column."""
    return AddVector(LAYER, weights["decoder_linear.weight"][:, index], FACTOR * value, positions)


def pinned(weights, index, value):
    """What a pin means, by hand."""
    encoder, bias = weights["encoder_linear.weight"][index], float(weights["encoder_linear.bias"][index])
    return ClampFeature(LAYER, encoder, bias, weights["decoder_linear.weight"][:, index], FACTOR * value)


def by_hand(service, steering, sampling):
    """The engine's own answer to `hello` under a steering that was resolved by hand."""
    return alone(service.backend, Request(user(), Steering(tuple(steering)), sampling))


GREEDY = Sampling(max_tokens=8)


def test_a_plain_answer_has_the_keys_that_the_sdk_needs(service):
    """An answer without a controller is the model's own, with every key the SDK requires and token counts."""
    body = service.chat({})
    expected = by_hand(service, (), GREEDY)
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": expected.text}
    assert choice["index"] == 0
    assert choice["finish_reason"] in ("stop", "length")
    assert (body["object"], body["model"]) == ("chat.completion", NAME)
    assert isinstance(body["created"], int)
    assert body["gf_event_names"] is None
    assert body["usage"] == {
        "prompt_tokens": expected.tokens_in,
        "completion_tokens": expected.tokens_out,
        "total_tokens": expected.tokens_in + expected.tokens_out,
    }
    for part in (f"layer={LAYER}", "factor=4", "positions=response", service.dictionary.digest):
        assert part in body["system_fingerprint"]


@pytest.mark.parametrize("sampling", [{"temperature": 0, "max_completion_tokens": 8}, SAMPLED])
@pytest.mark.parametrize("kind", ["nudge", "pin", "both"])
def test_a_controller_means_its_decoder_columns(service, weights, kind, sampling):
    """An edited answer equals the engine's answer under the vectors that the edits stand for, taken by hand."""
    edits = {
        "nudge": [service.edit(5, 0.75), service.edit(9, -0.5)],
        "pin": [service.edit(5, 1.5, "pin")],
        "both": [service.edit(9, -0.5), service.edit(5, 1.5, "pin")],
    }[kind]
    steering = {
        "nudge": [nudged(weights, 5, 0.75), nudged(weights, 9, -0.5)],
        "pin": [pinned(weights, 5, 1.5)],
        "both": [pinned(weights, 5, 1.5), nudged(weights, 9, -0.5)],
    }[kind]
    own = Sampling(
        max_tokens=sampling["max_completion_tokens"],
        temperature=sampling["temperature"],
        top_p=sampling.get("top_p", 1.0),
        seed=sampling.get("seed"),
    )
    body = service.chat({"controller": controller(*edits), "top_p": 1.0, **sampling})
    expected = by_hand(service, steering, own)
    assert body["choices"][0]["message"]["content"] == expected.text
    assert body["usage"]["completion_tokens"] == expected.tokens_out
    assert expected.token_ids != by_hand(service, (), own).token_ids, "these edits must show"
    assert body["steer"]["proof"]["level"] == "measured"
    assert body["steer"]["proof"]["fingerprint"] == body["steer"]["fingerprint"]
    assert body["steer"]["proof"]["response_tokens_touched"] == expected.proof.response_tokens_touched > 0


def test_nudges_of_one_feature_are_summed_and_a_pin_removes_them(service, weights):
    """Edits of one feature merge as the protocol's own rule says: nudges add up, a pin removes what came before."""
    summed = service.chat({"controller": controller(service.edit(5, 0.5), service.edit(5, 0.25))})
    assert summed["choices"][0]["message"]["content"] == by_hand(service, [nudged(weights, 5, 0.75)], GREEDY).text
    replaced = service.chat({"controller": controller(service.edit(5, 9.0), service.edit(5, 1.5, "pin"))})
    assert replaced["choices"][0]["message"]["content"] == by_hand(service, [pinned(weights, 5, 1.5)], GREEDY).text


def test_an_empty_controller_is_the_control(service):
    """A variant without edits sends a controller all the same, and answers as the model by itself."""
    assert service.chat({"controller": controller()})["choices"] == service.chat({})["choices"]


def condition(weights, index, operator, value):
    reading = Reading(LAYER, weights["encoder_linear.weight"][index], float(weights["encoder_linear.bias"][index]))
    return Compare(reading, operator, FACTOR * value)


def test_a_scope_acts_where_its_condition_holds(service, weights):
    """A scope's edits act on the tokens whose feature meets the threshold, in units of value."""
    guarded = scope(compare(service.group(7), ">", 0.3), controller(service.edit(5, 1.0)))
    body = service.chat({"controller": controller(scopes=[guarded])})
    expected = by_hand(service, [When(condition(weights, 7, ">", 0.3), (nudged(weights, 5, 1.0),))], GREEDY)
    assert body["choices"][0]["message"]["content"] == expected.text
    assert body["steer"]["proof"]["conditions_met"] == list(expected.proof.conditions_met)
    assert expected.proof.conditions_met[0] > 0


def test_an_event_stops_the_answer_and_is_named(service, weights):
    """An interrupt ends the answer where its condition holds, and the answer names the event."""
    event = "3b0a3f6e-5f0c-4d39-9d7f-4a4f6f1f0001"
    guarded = scope(compare(service.group(7), ">=", 0.0), controller(), event)
    body = service.chat({"controller": controller(scopes=[guarded])})
    assert body["gf_event_names"] == [event]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["steer"]["stop_reason"] == "interrupt"
    never = scope(compare(service.group(7), ">", 1e6), controller(), event)
    body = service.chat({"controller": controller(scopes=[never])})
    assert body["gf_event_names"] is None
    assert body["choices"] == service.chat({})["choices"]


def test_an_events_name_does_not_linger(service):
    """Two requests whose events differ in name alone each get back their own."""
    for name in ("one", "two"):
        guarded = scope(compare(service.group(7), ">=", 0.0), controller(), name)
        assert service.chat({"controller": controller(scopes=[guarded])})["gf_event_names"] == [name]


def test_the_messages_are_those_that_were_sent(service):
    """Nothing is added to the conversation; two system messages in a row, as the SDK sends them, stay two."""
    turns = [("system", "One."), ("system", "Two."), ("user", "hello"), ("assistant", "Yes?"), ("user", "Go.")]
    body = service.chat({"messages": [{"role": role, "content": text} for role, text in turns]})
    messages = tuple(Message(role, text) for role, text in turns)
    assert body["choices"][0]["message"]["content"] == alone(service.backend, Request(messages, sampling=GREEDY)).text


def test_stop_strings_and_limits_are_kept(service):
    """`stop` may be a text, a list or null, and both names of the limit are read."""
    whole = service.chat({"max_completion_tokens": 20})["choices"][0]["message"]["content"]
    cut = whole[3]
    for stop in (cut, [cut], ["<|eot_id|>", cut]):
        answer = service.chat({"stop": stop, "max_completion_tokens": 20})["choices"][0]
        assert answer["message"]["content"] == whole.split(cut)[0]
    body = chat_body(max_tokens=3, stop=None)
    del body["max_completion_tokens"]
    short = service.post(CHAT, body).json()
    assert short["usage"]["completion_tokens"] == 3
    assert short["choices"][0]["finish_reason"] == "length"


def test_a_nucleus_of_nothing_is_greedy(service):
    """`top_p` 0, which the protocol allows, takes the likeliest token at any temperature."""
    assert service.chat({"top_p": 0, "temperature": 1.9})["choices"] == service.chat({})["choices"]


def test_a_seed_repeats_and_no_seed_does_not(service):
    """The same seed gives the same answer; without one the answer says which seed it had, and that one repeats it."""
    given = {**SAMPLED, "max_completion_tokens": 24, "top_p": 1.0, "temperature": 1.5}
    assert service.chat(given)["choices"] == service.chat(given)["choices"]
    free = service.chat({**given, "seed": None})
    assert service.chat({**given, "seed": free["steer"]["seed"]})["choices"] == free["choices"]
    assert free["steer"]["seed"] != service.chat({**given, "seed": None})["steer"]["seed"]


def test_fields_of_other_clients_are_ignored_or_refused(service):
    """Unknown fields pass; those of OpenAI's protocol that would change an answer pass at their neutral value only."""
    more = {"user": "me", "n": 1, "logit_bias": {}, "store": True}
    assert service.chat(more)["choices"] == service.chat({})["choices"]
    for field in ({"n": 2}, {"logprobs": True}, {"tools": [{}]}, {"frequency_penalty": 0.5}):
        answer = service.post(CHAT, chat_body(**field))
        assert answer.status_code == 422
        assert next(iter(field)) in answer.text


def stream_events(service, **given):
    """The events of a streamed answer, as texts."""
    answer = service.post(CHAT, chat_body(stream=True, **given))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content.isascii()
    *events, rest = answer.text.split("\n\n")
    assert rest == ""
    return events


@pytest.mark.parametrize("given", [{}, SAMPLED, {"stop": "e", "max_completion_tokens": 40}])
def test_a_stream_adds_up_to_the_plain_answer(service, given):
    """The texts of a stream's events in order are the plain answer, and the last event before the end mark says why."""
    edits = {"controller": controller(service.edit(5, 0.75)), **given}
    plain = service.chat(edits)
    *events, done = stream_events(service, **edits)
    assert done == "data: [DONE]"
    chunks = [json.loads(one.removeprefix("data: ")) for one in events]
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert text == plain["choices"][0]["message"]["content"]
    assert [chunk["choices"][0]["gf_token_index"] for chunk in chunks] == list(range(len(chunks)))
    assert {chunk["choices"][0]["delta"]["role"] for chunk in chunks} == {"assistant"}
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    last = chunks[-1]
    assert last["choices"][0]["finish_reason"] == plain["choices"][0]["finish_reason"]
    assert last["usage"] == plain["usage"]
    assert last["steer"] == plain["steer"]


def test_a_stream_names_its_events(service):
    """A streamed answer that an interrupt ended names the event in its last chunk."""
    guarded = scope(compare(service.group(7), ">=", 0.0), controller(), "halt")
    *events, _ = stream_events(service, controller=controller(scopes=[guarded]))
    assert json.loads(events[-1].removeprefix("data: "))["gf_event_names"] == ["halt"]


def test_a_refused_stream_has_a_status(service):
    """A stream that can't begin is refused with a status, as a plain request is."""
    assert service.post(CHAT, chat_body(stream=True, messages=[])).status_code == 422
    long = [{"role": "user", "content": "x" * 1200}]
    assert service.post(CHAT, chat_body(stream=True, messages=long)).status_code == 422


def test_different_controllers_share_forward_passes(tmp_path):
    """Requests made at the same time with different controllers go through the model together."""
    model = another_model()
    with tiny_service(tmp_path, model=model) as service, Passes(model) as passes:
        bodies = [chat_body(controller=controller(service.edit(index, 0.5))) for index in range(6)]

        async def at_once():
            async with service.client() as client:
                return await asyncio.gather(*(client.post(CHAT[1:], json=body) for body in bodies))

        together = [answer.json()["choices"] for answer in asyncio.run(at_once())]
        assert max(rows for rows, _ in passes.shapes) == 6
        assert together == [service.chat({"controller": body["controller"]})["choices"] for body in bodies]


def test_terms_of_the_service_change_what_edits_do(tmp_path, weights, service):
    """Layer, factor and positions that the service was opened with are those its edits act by."""
    with tiny_service(tmp_path, layer=1, factor=8.0, positions="all") as other:
        body = other.chat({"controller": controller(other.edit(5, 0.75))})
        column = weights["decoder_linear.weight"][:, 5]
        expected = by_hand(other, [AddVector(1, column, 8.0 * 0.75, "all")], GREEDY)
        assert body["choices"][0]["message"]["content"] == expected.text
        assert body["steer"]["fingerprint"] == expected.proof.fingerprint
        assert "layer=1;factor=8;positions=all" in body["system_fingerprint"]
