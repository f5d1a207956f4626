"""Features, activations, logits and suggestions over the local Ember."""

import asyncio
import uuid

import numpy as np
import pytest

from model_adapters.backend import Message, Text
from model_adapters.ember_service.identifiers import feature_id
from model_adapters.ember_service.suggestions import behavior_of, condition_part, shares_a_word
from model_adapters.features import open_dictionary
from model_adapters.steering import CONTROL, AddVector, ClampFeature, Compare, Reading, Steering, When
from tests.tiny_backend import run, user
from tests.tiny_service import (
    FACTOR,
    LAYER,
    N_FEATURES,
    NAME,
    TinyService,
    controller,
    tiny_service,
    weights_of,
    write_dictionary,
)

TURNS = [{"role": "system", "content": "Sail."}, {"role": "user", "content": "hello there"}]
MESSAGES = (Message("system", "Sail."), Message("user", "hello there"))


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with tiny_service(tmp_path_factory.mktemp("service")) as one:
        yield one


@pytest.fixture(scope="module")
def weights(service):
    return weights_of(service.folder)


def activations(weights, residuals):
    """The dictionary's formula, by hand: `(tokens, n_features)`."""
    read = residuals @ weights["encoder_linear.weight"].T + weights["encoder_linear.bias"]
    return np.maximum(read, 0)


def indices(features):
    return [one["index_in_sae"] for one in features]


def check_shape(service, features):
    """Every feature has both spellings of its id, canonical, and a label that the listing repeats."""
    for one in features:
        assert set(one) >= {"id", "uuid", "label", "index_in_sae", "relevance"}
        assert one["id"] == one["uuid"] == str(uuid.UUID(one["id"]))
        assert one["id"] == feature_id(service.dictionary.digest, one["index_in_sae"])


def search(service, query, **more):
    return service.ask("GET", "/features/search", params={"query": query, "model": NAME, **more}).json()["features"]


def test_search_finds_labels(service):
    """A search gives the features whose labels fit, best first, page after page."""
    found = search(service, "pirates", perPage=4)
    check_shape(service, found)
    assert len(found) == 4
    assert {index % 6 for index in indices(found)} == {3}
    scores = [one["relevance"] for one in found]
    assert scores == sorted(scores, reverse=True)
    second = search(service, "pirates", perPage=4, page=2)
    assert {index % 6 for index in indices(second)} == {3}
    assert not set(indices(found)) & set(indices(second))


def test_ids_lead_back_to_features(service):
    """The listing and the reranking know a feature by its id alone, in any spelling."""
    names = [feature_id(service.dictionary.digest, index) for index in (7, 40, 3)]
    asked = [names[0], names[1].upper(), names[2].replace("-", "")]
    listed = service.ask("GET", "/features/", params=[("feature_id", one) for one in asked]).json()["features"]
    check_shape(service, listed)
    assert indices(listed) == [7, 40, 3]
    assert listed[0]["label"] == "rivers number 7"
    body = {"query": "taxes number", "feature_ids": asked, "top_k": 2}
    ranked = service.post("/features/rerank", body).json()["features"]
    assert ranked[0]["index_in_sae"] == 40
    assert len(ranked) == 2


def test_lookup_is_by_index(service):
    """A lookup gives the features of the indices, in order, each with the key `uuid`."""
    found = service.post("/features/lookup", {"indices": [5, 0, 47]}).json()["features"]
    check_shape(service, found)
    assert [(one["index_in_sae"], one["label"]) for one in found] == [
        (5, "music number 5"),
        (0, "ships number 0"),
        (47, "music number 47"),
    ]


def test_a_feature_without_a_label_says_so(service):
    """A feature that nobody labelled has its index in place of a label, because clients need one."""
    folder = service.folder.parent / "partly"
    partly = TinyService(service.backend, open_dictionary(write_dictionary(folder, labelled=3)), folder)
    labels = [one["label"] for one in partly.post("/features/lookup", {"indices": [2, 3]}).json()["features"]]
    assert labels == ["jokes number 2", "feature 3"]


def test_neighbors_lie_near_the_centroid(service, weights):
    """Neighbors of one feature are those with the greatest decoder cosine, itself left out."""
    columns = weights["decoder_linear.weight"].T
    directions = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    cosines = directions @ directions[9]
    expected = [int(index) for index in np.argsort(-cosines) if index != 9][:5]
    found = service.post("/attributions/neighbors", {"feature_indices": [9], "top_k": 5}).json()["neighbors"]
    check_shape(service, found)
    assert indices(found) == expected


def test_tokens_join_to_the_rendered_conversation(service):
    """The tokens' texts are the conversation as the model's template renders it, special tokens included."""
    tokens = service.post("/chat/tokenize", {"messages": TURNS}).json()["tokens"]
    assert "".join(one["value"] for one in tokens) == service.backend.render(MESSAGES)


def test_features_are_listed_token_by_token(service, weights):
    """Each token lists the features active there, strongest first, as the dictionary's formula has them."""
    answer = service.post("/chat-attribution/compute-features", {"messages": TURNS, "aggregate_by": "max"})
    tokens = answer.json()["tokens"]
    assert "".join(one["token"] for one in tokens) == service.backend.render(MESSAGES)
    expected = activations(weights, run(service.backend.prompt_activations(MESSAGES, LAYER)))
    for token, row in zip(tokens, expected, strict=True):
        strengths = [one["activation_strength"] for one in token["attributions"]]
        assert strengths == sorted(strengths, reverse=True)
        assert {one["index_in_sae"] for one in token["attributions"]} == set(np.flatnonzero(row > 0).tolist())
        for one in token["attributions"]:
            assert one["activation_strength"] == pytest.approx(row[one["index_in_sae"]], rel=1e-5, abs=1e-5)
            assert one["id"] == feature_id(service.dictionary.digest, one["index_in_sae"])


def test_a_tokens_features_are_capped(service):
    """A service that lists few features for a token lists the strongest."""
    few = TinyService(service.backend, service.dictionary, service.folder, features_per_token=3)
    body = {"messages": TURNS}
    all_of_them = service.post("/chat-attribution/compute-features", body).json()["tokens"]
    capped = few.post("/chat-attribution/compute-features", body).json()["tokens"]
    assert [one["attributions"] for one in capped] == [one["attributions"][:3] for one in all_of_them]


def test_only_the_features_asked_for_are_listed(service):
    """With `include_feature_indexes` no other feature is listed, and none of these is cut."""
    body = {"messages": TURNS, "include_feature_indexes": [4, 30, 11]}
    some = service.post("/chat-attribution/compute-features", body).json()["tokens"]
    whole = service.post("/chat-attribution/compute-features", {"messages": TURNS}).json()["tokens"]
    for few, many in zip(some, whole, strict=True):
        kept = [one for one in many["attributions"] if one["index_in_sae"] in (4, 30, 11)]
        assert few["attributions"] == kept
    assert any(one["attributions"] for one in some)


def test_a_controller_shows_in_the_features(tmp_path, weights):
    """Under a controller the features are those of the steered model."""
    with tiny_service(tmp_path, positions="all") as service:
        edits = controller(service.edit(5, 1.0))
        body = {"messages": TURNS, "controller": edits}
        tokens = service.post("/chat-attribution/compute-features", body).json()["tokens"]
        steering = Steering((AddVector(LAYER, weights["decoder_linear.weight"][:, 5], FACTOR, "all"),))
        residuals = run(service.backend.prompt_activations(MESSAGES, LAYER, steering))
        expected = activations(weights, residuals)
        plain = activations(weights, run(service.backend.prompt_activations(MESSAGES, LAYER)))
        for token, row, was in zip(tokens, expected, plain, strict=True):
            held = {one["index_in_sae"]: one["activation_strength"] for one in token["attributions"]}
            assert held == pytest.approx({index: row[index] for index in held}, rel=1e-5, abs=1e-5)
            assert set(held) == set(np.flatnonzero(row > 0).tolist())
            assert np.abs(row - was).max() > 0.1


def conversation(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def test_contrast_is_the_difference_of_means(service, weights):
    """A contrast lists what is more active in one set's answers than in the other's, averaged answer by answer."""
    first = [conversation("a", "grey rain"), conversation("b", "flat beer")]
    second = [conversation("a", "ahoy!"), conversation("b", "arr, me hearties")]

    def mean(dataset):
        pooled = []
        for question, answer in ((one[0]["content"], one[1]["content"]) for one in dataset):
            read = run(service.backend.activations(user(question), answer, CONTROL))[LAYER]
            pooled.append(activations(weights, read).mean(axis=0))
        return np.mean(pooled, axis=0)

    difference = mean(second) - mean(first)
    body = {"dataset_1": first, "dataset_2": second, "k_to_add": 4, "k_to_remove": 3}
    answer = service.post("/chat-attribution/contrast", body).json()
    for features in answer.values():
        check_shape(service, features)
    assert indices(answer["dataset_2_features"]) == np.argsort(-difference)[:4].tolist()
    assert indices(answer["dataset_1_features"]) == np.argsort(difference)[:3].tolist()
    swapped = {"dataset_1": second, "dataset_2": first, "k_to_add": 3, "k_to_remove": 4}
    other = service.post("/chat-attribution/contrast", swapped).json()
    assert indices(other["dataset_1_features"]) == indices(answer["dataset_2_features"])


def test_a_contrast_of_equals_is_empty(service):
    """Two sets that are the same have nothing that tells them apart."""
    one = [conversation("a", "b")]
    assert service.post("/chat-attribution/contrast", {"dataset_1": one, "dataset_2": one}).json() == {
        "dataset_1_features": [],
        "dataset_2_features": [],
    }


def test_conversations_without_an_answer_can_be_contrasted(service, weights):
    """A conversation that doesn't end with an answer counts by all of its tokens but the first."""
    first, second = [[{"role": "user", "content": "grey rain"}]], [[{"role": "user", "content": "ahoy!"}]]

    def mean(text):
        return activations(weights, run(service.backend.prompt_activations(user(text), LAYER))[1:]).mean(axis=0)

    difference = mean("ahoy!") - mean("grey rain")
    answer = service.post("/chat-attribution/contrast", {"dataset_1": first, "dataset_2": second}).json()
    assert indices(answer["dataset_2_features"]) == np.argsort(-difference)[:5].tolist()


def test_logits_are_the_models_own(service):
    """The largest values by token text are the model's log-probabilities for the first token of an answer."""
    answer = service.post("/chat-attribution/compute-logits", {"messages": TURNS, "top_k": 7}).json()["logits"]
    table = run(service.backend.distributions(MESSAGES, [0], CONTROL))[0]
    values = list(answer.values())
    assert len(values) == 7
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(float(table.max()), abs=1e-6)
    best = service.backend.encoding.decode([int(table.argmax())], special=True)
    assert next(iter(answer)) == best


def test_logits_of_chosen_tokens(service):
    """With a vocabulary only its tokens are answered with, all of them or the best `top_k`."""
    body = {"messages": TURNS, "filter_vocabulary": ["A", "B", "C", "D"]}
    answer = service.post("/chat-attribution/compute-logits", body).json()["logits"]
    table = run(service.backend.distributions(MESSAGES, [0], CONTROL))[0]
    for letter in "ABCD":
        (token,) = service.backend.encoding.encode_bare(letter)
        assert answer[letter] == pytest.approx(float(table[token]), abs=1e-6)
    assert set(answer) == set("ABCD")
    best = service.post("/chat-attribution/compute-logits", {**body, "top_k": 1}).json()["logits"]
    assert best == {max(answer, key=answer.__getitem__): max(answer.values())}


def test_logits_are_steered(service, weights):
    """A controller moves the logits as its vectors do in the engine."""
    body = {"messages": TURNS, "filter_vocabulary": ["A"], "controller": controller(service.edit(5, 0.75))}
    steering = Steering((AddVector(LAYER, weights["decoder_linear.weight"][:, 5], FACTOR * 0.75, "response"),))
    (token,) = service.backend.encoding.encode_bare("A")
    steered = float(run(service.backend.distributions(MESSAGES, [0], steering))[0][token])
    plain = float(run(service.backend.distributions(MESSAGES, [0], CONTROL))[0][token])
    answer = service.post("/chat-attribution/compute-logits", body).json()["logits"]["A"]
    assert answer == pytest.approx(steered, abs=1e-5)
    assert abs(steered - plain) > 1e-2


def test_attribution_is_what_switching_off_costs(service, weights):
    """A feature's value for a token is what pinning it to 0 after the first position takes from its log-probability."""
    tokens = service.backend.tokenize(MESSAGES)
    at = len(tokens) - 4
    body = {"messages": TURNS, "startIndex": at, "endIndex": at}
    answer = service.post("/attributions/compute-logit-attribution", body).json()
    assert answer["num_input_tokens"] == len(tokens)
    assert answer["to_add"] == []
    values = [one["value"] for one in answer["to_ablate"]]
    assert values == sorted(values, reverse=True)
    assert len(values) > 5
    before = [token for token, _ in tokens[:at]]
    active = activations(weights, run(service.backend.prompt_activations(MESSAGES, LAYER))[:at])
    active[0] = 0.0
    for one in (answer["to_ablate"][0], answer["to_ablate"][-1]):
        index = int(uuid.UUID(one["id"])) & 0xFFFF
        encoder, bias = weights["encoder_linear.weight"][index], float(weights["encoder_linear.bias"][index])
        clamp = ClampFeature(LAYER, encoder, bias, weights["decoder_linear.weight"][:, index], 0.0, "all")
        # Met wherever there is an activation at all, and never at the first position.
        off = When(Compare(Reading(LAYER, encoder, bias), ">=", 0.0), (clamp,))
        text = Text("".join(text for _, text in tokens[:at]))
        assert service.backend.encoding.encode(text.text) == before
        plain = run(service.backend.score(text, [tokens[at][0]])).total
        without = run(service.backend.score(text, [tokens[at][0]], Steering((off,)))).total
        assert one["value"] == pytest.approx(plain - without, abs=1e-4)
        held = {where["index"]: where["activation_strength"] for where in one["tokens"]}
        assert set(held) == set(np.flatnonzero(active[:, index] > 0).tolist())


def test_a_known_behaviors_contrasts_are_the_written_ones(service):
    """For a behavior of the package the contrastive dataset is its written contrasts, those without it first."""
    without, shown = service.post("/attributions/generate-contrastive-dataset", {"specification": "Be  funny"}).json()
    behavior = behavior_of("be funny")
    assert [one[-1]["content"] for one in without] == [one.negative for one in behavior.contrasts]
    assert [one[-1]["content"] for one in shown] == [one.positive for one in behavior.contrasts]
    assert [one[0]["content"] for one in without] == [one[0]["content"] for one in shown]
    assert [turn["role"] for turn in shown[0]] == ["user", "assistant"]


def test_a_free_behaviors_contrasts_are_the_models_own(service):
    """For any other text the model answers everyday prompts with the instruction and without it."""
    body = {"specification": "talk like a pirate"}
    without, shown = service.post("/attributions/generate-contrastive-dataset", body).json()
    assert len(without) == len(shown) == 8
    assert [one[0] for one in without] == [one[0] for one in shown]
    assert [one[1]["content"] for one in without] != [one[1]["content"] for one in shown]
    found = service.post("/chat-attribution/contrast", {"dataset_1": without, "dataset_2": shown}).json()
    assert found["dataset_2_features"]


@pytest.mark.parametrize("text", ["behaviors/funny.yaml", "/etc/passwd.yml", "pirate", "funny, professional"])
def test_a_specification_is_text(text):
    """A specification that looks like a file, an unknown word or a list is a free behavior of exactly that text."""
    behavior = behavior_of(text)
    assert behavior.text == text
    assert behavior.slug.startswith("free-")
    assert behavior.contrasts == ()


def test_auto_edits_are_drawn_once(service, monkeypatch):
    """The same specification and draw give the same edits from one search; another draw is searched anew."""
    from model_adapters import auto_steer
    from model_adapters.backend import SuggestedEdits
    from model_adapters.steering import FeatureEdit

    asked = []

    async def find(behavior, backend, dictionary, options, draw):
        asked.append((behavior.slug, draw))
        await asyncio.sleep(0.05)
        edits = (FeatureEdit(3 + draw, 0.6875), FeatureEdit(20, -0.4125))
        return SuggestedEdits(edits, {}, dictionary.digest, {"draw": draw})

    monkeypatch.setattr(auto_steer, "find_edits", find)
    fresh = TinyService(service.backend, service.dictionary, service.folder)

    async def at_once():
        async with fresh.client() as client:
            body = {"model": NAME, "specification": "be funny"}
            bodies = [body, body, {**body, "draw": 0}, {**body, "draw": 1}, {**body, "specification": "be  FUNNY"}]
            return await asyncio.gather(*(client.post("/features/auto-edits", json=one) for one in bodies))

    answers = [answer.json() for answer in asyncio.run(at_once())]
    assert sorted(asked) == [("funny", 0), ("funny", 1)]
    first = answers[0]["edits"]
    assert [(feature["index_in_sae"], value) for feature, value in first] == [(3, 0.6875), (20, -0.4125)]
    assert [one["edits"] == first for one in answers] == [True, True, True, False, True]
    check_shape(fresh, [feature for feature, _ in first])
    assert answers[3]["steer"]["draw"] == 1
    assert answers[0]["steer"]["dictionary"] == service.dictionary.digest


def test_a_search_that_failed_is_made_again(service, monkeypatch):
    """A search that fails is refused with its own line and is not kept."""
    from model_adapters import auto_steer
    from model_adapters.errors import Refused

    fresh = TinyService(service.backend, service.dictionary, service.folder)
    for _ in range(2):
        line = f"no feature tells these apart {_}"

        async def find(*_given, line=line):
            raise Refused(line)

        monkeypatch.setattr(auto_steer, "find_edits", find)
        answer = fresh.post("/features/auto-edits", {"specification": "be funny"})
        assert answer.status_code == 422
        assert line in answer.text


@pytest.mark.parametrize(
    ("specification", "condition"),
    [
        ("be brief when the user talks about taxes", "taxes"),
        ("When pirates are mentioned, sing", "pirates"),
        ("stop if loud music comes up; else go on", "loud music"),
        ("pirates", "pirates"),
        ("somewhen", "somewhen"),
        ("if they are", "they are"),
    ],
)
def test_the_condition_of_a_specification(specification, condition):
    """The condition is what tells in the part after `when`, `whenever` or `if`, up to a comma; else in all of it."""
    assert condition_part(specification) == condition


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("taxes", "the tax on salt", True),
        ("joking", "Jokes", True),
        ("cooking", "“looking” near thing", False),
        ("pirates", "states", False),
        ("an ox", "an ax", False),
        ("", "words", False),
    ],
)
def test_words_in_common(one, other, shared):
    """A label fits a condition when they share a word, whatever its ending, and not for parts of words."""
    assert shares_a_word(one, other) is shared


def test_a_condition_is_made_of_fitting_labels(service):
    """A conditional asks whether a feature whose label fits the condition is active at all."""
    body = {"specification": "be brief when the user talks about taxes"}
    conditional = service.post("/features/auto-conditional", body).json()["conditional"]
    assert conditional["operator"] == "AND"
    (one,) = conditional["conditionals"]
    assert (one["operator"], one["right_hand"]) == (">", 0.0)
    named = one["left_hand"]["features"]
    check_shape(service, named)
    assert 1 <= len(named) <= 3
    assert {index % 6 for index in indices(named)} == {4}
    assert max(indices(named)) < N_FEATURES
