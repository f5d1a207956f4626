"""Edits and conditions by index, made vectors."""

from dataclasses import replace

import numpy as np
import pytest

from model_adapters.backend import Request, Sampling
from model_adapters.errors import SteerError
from model_adapters.features import open_dictionary, resolve
from model_adapters.steering import (
    AddVector,
    AllOf,
    AnyOf,
    ClampFeature,
    Compare,
    EditFeatures,
    FeatureCompare,
    FeatureEdit,
    Reading,
    Steering,
    SystemPrompt,
    When,
)
from tests.tiny_backend import D_MODEL, alone, opened, user
from tests.tiny_dictionary import DECODER, tiny_dictionary, write_dictionary

EDITS = EditFeatures((FeatureEdit(1, 0.5), FeatureEdit(3, -0.25, "pin"), FeatureEdit(0, 2.0)))


def resolved(*interventions, **given):
    return resolve(Steering(interventions), tiny_dictionary(), **given)


def test_a_nudge_adds_its_decoder_and_a_pin_clamps():
    """Coefficient and value are factor (2) times the edit's value, at the dictionary's layer, in order of index."""
    found = resolved(EDITS)
    assert found.interventions == (
        AddVector(1, DECODER[0], 4.0),
        AddVector(1, DECODER[1], 1.0),
        ClampFeature(1, DECODER[3], 0.0, DECODER[3], -0.5),
    )
    assert not found.needs_dictionary


def test_what_an_edit_says_goes_before_the_argument_and_that_before_the_dictionary():
    """Layer, factor and positions: the edit's own, else the argument's, else the dictionary's (response)."""
    plain = EditFeatures((FeatureEdit(1, 1.0),))
    own = replace(plain, layer=5, factor=10.0, positions="all")
    given = {"layer": 7, "factor": 3.0, "positions": "prompt"}
    assert resolved(plain).interventions == (AddVector(1, DECODER[1], 2.0, "response"),)
    assert resolved(plain, **given).interventions == (AddVector(7, DECODER[1], 3.0, "prompt"),)
    assert resolved(own, **given).interventions == (AddVector(5, DECODER[1], 10.0, "all"),)


def test_conditions_become_readings_and_groups_any_of_them():
    """A number is times the factor; of groups any member may meet it; readings are at the dictionary's layer."""
    inside = (EditFeatures((FeatureEdit(2, 1.0),)),)
    one = When(FeatureCompare((0,), ">", 0.5), inside, "prompt", "stop")
    [found] = resolved(one, layer=3).interventions
    assert found == When(Compare(Reading(1, DECODER[0]), ">", 1.0), (AddVector(3, DECODER[2], 2.0),), "prompt", "stop")
    several = AllOf((FeatureCompare((0, 1), "<=", (2, 3)), FeatureCompare((4,), "!=", -1.0, factor=5.0)))
    [found] = resolved(When(several, inside)).interventions
    pairs = tuple(
        Compare(Reading(1, DECODER[left]), "<=", Reading(1, DECODER[right])) for left in (0, 1) for right in (2, 3)
    )
    assert found.condition == AllOf((AnyOf(pairs), Compare(Reading(1, DECODER[4]), "!=", -5.0)))


def test_other_interventions_pass_and_nested_ones_are_reached():
    """Vectors and prompts stay as they are; edits behind conditions within conditions are resolved."""
    add, prompt = AddVector(0, DECODER[0]), SystemPrompt("Hi.")
    always = Compare(Reading(0, DECODER[0]), ">=", 0.0)
    nested = When(always, (add, When(always, (EditFeatures((FeatureEdit(1, 1.0),)),))))
    found = resolved(prompt, nested)
    assert found.interventions == (prompt, When(always, (add, When(always, (AddVector(1, DECODER[1], 2.0),)))))
    plain = Steering((add,))
    assert resolve(plain, tiny_dictionary()) is plain


def test_provenance_names_features_source_and_dictionary():
    """The source's fingerprint, each feature with label, value, mode and decoder norm, and the dictionary are kept."""
    source = Steering((EDITS,), {"behavior": "glad"})
    found = resolve(source, tiny_dictionary())
    assert found.provenance["behavior"] == "glad"
    assert found.provenance["source_fingerprint"] == source.fingerprint != found.fingerprint
    assert found.provenance["dictionary"] == tiny_dictionary().described()
    first, second, third = found.provenance["features"]
    assert first == {"index": 0, "label": "glad joy", "value": 2.0, "mode": "nudge", "decoder_norm": 1.0}
    assert (second["decoder_norm"], third["mode"]) == (2.0, "pin")


@pytest.mark.parametrize(
    "one",
    [
        EditFeatures((FeatureEdit(1, 1.0),), dictionary="0" * 16),
        When(FeatureCompare((1,), ">", 0.0, dictionary="0" * 16), (AddVector(0, DECODER[0]),)),
    ],
)
def test_indices_of_another_dictionary_are_refused(one):
    """A digest that isn't this dictionary's is named."""
    with pytest.raises(SteerError, match="the indices are of dictionary 0000000000000000, tiny is"):
        resolved(one)
    assert resolved(replace(EDITS, dictionary=tiny_dictionary().digest)).interventions


def test_an_index_out_of_range_is_refused():
    """An edit of a feature that isn't there names the dictionary's last one."""
    with pytest.raises(SteerError, match="feature 99 is out of range; tiny has features 0 to 4"):
        resolved(EditFeatures((FeatureEdit(99, 1.0),)))


def test_a_resolved_steering_is_the_vectors_on_a_model(tmp_path):
    """On the local engine, resolved edits give the tokens of vectors made by hand, and the source alone is refused."""
    decoder = np.random.default_rng(1).normal(size=(6, D_MODEL)).astype(np.float32)
    dictionary = open_dictionary(write_dictionary(tmp_path / "d", decoder, {}, layer=2, factor=3.0))
    source = Steering((EditFeatures((FeatureEdit(4, 0.5), FeatureEdit(1, -0.4))),))
    by_hand = Steering((AddVector(2, decoder[1] * np.float32(-1.2)), AddVector(2, decoder[4] * np.float32(1.5))))
    with opened() as backend:
        assert backend.refusals(source)
        found = alone(backend, Request(user(), resolve(source, dictionary), Sampling(max_tokens=12)))
        expected = alone(backend, Request(user(), by_hand, Sampling(max_tokens=12)))
        control = alone(backend, Request(user(), sampling=Sampling(max_tokens=12)))
    assert found.token_ids == expected.token_ids != control.token_ids
