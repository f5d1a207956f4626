"""Goodfire's own SDK, unmodified, against the local Ember on a real port."""

import asyncio

import numpy as np
import pytest

from model_adapters.backend import Message, Request, Sampling
from model_adapters.steering import AddVector, Compare, Reading, Steering, When
from tests.tiny_backend import user
from tests.tiny_service import FACTOR, LAYER, on_a_port, tiny_service, weights_of

goodfire = pytest.importorskip("goodfire", reason="needs Goodfire's SDK: pip install 'steer-tasks[goodfire]'")

from goodfire.api.exceptions import (  # noqa: E402
    NotFoundException,
    RequestFailedException,
    UnauthorizedException,
)
from goodfire.controller.controller import Controller  # noqa: E402
from goodfire.exceptions import InferenceAbortedException  # noqa: E402

MODEL = "meta-llama/Meta-Llama-3.1-8B-Instruct"
HELLO = [{"role": "user", "content": "hello"}]
GREEDY = {"temperature": 0, "max_completion_tokens": 10, "system_prompt": ""}
ENGINE = Sampling(max_tokens=10, stop=("<|eot_id|>", "<|begin_of_text|>"))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with tiny_service(tmp_path_factory.mktemp("service"), names=["tiny", MODEL], api_key="s3cret-key") as one:
        yield one


@pytest.fixture(scope="module")
def url(service):
    with on_a_port(service.app) as address:
        yield address


@pytest.fixture
def client(url):
    """The synchronous client; it needs an event loop that is set and not running."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield goodfire.Client(api_key="s3cret-key", base_url=url)
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
def async_client(url):
    return goodfire.AsyncClient(api_key="s3cret-key", base_url=url)


@pytest.fixture(scope="module")
def weights(service):
    return weights_of(service.folder)


def run(work):
    """Its result. `asyncio.run` would take away the loop that the synchronous client needs."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def alone(backend, request):
    return run(backend.complete(request))


def nudged(weights, index, value):
    return AddVector(LAYER, weights["decoder_linear.weight"][:, index], FACTOR * value, "response")


def by_hand(service, *interventions):
    return alone(service.backend, Request(user(), Steering(interventions), ENGINE))


def text(answer):
    return answer.choices[0].message["content"]


def test_chat(client, async_client, service):
    """Both clients get the model's own answer to exactly the messages they send."""
    expected = by_hand(service)
    answer = client.chat.completions.create(HELLO, MODEL, **GREEDY)
    assert text(answer) == expected.text
    assert answer.model == MODEL
    assert service.dictionary.digest in answer.system_fingerprint
    assert text(run(async_client.chat.completions.create(HELLO, MODEL, **GREEDY))) == expected.text


def test_the_sdks_own_system_prompt(client, async_client, service):
    """The prompt that the SDK puts in front arrives as it is sent, twice where a caller has one of its own."""
    from goodfire.api.chat.client import DEFAULT_SYSTEM_PROMPT

    own = {"temperature": 0, "max_completion_tokens": 10}
    mine = Message("system", "Sail.")
    theirs = Message("system", DEFAULT_SYSTEM_PROMPT)
    messages = [{"role": "system", "content": "Sail."}, *HELLO]
    expected = alone(service.backend, Request((mine, *user()), sampling=ENGINE))
    assert text(client.chat.completions.create(messages, MODEL, **own)) == expected.text
    expected = alone(service.backend, Request((theirs, mine, *user()), sampling=ENGINE))
    assert text(run(async_client.chat.completions.create(messages, MODEL, **own))) == expected.text


def test_streaming(client, async_client, service):
    """A stream's chunks add up to the plain answer in both clients, 200 tokens of it and more."""
    long = {"temperature": 1.2, "top_p": 1.0, "max_completion_tokens": 200, "system_prompt": ""}
    for seed in (1, 2, 3):
        plain = text(client.chat.completions.create(HELLO, MODEL, **long, seed=seed))
        chunks = list(client.chat.completions.create(HELLO, MODEL, stream=True, **long, seed=seed))
        assert "".join(chunk.choices[0].delta.content for chunk in chunks) == plain
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")

        async def gather(seed=seed):
            stream = await async_client.chat.completions.create(HELLO, MODEL, stream=True, **long, seed=seed)
            return [chunk async for chunk in stream]

        assert "".join(chunk.choices[0].delta.content for chunk in run(gather())) == plain


def test_a_variants_edits(client, async_client, service, weights):
    """`Variant.set` steers the answer as its decoder columns do, for single features, groups and dicts."""
    features = client.features.lookup([5, 9], MODEL)
    variant = goodfire.Variant(MODEL)
    variant.set(features[5], 0.75)
    variant.set({features[9]: -0.5})
    expected = by_hand(service, nudged(weights, 5, 0.75), nudged(weights, 9, -0.5))
    assert expected.text != by_hand(service).text
    assert text(client.chat.completions.create(HELLO, variant, **GREEDY)) == expected.text
    assert text(run(async_client.chat.completions.create(HELLO, variant, **GREEDY))) == expected.text
    stream = client.chat.completions.create(HELLO, variant, stream=True, **GREEDY)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == expected.text
    variant.reset()
    assert text(client.chat.completions.create(HELLO, variant, **GREEDY)) == by_hand(service).text


def test_a_condition(client, service, weights):
    """`Variant.set_when` acts on the tokens where the condition holds."""
    features = client.features.lookup([5, 7], MODEL)
    variant = goodfire.Variant(MODEL)
    variant.set_when(features[7] > 0.3, {features[5]: 1.0})
    encoder, bias = weights["encoder_linear.weight"][7], float(weights["encoder_linear.bias"][7])
    condition = Compare(Reading(LAYER, encoder, bias), ">", 0.3 * FACTOR)
    expected = by_hand(service, When(condition, (nudged(weights, 5, 1.0),)))
    assert expected.proof.conditions_met[0] > 0
    assert text(client.chat.completions.create(HELLO, variant, **GREEDY)) == expected.text


def test_abort_and_handle(client, async_client):
    """`abort_when` raises in the client where the condition is met and nowhere else; `handle_when` calls back."""
    features = client.features.lookup([7], MODEL)
    variant = goodfire.Variant(MODEL)
    variant.abort_when(features[7] > 1e6)
    client.chat.completions.create(HELLO, variant, **GREEDY)
    variant.abort_when(features[7] >= 0.0)
    with pytest.raises(InferenceAbortedException):
        client.chat.completions.create(HELLO, variant, **GREEDY)
    with pytest.raises(InferenceAbortedException):
        run(async_client.chat.completions.create(HELLO, variant, **GREEDY))
    heard = []
    variant = goodfire.Variant(MODEL)
    variant.handle_when(features[7] >= 0.0, lambda context: heard.append(context.prompt))
    client.chat.completions.create(HELLO, variant, **GREEDY)
    assert heard == [HELLO]


def test_a_pin_from_the_low_level_controller(client, service):
    """A pin, which only the SDK's Controller makes, is applied; its multiplication is refused."""
    feature = client.features.lookup([5], MODEL)[5]
    pinned = Controller()
    pinned[feature] = 1.5
    body = {"messages": HELLO, "temperature": 0, "max_completion_tokens": 10, "top_p": 1.0}
    headers = {"Authorization": "Bearer s3cret-key"}

    def post(controller):
        json = {**body, "model": MODEL, "controller": controller.json()}
        return service.ask("POST", "/chat/completions", json=json, headers=headers)

    assert post(pinned).json()["choices"][0]["message"]["content"] != by_hand(service).text
    multiplied = Controller()
    multiplied[feature] *= 2.0
    assert post(multiplied).status_code == 422


def test_logits(client, async_client, service, weights):
    """Logits are those of the next token, for a chosen vocabulary or the best ten, steered or not."""
    table = run(service.backend.distributions(user(), [0], Steering()))[0]
    answer = client.chat.logits(messages=HELLO, model=MODEL, filter_vocabulary=["A", "B"])
    for letter in "AB":
        (token,) = service.backend.encoding.encode_bare(letter)
        assert answer.logits[letter] == pytest.approx(float(table[token]), abs=1e-6)
    variant = goodfire.Variant(MODEL)
    variant.set(run(async_client.features.lookup([5], MODEL))[5], 0.75)
    best = run(async_client.chat.logits(messages=HELLO, model=variant)).logits
    steered = run(service.backend.distributions(user(), [0], Steering((nudged(weights, 5, 0.75),))))[0]
    assert len(best) == 10
    assert max(best.values()) == pytest.approx(float(steered.max()), abs=1e-5)
    assert max(best, key=best.__getitem__) == service.backend.encoding.decode([int(steered.argmax())], special=True)
    assert abs(float(steered.max() - table.max())) > 1e-2


def found(features):
    return [feature.index_in_sae for feature in features]


def test_search_rerank_neighbors_and_lookup(client):
    """Features found by text keep their ids through reranking, neighbors and lookups."""
    pirates = client.features.search("pirates", model=MODEL, top_k=4)
    assert len(pirates) == 4
    assert {index % 6 for index in found(pirates)} == {3}
    mixed = pirates | client.features.search("taxes", model=MODEL, top_k=2)
    ranked = client.features.rerank(mixed, "taxes", model=MODEL, top_k=2)
    assert {index % 6 for index in found(ranked)} == {4}
    near = client.features.neighbors(pirates, model=MODEL, top_k=3)
    assert len(near) == 3
    assert not set(found(near)) & set(found(pirates))
    again = client.features.lookup(found(near), MODEL)
    assert [str(again[one.index_in_sae].uuid) for one in near] == [str(one.uuid) for one in near]


def test_semantic_similarity_and_tokens(async_client, service):
    """What only the asynchronous client has works: similarities of given features, and tokens."""

    async def ask():
        features = await async_client.features.search("ships", model=MODEL, top_k=3)
        scores = await async_client.features.semantic_similarity(features, "ships", model=MODEL)
        return scores, await async_client.features._tokenize(HELLO, MODEL)

    scores, tokens = run(ask())
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert "".join(tokens) == service.backend.render(user())


def test_contrast(client):
    """A contrast's two groups are told apart, and steer a variant."""
    stimulus = client.features.generate_contrastive_stimulus("be funny")
    one, two = client.features.contrast(stimulus[0][:2], stimulus[1][:2], model=MODEL, top_k=4)
    assert (len(one), len(two)) == (4, 4)
    assert not set(found(one)) & set(found(two))
    variant = goodfire.Variant(MODEL)
    variant.set(two, 0.2)
    client.chat.completions.create(HELLO, variant, **GREEDY)


def test_inspect(client, async_client, service, weights):
    """`inspect` and `activations` show what the dictionary reads, token by token."""
    context = client.features.inspect(HELLO, model=MODEL, aggregate_by="max")
    assert "".join(token._token for token in context.tokens) == service.backend.render(user())
    read = run(service.backend.prompt_activations(user(), LAYER))
    by_formula = np.maximum(read @ weights["encoder_linear.weight"].T + weights["encoder_linear.bias"], 0)
    for token, row in zip(context.tokens, by_formula, strict=True):
        best = token.inspect(k=3)
        assert [one.feature.index_in_sae for one in best] == np.argsort(-row)[:3].tolist()
        assert best[0].feature.label.endswith(f"number {row.argmax()}")
    top = context.top(k=48)
    assert [one.activation for one in top] == sorted((one.activation for one in top), reverse=True)
    assert top[0].activation == pytest.approx(by_formula.max(), rel=1e-5)
    matrix = client.features.activations(HELLO, model=MODEL)
    assert matrix.shape == (len(context.tokens), 65536)
    assert np.allclose(matrix[:, : by_formula.shape[1]], by_formula, rtol=1e-5, atol=1e-5)
    some = client.features.lookup([5, 7], MODEL)
    group = goodfire.FeatureGroup([some[5], some[7]])
    only = client.features.activations(HELLO, model=MODEL, features=group)
    assert set(np.flatnonzero(only.any(axis=0))) <= {5, 7}
    assert np.allclose(only[:, [5, 7]], by_formula[:, [5, 7]], rtol=1e-5, atol=1e-5)


def test_attribute(client):
    """`attribute` names the features that speak for a token, each with its label."""
    answer = client.features.attribute(HELLO, 10, MODEL)
    assert answer.num_input_tokens > 10
    assert answer.features
    assert all(one.feature is not None for one in answer.features)
    values = [one.value for one in answer.features]
    assert values == sorted(values, reverse=True)


def test_auto_steer(client, async_client, service):
    """`AutoSteer` gives edits that a variant takes, the same at every call."""
    edits = client.features.AutoSteer("be funny", model=MODEL)
    assert 1 <= len(edits) <= 3
    variant = goodfire.Variant(MODEL)
    variant.set(edits)
    client.chat.completions.create(HELLO, variant, **GREEDY)
    chosen = {feature.index_in_sae: value for feature, value in edits.as_dict().items()}
    again = run(async_client.features.AutoSteer("be funny", model=MODEL)).as_dict()
    assert chosen == {feature.index_in_sae: value for feature, value in again.items()}


def test_auto_conditional(client):
    """`AutoConditional` gives a condition that `set_when` takes."""
    condition = client.features.AutoConditional("when the user talks about pirates", model=MODEL)
    features = client.features.lookup([5], MODEL)
    variant = goodfire.Variant(MODEL)
    variant.set_when(condition, {features[5]: 0.5})
    client.chat.completions.create(HELLO, variant, **GREEDY)
    assert condition.operator == "AND"


def test_errors_are_the_sdks_own(client, url, service):
    """A wrong key, a wrong model and a limit are the SDK's own exceptions."""
    with pytest.raises(UnauthorizedException):
        goodfire.Client(api_key="wrong", base_url=url).chat.completions.create(HELLO, MODEL, **GREEDY)
    with pytest.raises(RequestFailedException, match="not served here"):
        client.chat.completions.create(HELLO, "meta-llama/Llama-3.3-70B-Instruct", **GREEDY)
    with pytest.raises(RequestFailedException):
        client.features.search("ships", model=MODEL, top_k=101)
    with pytest.raises(NotFoundException):
        goodfire.Client(api_key="s3cret-key", base_url=url + "/elsewhere").features.search("ships", model=MODEL)


def test_many_at_once(async_client, service, weights):
    """Requests of the asynchronous client with different variants at the same time each get their own answer."""

    async def ask():
        features = await async_client.features.lookup([5, 9, 11], MODEL)
        variants = []
        for index in (5, 9, 11):
            variant = goodfire.Variant(MODEL)
            variant.set(features[index], 0.75)
            variants.append(variant)
        create = async_client.chat.completions.create
        return await asyncio.gather(*(create(HELLO, variant, **GREEDY) for variant in variants))

    answers = run(ask())
    assert [text(one) for one in answers] == [by_hand(service, nudged(weights, i, 0.75)).text for i in (5, 9, 11)]
