"""The package's own client of the Ember protocol against the package's own service, in one process."""

import httpx
import pytest

from model_adapters.backend import Request, Sampling
from model_adapters.backends.ember import open_ember
from model_adapters.steering import AddVector, EditFeatures, FeatureCompare, FeatureEdit, Steering, When
from tests.tiny_backend import alone, run, user
from tests.tiny_service import FACTOR, LAYER, NAME, tiny_service, weights_of

EDITS = Steering((EditFeatures((FeatureEdit(5, 0.75), FeatureEdit(9, -0.5))),))
GREEDY = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with tiny_service(tmp_path_factory.mktemp("service")) as one:
        yield one


def asked(service, work, **options):
    """What `work(client)` gives, with a client that lives for it."""

    async def once():
        client = await open_ember(NAME, transport=httpx.ASGITransport(app=service.app), **options)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return run(once())


def by_hand(service, sampling=GREEDY):
    columns = weights_of(service.folder)["decoder_linear.weight"]
    vectors = (AddVector(LAYER, columns[:, 5], FACTOR * 0.75), AddVector(LAYER, columns[:, 9], FACTOR * -0.5))
    return alone(service.backend, Request(user(), Steering(vectors), sampling))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(max_tokens=12, temperature=0.9, top_p=0.8, seed=7)])
def test_edits_by_index_mean_the_vectors_by_hand(service, stream, sampling):
    """A steering of edits sent by the client equals the engine's answer under its vectors, with the same counts."""
    expected = by_hand(service, sampling)
    got = asked(service, lambda client: client.complete(Request(user(), EDITS, sampling)), stream=stream)
    assert got.text == expected.text
    assert (got.tokens_in, got.tokens_out) == (expected.tokens_in, expected.tokens_out)
    assert got.proof.level == "acknowledged"
    assert got.proof.fingerprint == EDITS.fingerprint
    assert got.proof.response_tokens_touched == expected.proof.response_tokens_touched > 0
    assert got.proof.doses == expected.proof.doses


def test_the_client_knows_what_it_speaks_to(service):
    """The client's run identity holds the dictionary and the terms that the service discloses."""

    async def identity(client):
        return client.identity, client.refusals(Steering((EditFeatures((FeatureEdit(1, 1.0),), layer=0),)))

    identity, refusals = asked(service, identity)
    assert identity.dictionary_digest == service.dictionary.digest
    assert identity.model_digest == service.backend.identity.model_digest
    assert identity.arguments["service"] == service.backend.identity.digest
    assert identity.arguments["positions"] == "response"
    assert refusals, "edits meant for another layer can't run here"


def test_events_come_back_as_they_were_sent(service):
    """An interrupt of a steering ends the client's completion and names the event."""
    halt = Steering((When(FeatureCompare((7,), ">=", 0.0), (), event="halt"),))
    got = asked(service, lambda client: client.complete(Request(user(), halt, GREEDY)))
    assert got.events == ("halt",)
    assert got.stop_reason == "interrupt"


def test_logits_and_features(service):
    """Logits, search and lookup of the client are the service's."""

    async def ask(client):
        logits = await client.logits(user(), ["A", "B"], EDITS)
        found = await client.suggest_features("pirates", 3)
        return logits, found, await client.lookup([5])

    logits, found, features = asked(service, ask)
    columns = weights_of(service.folder)["decoder_linear.weight"]
    vectors = (AddVector(LAYER, columns[:, 5], FACTOR * 0.75), AddVector(LAYER, columns[:, 9], FACTOR * -0.5))
    table = run(service.backend.distributions(user(), [0], Steering(vectors)))[0]
    for letter in "AB":
        (token,) = service.backend.encoding.encode_bare(letter)
        assert logits[letter] == pytest.approx(float(table[token]), abs=1e-5)
    assert {one.index % 6 for one in found} == {3}
    assert features[5].label == "music number 5"
