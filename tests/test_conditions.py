"""Conditions and edits by index: what they are made of, their algebra, their fingerprint."""

from typing import Any

import numpy as np
import pytest

from model_adapters.conditions import leaves, readings
from model_adapters.errors import SteerError
from model_adapters.steering import (
    CONTROL,
    AblateDirection,
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

ONES = np.ones(3, dtype=np.float32)
ABOVE = Compare(Reading(1, ONES), ">", 0.5)
ADD = AddVector(2, ONES)
EDIT = EditFeatures((FeatureEdit(7, 0.5), FeatureEdit(3, -0.25)))


def refusal(make: Any, *arguments: Any) -> str:
    with pytest.raises(SteerError) as caught:
        make(*arguments)
    return str(caught.value)


def test_edits_are_one_content_in_any_order():
    """The same edits in another order are the same steering."""
    turned = EditFeatures((FeatureEdit(3, -0.25), FeatureEdit(7, 0.5)))
    assert [edit.index for edit in EDIT.edits] == [3, 7]
    assert Steering((turned,)).fingerprint == Steering((EDIT,)).fingerprint


@pytest.mark.parametrize(
    "other",
    [
        EditFeatures((FeatureEdit(7, 0.5), FeatureEdit(3, -0.2500001))),
        EditFeatures((FeatureEdit(7, 0.5, "pin"), FeatureEdit(3, -0.25))),
        EditFeatures((FeatureEdit(7, 0.5), FeatureEdit(4, -0.25))),
        EditFeatures(EDIT.edits, dictionary="d0"),
        EditFeatures(EDIT.edits, layer=0),
        EditFeatures(EDIT.edits, factor=9.0),
        EditFeatures(EDIT.edits, positions="all"),
    ],
)
def test_every_field_of_an_edit_is_content(other):
    """An edit that differs in value, mode, index, dictionary, layer, factor or positions is another steering."""
    assert Steering((other,)).fingerprint != Steering((EDIT,)).fingerprint


def test_an_events_name_is_not_content_and_its_presence_is():
    """Two requests whose interrupts differ in a drawn name are one steering; without an interrupt it is another."""
    one, two, without = (Steering((When(ABOVE, (ADD,), event=event),)) for event in ("a", "b", None))
    assert one.fingerprint == two.fingerprint != without.fingerprint


@pytest.mark.parametrize(
    ("make", "arguments", "said"),
    [
        (EditFeatures, ((),), "EditFeatures.edits must hold at least one FeatureEdit"),
        (EditFeatures, ((FeatureEdit(1, 1.0), FeatureEdit(1, 2.0)),), "edits a feature twice ([1, 1])"),
        (FeatureEdit, (-1, 0.5), "FeatureEdit.index is -1; indices are whole numbers from 0"),
        (FeatureEdit, (1, float("nan")), "FeatureEdit.value is nan"),
        (FeatureEdit, (1, 0.5, "mul"), "FeatureEdit.mode is 'mul'; it is one of nudge, pin"),
        (Compare, (Reading(1, ONES), "~", 0.5), "Compare.operator is '~'"),
        (Compare, (0.5, ">", 0.5), "Compare.left is 0.5; it is a Reading"),
        (Compare, (Reading(1, ONES), ">", "much"), "Compare.right is 'much'"),
        (FeatureCompare, ((), ">", 0.5), "FeatureCompare.left is (); give a tuple of at least one index"),
        (FeatureCompare, ((1,), ">", ("a",)), "FeatureCompare.index is 'a'"),
        (Reading, (1, [np.nan]), "Reading.encoder holds NaN or infinity"),
        (Reading, (1, ONES, 0.0, 1), "Reading.rectified is 1; it is true or false"),
        (AllOf, ((),), "AllOf holds no conditions"),
        (AnyOf, ((ABOVE, "x"),), "AnyOf holds 'x', which is not a condition"),
        (When, (ABOVE, ()), "When holds neither interventions nor an event"),
        (When, (True, (ADD,)), "When.condition is True, which is not a condition"),
        (When, (ABOVE, (SystemPrompt("Hi."),)), "When can't guard SystemPrompt"),
        (When, (ABOVE, ADD), "When.interventions is AddVector"),
        (When, (ABOVE, (ADD,), "once"), "When.moment is 'once'; it is one of token, prompt"),
        (When, (ABOVE, (ADD,), "token", ""), "When.event is ''; it is a text"),
    ],
)
def test_what_is_no_condition_is_refused_by_name(make, arguments, said):
    """Every field that can't be what it must is named, on one line."""
    assert said in refusal(make, *arguments)


def test_scaling_reaches_nudges_and_what_conditions_guard():
    """`scaled` multiplies nudges and guarded vectors, and leaves the condition alone."""
    inner = When(AllOf((ABOVE,)), (EDIT,))
    doubled = Steering((When(ABOVE, (ADD, inner)),)).scaled(2.0)
    expected = EditFeatures((FeatureEdit(3, -0.5), FeatureEdit(7, 1.0)))
    assert doubled.interventions == (When(ABOVE, (AddVector(2, ONES, 2.0), When(AllOf((ABOVE,)), (expected,)))),)


def test_pins_and_interrupts_have_no_scale():
    """A pinned value and an interrupt are refused by name."""
    pin = EditFeatures((FeatureEdit(1, 0.5, "pin"),))
    assert refusal(Steering((pin,)).scaled, 2.0).startswith("a pin can't be scaled, only nudges can")
    assert refusal(Steering((When(ABOVE, (), event="e"),)).scaled, 2.0).startswith("When can't be scaled, ")


@pytest.mark.parametrize("wrapped", [False, True])
def test_one_feature_is_not_pinned_twice(wrapped):
    """Two pins of one index don't add, not even behind different conditions; pins of two dictionaries do."""
    pin = EditFeatures((FeatureEdit(1, 0.5, "pin"),))
    again = When(ABOVE, (pin,)) if wrapped else pin
    assert "two clamps of the same feature with index 1" in refusal(lambda: Steering((pin,)) + Steering((again,)))
    elsewhere = EditFeatures((FeatureEdit(1, 0.5, "pin"),), dictionary="d0")
    assert len((Steering((pin,)) + Steering((elsewhere,))).interventions) == 2


def test_a_steering_tells_what_acts_under_which_conditions():
    """`acts` lists what is done to the residual with its guards outermost first; `layers` and `sites` follow."""
    ablate, clamp = AblateDirection(0, ONES), ClampFeature(3, ONES, 0.0, ONES, 1.0)
    inner = When(Compare(Reading(4, ONES), "<", Reading(5, ONES)), (clamp,))
    outer = When(ABOVE, (ADD, inner))
    steering = Steering((SystemPrompt("Hi."), ablate, outer))
    assert steering.acts == ((ablate, ()), (ADD, (outer,)), (clamp, (outer, inner)))
    assert steering.layers == (0, 2, 3)
    assert [(name, layer) for name, layer, _ in steering.sites] == [
        ("AblateDirection.direction", 0),
        ("AddVector.vector", 2),
        ("ClampFeature.encoder", 3),
        ("ClampFeature.decoder", 3),
        ("Reading.encoder", 1),
        ("Reading.encoder", 4),
        ("Reading.encoder", 5),
    ]


def test_events_come_with_the_conditions_around_them():
    """`events` lists every interrupt behind its outer conditions."""
    stop = When(ABOVE, (), event="stop")
    outer = When(AnyOf((ABOVE,)), (ADD, stop))
    assert Steering((outer,)).events == ((outer, stop),)
    assert CONTROL.events == ()


@pytest.mark.parametrize(
    ("one", "needs"),
    [
        (ADD, False),
        (EDIT, True),
        (When(ABOVE, (ADD,)), False),
        (When(ABOVE, (When(ABOVE, (EDIT,)),)), True),
        (When(AnyOf((ABOVE, FeatureCompare((1,), ">", 0.5))), (ADD,)), True),
    ],
)
def test_features_by_index_need_a_dictionary(one, needs):
    """Edits and comparisons by index are found wherever they stand."""
    assert Steering((one,)).needs_dictionary is needs


def test_leaves_and_readings_of_nested_conditions():
    """A condition's comparisons and readings are found in the order they are written."""
    first, second = Reading(1, ONES), Reading(2, ONES)
    both = Compare(first, ">", second)
    by_index = FeatureCompare((1, 2), ">=", (3,))
    nested = AllOf((both, AnyOf((by_index, ABOVE))))
    assert list(leaves(nested)) == [both, by_index, ABOVE]
    assert list(readings(nested)) == [first, second, ABOVE.left]
