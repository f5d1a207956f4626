"""The Ember backend: what it sends, what it understands, what it refuses, and how it says who answered."""

import asyncio
import json
from collections.abc import Mapping

import httpx
import numpy as np
import pytest

from model_adapters.backend import (
    Backend,
    LayerDose,
    Message,
    Request,
    Sampling,
    SuggestedFeature,
    SuggestsEdits,
    SuggestsFeatures,
    Text,
)
from model_adapters.backends.ember import HOSTED, IN_PROCESS, open_ember, service_address
from model_adapters.backends.ember.answer import ServiceFeature
from model_adapters.backends.ember.call import EmberError
from model_adapters.backends.ember.request import chat_payload
from model_adapters.behavior import find_behavior
from model_adapters.controller import steering_of
from model_adapters.controller_json import controller_of, feature_id
from model_adapters.errors import NotApplied, Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import (
    CONTROL,
    AblateDirection,
    AddVector,
    AllOf,
    ClampFeature,
    EditFeatures,
    FeatureCompare,
    FeatureEdit,
    Steering,
    SystemPrompt,
    When,
)
from tests.ember_server import chat_body

ROOT = "/api/inference/v1"
ONES = np.ones(3, np.float32)
MESSAGES = (Message("system", "Be brief."), Message("user", "Hi"))
FUNNY = Steering((EditFeatures((FeatureEdit(5, 0.5), FeatureEdit(9, -0.25, "pin"))),))
ABORT = When(FeatureCompare((6,), ">", 0.75), (), event="stop now")

SERVICE = ModelIdentity("embedded", "local", model_digest="abc", revision="r1", dtype="bfloat16", template_digest="t1")
DICTIONARY = {"name": "demo", "digest": "d1", "layer": 14, "factor": 9.0, "activation": "relu"}


def models(*names, **changes):
    """What our own service says of itself."""
    steer = {
        "identity": SERVICE.as_dict(),
        "identity_digest": SERVICE.digest,
        "dictionary": DICTIONARY,
        "positions": "response",
        "draws": True,
        **changes,
    }
    return {"object": "list", "data": [{"id": name, "object": "model", "steer": steer} for name in names]}


class Service:
    """A service at the end of a transport: answers by path, and keeps what it was sent."""

    def __init__(self, answers=None, *, listed=None):
        self.answers: Mapping = answers or {}
        self.listed, self.sent = listed, []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix(ROOT)
        if path == "/models":
            return httpx.Response(404, json={}) if self.listed is None else httpx.Response(200, json=self.listed)
        sent = json.loads(request.content) if request.content else dict(request.url.params)
        self.sent.append((request.method, path, sent))
        answer = self.answers.get(path, lambda sent: chat_body("ha"))
        return httpx.Response(200, json=answer(sent) if callable(answer) else answer)


def using(service, work, model="m", **options):
    """What `work` gives with a backend on `service`."""

    async def run():
        backend = await open_ember(model, transport=httpx.MockTransport(service), **options)
        try:
            return await work(backend)
        finally:
            await backend.aclose()

    return asyncio.run(run())


def complete(service, request, model="m", **options):
    return using(service, lambda backend: backend.complete(request), model, **options)


def applied(sent):
    """What our own service adds to an answer when it did what it was sent."""
    steering = steering_of(sent["controller"]) if "controller" in sent else CONTROL
    proof = {
        "level": "measured",
        "fingerprint": "resolved",
        "identity": "i",
        "prompt_tokens_touched": 0,
        "response_tokens_touched": 3,
        "first_response_token": True,
        "doses": [{"layer": 14, "dose": 0.25, "first_position_dose": None}],
        "conditions_met": [2],
    }
    return {"proof": proof, "fingerprint": "resolved", "source_fingerprint": steering.fingerprint}


def honest(sent):
    return chat_body("ha", usage={"prompt_tokens": 7, "completion_tokens": 3}, steer=applied(sent))


# What is sent.


def test_messages_are_sent_as_given():
    """The messages go out as they are; only the steering's own system prompt enters them, and no other text."""
    service = Service()
    steering = Steering((SystemPrompt("Be funny."), *FUNNY.interventions))
    done = complete(service, Request(MESSAGES, steering))
    ((_, _, sent),) = service.sent
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief.\n\nBe funny."},
        {"role": "user", "content": "Hi"},
    ]
    assert done.messages_sent == (Message("system", "Be brief.\n\nBe funny."), Message("user", "Hi"))
    service = Service()
    complete(service, Request((Message("user", "Hi"),)))
    assert service.sent[0][2]["messages"] == [{"role": "user", "content": "Hi"}]


def test_every_setting_is_said():
    """A request says each of its settings, so that no default of the service enters."""
    service = Service()
    complete(service, Request(MESSAGES, sampling=Sampling(max_tokens=30, temperature=0, top_p=1, seed=4)))
    assert service.sent == [
        (
            "POST",
            "/chat/completions",
            {
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
                "stream": False,
                "max_completion_tokens": 30,
                "top_p": 1.0,
                "temperature": 0.0,
                "stop": None,
                "seed": 4,
                "model": "m",
            },
        )
    ]


def test_edits_travel_as_a_controller():
    """Stop texts, streaming and the controller are in the body, and rendering it sends nothing."""
    request = Request(MESSAGES, FUNNY, Sampling(stop=("\n", "x"), temperature=0.6, seed=3), sample_index=2)
    service = Service()

    async def work(backend):
        rendered = backend.payload(request)
        assert service.sent == []
        await backend.complete(request)
        return rendered

    rendered = using(service, work, stream=True)
    assert rendered == service.sent[0][2] == chat_payload(request, "m", stream=True)
    assert rendered["controller"] == controller_of(FUNNY)
    assert rendered["stop"] == ["\n", "x"]
    assert rendered["stream"] is True
    assert rendered["seed"] not in (3, None)


def test_samples_have_seeds_of_their_own():
    """Without a seed each sampled request draws one and the completion says which; with one it is sent."""
    service = Service()
    request = Request(MESSAGES, sampling=Sampling(temperature=0.6))

    async def work(backend):
        return [await backend.complete(request) for _ in range(3)]

    done = using(service, work)
    seeds = [sent["seed"] for _, _, sent in service.sent]
    assert [one.seed for one in done] == seeds
    assert len(set(seeds)) == 3
    assert complete(Service(), Request(MESSAGES, sampling=Sampling(temperature=0.6, seed=42))).seed == 42
    assert complete(Service(), Request(MESSAGES, sampling=Sampling(seed=42))).seed is None


# What is understood.


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", "stop"), ("length", "max_tokens"), (None, "unknown"), ("odd", "unknown")]
)
def test_an_answer_is_read(reason, expected):
    """Text, token counts and the reason of ending come from the answer; what it lacks is None."""
    body = chat_body("ha", usage={"prompt_tokens": 7, "completion_tokens": 3})
    body["choices"][0]["finish_reason"] = reason
    done = complete(Service({"/chat/completions": body}), Request(MESSAGES))
    assert (done.text, done.stop_reason, done.tokens_in, done.tokens_out) == ("ha", expected, 7, 3)
    assert done.events == ()
    bare = complete(Service(), Request(MESSAGES))
    assert (bare.tokens_in, bare.tokens_out) == (None, None)


def test_an_event_interrupts():
    """An event of the steering that fired is named and the answer counts as interrupted; others' events don't."""
    answer = chat_body("Once upon", gf_event_names=["not ours", "stop now"])
    service = Service({"/chat/completions": answer})
    done = complete(service, Request(MESSAGES, Steering((ABORT,))))
    assert (done.text, done.stop_reason, done.events) == ("Once upon", "interrupt", ("stop now",))
    done = complete(service, Request(MESSAGES, FUNNY))
    assert (done.stop_reason, done.events) == ("stop", ())


def test_a_prompt_is_sent_and_edits_are_acknowledged():
    """Without a controller the proof is `sent`; a service that took one acknowledged it, and nothing was measured."""

    async def work(backend):
        done = [await backend.complete(Request(MESSAGES, one)) for one in (CONTROL, FUNNY)]
        return done, backend.identity, [backend.acknowledged(one) for one in (CONTROL, FUNNY)]

    (control, edited), identity, said = using(Service(), work)
    assert [control.proof.level, edited.proof.level] == ["sent", "acknowledged"]
    assert edited.proof.fingerprint == FUNNY.fingerprint
    assert edited.proof.identity == identity.run(FUNNY.fingerprint)
    assert edited.proof.response_tokens_touched is None
    assert said == [control.proof, edited.proof]


def test_our_own_service_says_what_it_measured():
    """Counts and doses of our own service are in the proof, which stays `acknowledged`."""
    service = Service({"/chat/completions": honest}, listed=models("m"))
    steering = Steering((SystemPrompt("Be funny."), *FUNNY.interventions))
    proof = complete(service, Request(MESSAGES, steering)).proof
    assert proof.level == "acknowledged"
    assert proof.fingerprint == steering.fingerprint
    assert (proof.prompt_tokens_touched, proof.response_tokens_touched, proof.first_response_token) == (0, 3, True)
    assert proof.doses == (LayerDose(14, 0.25, None),)
    assert proof.conditions_met == (2,)
    assert complete(service, Request(MESSAGES)).proof.level == "sent"


@pytest.mark.parametrize("steering", [CONTROL, FUNNY])
def test_what_was_not_asked_for_is_withheld(steering):
    """An answer under other edits than those sent is withheld, for the control too."""

    def other(sent):
        return chat_body("ha", steer={**applied(sent), "source_fingerprint": "ffff"})

    with pytest.raises(NotApplied, match=f"edits {steering.fingerprint} were sent, .* applied ffff; the answer is wit"):
        complete(Service({"/chat/completions": other}, listed=models("m")), Request(MESSAGES, steering))


def test_silence_of_our_own_service_is_withheld():
    """A service that says what it applies, and doesn't for this answer, is not believed."""
    with pytest.raises(NotApplied, match="does not say that it applied the edits"):
        complete(Service(listed=models("m")), Request(MESSAGES, FUNNY))


# What is refused.

FITTING = {"dictionary": "d1", "layer": 14, "factor": 9.0}
OTHERS = {"dictionary": "d2", "layer": 3, "factor": 12.0, "positions": "all"}


@pytest.mark.parametrize("name", OTHERS)
def test_edits_for_another_dictionary_or_place_are_refused(name):
    """Edits that say another dictionary, layer, factor or positions than the service has are refused by name."""
    edits = EditFeatures((FeatureEdit(5, 0.5),), **{name: OTHERS[name]})
    guarded = When(FeatureCompare((1,), ">", 0.5), (edits,))
    for one in (edits, guarded):
        with pytest.raises(
            Refused, match=rf"EditFeatures: {name} {OTHERS[name]} is asked for, .* has .*; leave {name}"
        ):
            complete(Service(listed=models("m")), Request(MESSAGES, Steering((one,))))
    with pytest.raises(Refused, match=rf"{name} {OTHERS[name]} is asked for, .* doesn't disclose its {name}"):
        complete(Service(), Request(MESSAGES, Steering((edits,))))


@pytest.mark.parametrize("name", FITTING)
def test_conditions_for_another_dictionary_or_place_are_refused(name):
    """The same holds for a condition's dictionary, layer and factor, however deep it lies."""
    leaf = FeatureCompare((1,), ">", 0.5, **{name: OTHERS[name]})
    steering = Steering((When(AllOf((FeatureCompare((2,), ">", 0.5), leaf)), FUNNY.interventions),))
    with pytest.raises(Refused, match=f"FeatureCompare: {name} {OTHERS[name]} is asked for"):
        complete(Service(listed=models("m")), Request(MESSAGES, steering))


def test_edits_that_say_what_the_service_has_are_sent():
    """Edits and conditions that name the service's own dictionary, layer, factor and positions run."""
    edits = EditFeatures((FeatureEdit(5, 0.5),), positions="response", **FITTING)
    steering = Steering((edits, When(FeatureCompare((1,), ">", 0.5, **FITTING), (edits,))))
    service = Service({"/chat/completions": honest}, listed=models("m"))
    assert complete(service, Request(MESSAGES, steering)).proof.fingerprint == steering.fingerprint


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request(MESSAGES, Steering((AddVector(0, ONES),))), "AddVector holds vectors"),
        (Request(MESSAGES, Steering((ClampFeature(0, ONES, 0.0, ONES, 1.0),))), "ClampFeature holds vectors"),
        (Request(MESSAGES, Steering((AblateDirection(0, ONES),))), "AblateDirection holds vectors"),
        (Request(Text("Hi")), "takes messages, not rendered text; send messages"),
        (Request(()), "there are no messages"),
        (Request(MESSAGES, sampling=Sampling(top_k=5)), "top_k=5 has no place in this protocol"),
    ],
)
def test_what_a_service_cannot_do_is_refused_before_anything_is_sent(request_, said):
    """Vectors, rendered text and settings without a place are refused by name, and nothing is sent."""
    service = Service()
    with pytest.raises(Refused, match=said):
        complete(service, request_)
    assert service.sent == []


# Who answers.


def test_a_service_that_says_nothing_is_known_by_its_address():
    """Identity is address and model name where the service discloses no more."""
    identity = using(Service(), lambda backend: _value(backend.identity), base_url="http://ember:80/x/")
    assert identity == ModelIdentity("m", "ember", url="http://ember/x")
    foreign = Service(listed={"object": "list", "data": [{"id": "m", "object": "model"}, {"id": "n"}]})
    assert using(foreign, lambda backend: _value(backend.identity)).url == IN_PROCESS


async def _value(value):
    return value


def test_what_a_service_discloses_makes_its_identity():
    """Weights, template, dictionary and how it applies edits are in the identity of our own service's model."""
    identity = using(Service(listed=models("other", "m")), lambda backend: _value(backend.identity))
    assert (identity.model_digest, identity.revision, identity.dtype) == ("abc", "r1", "bfloat16")
    assert (identity.template_digest, identity.dictionary_digest) == ("t1", "d1")
    assert identity.arguments["service"] == SERVICE.digest


@pytest.mark.parametrize(
    "change",
    [
        {"identity_digest": "other"},
        {"identity": {**SERVICE.as_dict(), "model_digest": "other"}},
        {"dictionary": {**DICTIONARY, "digest": "other"}},
        {"dictionary": {**DICTIONARY, "layer": 15}},
        {"dictionary": {**DICTIONARY, "factor": 12.0}},
        {"positions": "all"},
    ],
)
def test_another_configuration_is_another_identity(change):
    """A service with another model, dictionary, layer, factor or positions is never taken for this one."""
    one, other = (
        using(Service(listed=models("m", **changes)), lambda backend: _value(backend.identity))
        for changes in ({}, change)
    )
    assert one.digest != other.digest


def test_a_name_does_not_make_another_model():
    """A service that serves one model under two names has one identity for both."""
    service = Service(listed=models("m", "meta-llama/Meta-Llama-3.1-8B-Instruct"))
    one, other = (
        using(service, lambda backend: _value(backend.identity), name)
        for name in ("m", "meta-llama/Meta-Llama-3.1-8B-Instruct")
    )
    assert one.digest == other.digest


def test_a_model_that_is_not_served_is_refused():
    """A model name that our own service doesn't serve is refused at once with the names it serves."""
    with pytest.raises(EmberError, match="serves embedded, n, not m; give one of these"):
        using(Service(listed=models("embedded", "n")), _value)


def test_a_backend_has_the_seams_protocols():
    """The client is a backend that finds features and edits."""

    async def work(backend):
        one: Backend = backend
        return isinstance(one, SuggestsFeatures), isinstance(one, SuggestsEdits), one.name

    assert using(Service(), work) == (True, True, "ember")


# Addresses and keys.


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("GOODFIRE_API_KEY", "GOODFIRE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_environment")
def test_without_key_and_address_there_is_no_service():
    """With neither a key nor an address the client says what to set, and never falls back to anything."""
    with pytest.raises(Refused, match="neither GOODFIRE_API_KEY nor a base URL is set; set one, or start a service"):
        asyncio.run(open_ember("m"))


@pytest.mark.usefixtures("no_environment")
def test_a_key_alone_means_the_hosted_service(monkeypatch):
    """With a key and no address the hosted service is asked, and its failure is an error."""
    monkeypatch.setenv("GOODFIRE_API_KEY", "gf-planted-Zq81xTn4vW7r")
    with pytest.raises(EmberError, match=f"GET {HOSTED}/api/inference/v1/models: no answer"):
        asyncio.run(open_ember("m", attempts=1))


@pytest.mark.usefixtures("no_environment")
def test_the_address_may_come_from_the_environment(monkeypatch):
    """GOODFIRE_BASE_URL is the address where none is given, with a key or without."""
    monkeypatch.setenv("GOODFIRE_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(EmberError, match=r"GET http://127\.0\.0\.1:9/api/inference/v1/models: no answer"):
        asyncio.run(open_ember("m", attempts=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        (" https://Host/ ", "https://host"),
        ("http://host/api/inference/v1/", "http://host"),
        ("http://host/ember/", "http://host/ember"),
    ],
)
def test_addresses_are_kept_in_one_form(text, expected):
    """The address that OpenAI's client is given, and one with a slash at its end, are the service's own address."""
    assert service_address(text) == expected


@pytest.mark.parametrize("text", ["localhost:8080", "ftp://host", "http://", "//host", "http://host:port", ""])
def test_what_is_no_address_is_refused(text):
    """What isn't an address of HTTP is refused with an example of one."""
    with pytest.raises(Refused, match="give one like https://host:port"):
        service_address(text)


@pytest.mark.parametrize("text", ["http://user:secret@host", "http://host/?key=secret", "http://host/#secret"])
def test_an_address_with_a_secret_is_refused_without_showing_it(text):
    """A password or query in an address is refused, and not shown."""
    with pytest.raises(Refused, match="holds a user, a query or a fragment") as caught:
        service_address(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"record": "a", "replay": "b"}, "record and replay exclude each other"),
        ({"concurrency": 0}, "concurrency is 0; it is at least 1"),
        ({"attempts": 0}, "attempts is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    """Arguments that contradict each other or allow nothing are refused by name."""
    with pytest.raises(Refused, match=said):
        using(Service(), _value, **options)


# Logits, features and edits.


def test_logits_of_the_letters():
    """The logits of given texts come back in the order asked, under the steering; the request names only them."""
    service = Service({"/chat-attribution/compute-logits": {"logits": {"B": 2, "A": 1.5, "Z": 9}}})
    steering = Steering((SystemPrompt("Be funny."), *FUNNY.interventions))
    found = using(service, lambda backend: backend.logits(MESSAGES, ["A", "B"], steering))
    assert list(found.items()) == [("A", 1.5), ("B", 2.0)]
    ((method, _, sent),) = service.sent
    assert method == "POST"
    assert sent == {
        "messages": [
            {"role": "system", "content": "Be brief.\n\nBe funny."},
            {"role": "user", "content": "Hi"},
        ],
        "top_k": 2,
        "filter_vocabulary": ["A", "B"],
        "model": "m",
        "controller": controller_of(steering),
    }


@pytest.mark.parametrize(
    ("logits", "said"),
    [
        ({"A": 1.0}, "there is no logit for 'B'"),
        ({"A": 1.0, "B": None}, "the logit of 'B' is None"),
        ({"A": 1.0, "B": True}, "the logit of 'B' is True"),
        ({"A": 1.0, "B": 10**400}, "the logit of 'B' is 1000"),
        (None, "'logits' is None"),
    ],
)
def test_missing_logits_are_an_error(logits, said):
    """A letter without a finite logit is an error by its name, never a guess."""
    service = Service({"/chat-attribution/compute-logits": {"logits": logits}})
    with pytest.raises(EmberError, match=rf"POST {IN_PROCESS}/.*compute-logits: .*{said}"):
        using(service, lambda backend: backend.logits(MESSAGES, ["A", "B"]))


def test_logits_of_nothing_are_refused():
    """Logits of no text, and of steerings that a service can't run, are refused."""
    with pytest.raises(Refused, match="no token texts"):
        using(Service(), lambda backend: backend.logits(MESSAGES, []))
    with pytest.raises(Refused, match="AddVector holds vectors"):
        using(Service(), lambda backend: backend.logits(MESSAGES, ["A"], Steering((AddVector(0, ONES),))))


def found(index, label="x", **more):
    return {"uuid": feature_id(index), "label": label, "index_in_sae": index, **more}


def test_features_are_searched():
    """A search sends what the protocol has and gives index, label and relevance, 1 where none is given."""
    service = Service({"/features/search": {"features": [found(5, "jokes", relevance=0.75), found(9, "puns")]}})
    got = using(service, lambda backend: backend.suggest_features("funny", 2))
    assert got == (SuggestedFeature(5, "jokes", 0.75), SuggestedFeature(9, "puns", 1.0))
    sent = {"query": "funny", "page": "1", "perPage": "2", "model": "m"}
    assert service.sent == [("GET", "/features/search", sent)]


def test_neighbors_and_lookup():
    """Neighbors and labels are asked for by index."""
    service = Service(
        {
            "/attributions/neighbors": {"neighbors": [found(7, "wit")]},
            "/features/lookup": {"features": [found(5, "jokes")]},
        }
    )

    async def work(backend):
        return await backend.neighbors([5, 9], 3), await backend.lookup([5, 6])

    near, known = using(service, work)
    assert near == (SuggestedFeature(7, "wit", 1.0),)
    assert known == {5: ServiceFeature(5, "jokes", feature_id(5))}
    assert service.sent == [
        ("POST", "/attributions/neighbors", {"feature_indices": [5, 9], "model": "m", "top_k": 3}),
        ("POST", "/features/lookup", {"indices": [5, 6], "model": "m"}),
    ]


def test_reranking_asks_by_id():
    """Features are reranked by the service's own ids, looked up where they aren't known yet, dashed and lower-case."""
    hexadecimal = {"id": feature_id(9).replace("-", "").upper(), "label": "puns", "index_in_sae": 9}
    service = Service(
        {
            "/features/search": {"features": [found(5)]},
            "/features/lookup": {"features": [hexadecimal]},
            "/features/rerank": {"features": [found(9, "puns", relevance=0.5), found(5, relevance=0.25)]},
        }
    )

    async def work(backend):
        await backend.suggest_features("funny", 1)
        return await backend.rerank("funny", [5, 9], 2)

    assert [one.index for one in using(service, work)] == [9, 5]
    rerank = {"query": "funny", "top_k": 2, "model": "m", "feature_ids": [feature_id(5), feature_id(9)]}
    assert service.sent[1:] == [
        ("POST", "/features/lookup", {"indices": [9], "model": "m"}),
        ("POST", "/features/rerank", rerank),
    ]
    unknown = Service({"/features/lookup": {"features": []}})
    with pytest.raises(EmberError, match="knows no feature 9"):
        using(unknown, lambda backend: backend.rerank("funny", [9], 1))


def test_contrast_sends_conversations():
    """Contrast sends two lists of conversations and gives the features of each."""
    path = "/chat-attribution/contrast"
    answer = {"dataset_1_features": [found(1)], "dataset_2_features": [found(2), found(3)]}
    service = Service({path: answer})
    first, second = using(service, lambda backend: backend.contrast([MESSAGES], [MESSAGES[1:]], 4))
    assert [one.index for one in first] == [1]
    assert [one.index for one in second] == [2, 3]
    assert service.sent == [
        (
            "POST",
            path,
            {
                "dataset_1": [[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]],
                "dataset_2": [[{"role": "user", "content": "Hi"}]],
                "k_to_add": 4,
                "k_to_remove": 4,
                "model": "m",
            },
        )
    ]


EDITS = {"edits": [[found(9, "puns"), 0.5], [found(5, "jokes"), 0.25], [found(9, "puns"), 0.25], [found(3), 0]]}


def test_a_service_suggests_edits():
    """Automatic steering gives edits by index, summed, with labels, ids and where they come from."""
    service = Service({"/features/auto-edits": EDITS})
    got = using(service, lambda backend: backend.suggest_edits(find_behavior("funny"), 3))
    assert got.edits == (FeatureEdit(5, 0.25), FeatureEdit(9, 0.75))
    assert got.labels == {9: "puns", 5: "jokes", 3: "x"}
    assert got.dictionary is None
    assert got.provenance["specification"] == "be funny"
    assert got.provenance["draw"] is None
    assert got.provenance["features"][0] == {"index": 9, "label": "puns", "uuid": feature_id(9), "value": 0.5}
    assert service.sent == [("POST", "/features/auto-edits", {"specification": "be funny", "model": "m"})]
    json.dumps(got.provenance)


def test_our_own_service_draws_edits():
    """A service that knows draws is told which one, and its dictionary and record are in the result."""
    service = Service({"/features/auto-edits": {**EDITS, "steer": {"pairs": 16}}}, listed=models("m"))
    got = using(service, lambda backend: backend.suggest_edits(find_behavior("funny"), 3))
    assert service.sent[0][2] == {"specification": "be funny", "model": "m", "draw": 3}
    assert got.dictionary == "d1"
    assert (got.provenance["draw"], got.provenance["found_by"]) == (3, {"pairs": 16})


def test_no_edits_are_no_edits():
    """An empty list of edits is an answer."""
    service = Service({"/features/auto-edits": {"edits": []}})
    assert using(service, lambda backend: backend.suggest_edits(find_behavior("funny"), 0)).edits == ()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "the answer lacks 'features'"),
        ({"features": {}}, "the answer: 'features' is"),
        ({"features": [3]}, r"features\[0\] is 3, not an object"),
        ({"features": [{"id": "a", "label": "x"}]}, r"features\[0\].index_in_sae is None"),
        ({"features": [{"label": "x", "index_in_sae": 1}]}, r"features\[0\] has neither id nor uuid"),
        ({"features": [found(1, relevance="high")]}, r"features\[0\].relevance is 'high', not a finite number"),
    ],
)
def test_features_that_cannot_be_read_are_an_error(body, said):
    """An answer that lacks what the protocol has is an error that names the place and the call."""
    with pytest.raises(EmberError, match=rf"GET {IN_PROCESS}/api/inference/v1/features/search: {said}"):
        using(Service({"/features/search": body}), lambda backend: backend.suggest_features("x", 1))


@pytest.mark.parametrize("body", [{"edits": [[found(1)]]}, {"edits": [found(1)]}, {"edits": [[found(1), "0.5"]]}])
def test_edits_that_cannot_be_read_are_an_error(body):
    """Edits that are no pairs of a feature and a number are an error."""
    with pytest.raises(EmberError, match=r"auto-edits: edits\[0\]"):
        using(Service({"/features/auto-edits": body}), lambda backend: backend.suggest_edits(find_behavior("funny"), 0))
