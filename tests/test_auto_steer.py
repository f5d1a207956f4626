"""Auto Steer's own search, on a model and a dictionary whose right answers are known by hand."""

import asyncio
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.auto_steer import AutoSteerOptions, find_edits, rescaled
from model_adapters.backend import SuggestedEdits
from model_adapters.behavior import Behavior, Contrast
from model_adapters.errors import Refused, SteerError
from model_adapters.features import open_dictionary
from model_adapters.method import Context
from model_adapters.methods import build_method
from model_adapters.preparation import prepare
from model_adapters.steering import AddVector, EditFeatures, FeatureEdit, Steering
from tests.fake_backend import ReadingBackend, SpeakingBackend
from tests.tiny_dictionary import tiny_dictionary, write_dictionary

GLAD = Behavior(
    "glad", "be glad", "", (Contrast("How?", "joy fun", "grey dull"), Contrast("Why?", "joy fun", "grey dull"))
)
# After block 1 a word's residual is twice its embedding.
EMBEDDINGS = {"joy": [3, 0, 0], "fun": [0, 1, 0], "dull": [0, 0, 1], "grey": [0, 0, 4]}
ALL = AutoSteerOptions(everywhere=1.0, effect=False)


def reading():
    return ReadingBackend(embeddings=EMBEDDINGS)


def found(options=ALL, backend=None, behavior=GLAD, draw=0, dictionary=None):
    return asyncio.run(find_edits(behavior, backend or reading(), dictionary or tiny_dictionary(), options, draw))


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ([5, 3], [0.6875, 0.41250000000000003]),
        ([2.0], [1.1]),
        ([-1, 2, 3], [-0.22, 0.44, 0.66]),
        ([-4, 1], [-1.1, 0.275]),
    ],
)
def test_values_are_rescaled_by_the_published_rule(given_values, expected):
    """Weights in ratio 5:3 give exactly the one published sample; the larger signed sum becomes 1.1."""
    assert rescaled(given_values, 1.1) == pytest.approx(expected, rel=1e-15)
    assert rescaled([5, 3], 1.1) == [0.6875, 0.41250000000000003]


@given(st.lists(st.floats(-10, 10).filter(lambda value: abs(value) > 1e-3), min_size=1, max_size=5))
def test_rescaling_keeps_signs_and_ratios(values):
    """Every value keeps its sign and its ratio to the others, and the larger signed sum is the total."""
    made = rescaled(values, 1.1)
    assert max(sum(v for v in made if v > 0), -sum(v for v in made if v < 0)) == pytest.approx(1.1)
    assert [math.copysign(1, v) for v in made] == [math.copysign(1, v) for v in values]
    assert np.allclose(np.array(made) / made[0], np.array(values) / values[0])


def test_edits_that_are_all_zero_have_no_scale():
    """The rule divides by nothing where all values are zero, and says so."""
    with pytest.raises(SteerError, match="all zero"):
        rescaled([0.0, 0.0], 1.1)


def test_features_and_values_by_hand():
    """Candidates by cosine with the residuals' difference; values by the difference of mean activations.

    Per conversation, means of residuals are (3, 1, 0) and (0, 0, 5), so the direction is (3, 1, -5). Mean activations:
    0: 3 against 0; 1: decoder (0, 2, 0), 2 against 0; 2: 0 against 5; 3: 4 against 0; 4: 0 on both sides. By |cosine|:
    2 (5), 0 (3), 3 (4/√2 = 2.8), 1 (1), each over √35.
    """
    suggested = found()
    assert [one["index"] for one in suggested.provenance["pool"]] == [2, 0, 3, 1]
    assert [edit.index for edit in suggested.edits] == [2, 0, 3]
    values = [edit.value for edit in suggested.edits]
    assert values == pytest.approx([-5 / 7 * 1.1, 3 / 7 * 1.1, 4 / 7 * 1.1])
    assert suggested.labels == {2: "dull grey days", 0: "glad joy", 3: "joy and fun"}
    assert suggested.dictionary == tiny_dictionary().digest


def test_the_effect_filter_takes_what_makes_the_behavior_likelier():
    """Pushed alone, feature 1 helps less than 0 and 3, and 2 (pushed down) most; the fewest best are kept.

    A word's log-probability rises by its embedding along the push of 2 * 1.1 * sign: positive texts are joy and fun,
    negative ones grey and dull, so the effects are 0: 1.5, 1: 1, 2: 2.5, 3: 2, each times 2.2.
    """
    suggested = found(replace(ALL, effect=True, most=2))
    effects = {one["index"]: one["effect"] for one in suggested.provenance["pool"]}
    assert effects == pytest.approx({0: 3.3, 1: 2.2, 2: 5.5, 3: 4.4})
    assert [edit.index for edit in suggested.edits] == [2, 3]


def test_features_that_are_active_nearly_everywhere_are_left_out():
    """A feature active on more than the given share of tokens is no candidate."""
    shares = {one["index"]: one["active"] for one in found().provenance["pool"]}
    assert shares == {2: 0.5, 0: 0.25, 3: 0.5, 1: 0.25}
    assert [edit.index for edit in found(replace(ALL, everywhere=0.3)).edits] == [0, 1]


def test_a_draw_takes_other_conversations_and_repeats_exactly():
    """Draws of two of four conversations differ, and each gives the same edits again."""
    many = replace(GLAD, contrasts=tuple(Contrast(f"{n}?", "joy fun " * (n + 1), "grey " * (4 - n)) for n in range(4)))
    draws = [found(replace(ALL, pairs=2), behavior=many, draw=draw).provenance["contrasts"] for draw in range(8)]
    again = [found(replace(ALL, pairs=2), behavior=many, draw=draw).provenance["contrasts"] for draw in range(8)]
    assert draws == again
    assert all(one["pairs"] == 2 for one in draws)
    assert len({tuple(one["digests"]) for one in draws}) > 1


def test_a_free_behavior_is_learnt_from_the_models_own_answers():
    """Without contrasts the model answers with and without the instruction, sampled with the draw as seed."""
    backend = ReadingBackend(
        lambda messages: "joy fun" if messages[0].role == "system" else "grey dull", embeddings=EMBEDDINGS
    )
    suggested = found(backend=backend, behavior=Behavior("free", "be a star", ""), draw=5)
    assert suggested.provenance["contrasts"]["source"] == "own"
    assert [edit.index for edit in suggested.edits] == [2, 0, 3]
    asked = [request for request in backend.asked if request.steering]
    assert {request.sampling.seed for request in backend.asked} == {5}
    assert all(one.sampling.temperature > 0 for one in asked)
    assert all("be a star" in request.steering.system_prompts[0].text for request in asked)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": 0}, "auto_steer.pairs is 0"),
        ({"most": 0}, "auto_steer.most is 0"),
        ({"total": -1.0}, "auto_steer.total is -1.0"),
        ({"everywhere": 0.0}, "auto_steer.everywhere is 0.0"),
    ],
)
def test_impossible_terms_are_refused_by_name(options, said):
    """Numbers that can't be are named before anything is searched, in the method too."""
    with pytest.raises(SteerError, match=said):
        AutoSteerOptions(**options)
    with pytest.raises(SteerError, match=said):
        build_method("auto_steer", options)


def test_a_dictionary_of_another_model_is_refused(tmp_path):
    """Layer and width are compared with the model's before anything is read."""
    deep = open_dictionary(write_dictionary(tmp_path / "deep", layer=7))
    with pytest.raises(Refused, match="is of layer 7, width 3; the model has 4 layers, width 3"):
        found(dictionary=deep)


def test_what_tells_nothing_apart_is_refused():
    """Contrasts whose two sides are alike give no edits, and no control in disguise."""
    alike = replace(GLAD, contrasts=(Contrast("How?", "joy fun", "joy fun"),))
    with pytest.raises(Refused, match="no feature of tiny tells glad apart"):
        found(behavior=alike)


# The methods


class Service(SpeakingBackend):
    """Suggests edits by itself, and takes edits by index."""

    def __init__(self, edits=((4, 0.7), (9, -0.2))):
        super().__init__()
        self.edits, self.calls = edits, []

    def refusals(self, steering: Steering) -> list[str]:
        return []

    async def suggest_edits(self, behavior, draw):
        self.calls.append((behavior.text, draw))
        edits = tuple(FeatureEdit(index, value + draw) for index, value in self.edits)
        return SuggestedEdits(edits, {index: f"feature {index}" for index, _ in self.edits}, "d0", {"service": "s"})


def prepared(name, parameters, backend, **given):
    return asyncio.run(prepare(build_method(name, parameters), GLAD, backend, **given)).steering


def test_a_service_is_asked_once_for_each_draw(tmp_path, monkeypatch):
    """The edits are the service's, kept by index; a second run and the scaled method reuse them; a draw is new."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path))
    service = Service()
    first = prepared("auto_steer", {}, service)
    assert first.interventions == (EditFeatures((FeatureEdit(4, 0.7), FeatureEdit(9, -0.2)), "d0"),)
    assert prepared("auto_steer", {}, service) == first
    scaled = prepared("auto_steer_scaled", {"magnitude": 0.5}, service)
    assert scaled.interventions == (EditFeatures((FeatureEdit(4, 0.5), FeatureEdit(9, -0.5)), "d0"),)
    assert (scaled.provenance["method"], scaled.provenance["magnitude"]) == ("auto_steer_scaled", 0.5)
    assert prepared("auto_steer_scaled", {"magnitude": 0.25}, service).fingerprint != scaled.fingerprint
    assert service.calls == [("be glad", 0)]
    prepared("auto_steer", {}, service, draw=2)
    prepared("auto_steer_scaled", {"magnitude": 0.5}, service, draw=2)
    assert service.calls == [("be glad", 0), ("be glad", 2)]


def test_a_service_that_finds_nothing_is_refused(tmp_path, monkeypatch):
    """No edits would be the control, so they are an error with a remedy."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path))
    with pytest.raises(Refused, match="no feature was found for 'be glad'; try another draw"):
        prepared("auto_steer", {}, Service(()))


class Local(ReadingBackend):
    """Takes vectors, not edits by index."""

    def __init__(self):
        super().__init__(embeddings=EMBEDDINGS)

    def refusals(self, steering):
        return ["features by index"] if steering.needs_dictionary else super().refusals(steering)


def test_on_a_local_model_edits_become_vectors(tmp_path, monkeypatch):
    """With a dictionary the prepared steering holds vectors of factor times value, and says which features they are."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path))
    given = {"everywhere": 1.0, "effect": "false"}
    backend = Local()
    steering = prepared("auto_steer", given, backend, dictionary=tiny_dictionary())
    assert {one.layer for one in steering.on_residuals} == {1}
    sizes = {one["index"]: one["value"] for one in steering.provenance["features"]}
    expected = [AddVector(1, tiny_dictionary().rows([i]).decoder[0], 2.0 * sizes[i]) for i in sorted(sizes)]
    assert list(steering.interventions) == expected
    scaled = prepared("auto_steer_scaled", {**given, "magnitude": 0.5}, backend, dictionary=tiny_dictionary())
    assert [abs(one.coefficient) for one in scaled.on_residuals] == [1.0, 1.0, 1.0]
    assert [np.sign(one.coefficient) for one in scaled.on_residuals] == [
        np.sign(one.coefficient) for one in steering.on_residuals
    ]
    assert len(backend.read) == 4


def test_a_local_model_needs_a_dictionary():
    """Without a dictionary the method names the argument."""
    method = build_method("auto_steer")
    with pytest.raises(Refused, match="method auto_steer needs a dictionary of features; give dictionary=…"):
        asyncio.run(method.prepare(GLAD, Context(reading())))


@pytest.mark.parametrize("magnitude", [0.0, -0.5])
def test_a_magnitude_is_above_zero(magnitude):
    """Signs are the search's, so a magnitude has none."""
    with pytest.raises(SteerError, match=r"auto_steer_scaled\.magnitude"):
        build_method("auto_steer_scaled", {"magnitude": magnitude})


def test_random_features_take_the_place_of_those_found(tmp_path, monkeypatch):
    """The placebo shares the search, keeps number and values, draws none of the found features, and repeats by draw."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path))
    given = {"everywhere": 1.0, "effect": "false", "most": 1}
    backend = Local()
    found = prepared("auto_steer", given, backend, dictionary=tiny_dictionary())
    read = len(backend.read)
    placebo = prepared("random_features", given, backend, dictionary=tiny_dictionary())
    assert len(backend.read) == read
    assert placebo == prepared("random_features", given, backend, dictionary=tiny_dictionary())
    [real], [drawn] = found.on_residuals, placebo.on_residuals
    assert abs(drawn.coefficient) == abs(real.coefficient)
    assert not np.array_equal(drawn.vector, real.vector)
    assert any(np.array_equal(drawn.vector, row) for row in tiny_dictionary().rows(range(4)).decoder)


def test_random_features_of_a_service_are_refused(tmp_path, monkeypatch):
    """A service doesn't say how many features it has, so none can be drawn."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path))
    with pytest.raises(Refused, match="how many features"):
        prepared("random_features", {}, Service())
