"""Controller JSON and steerings: what each means in the other, and what is refused."""

import copy
import json
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.controller import edits_of, steering_of, steering_of_file, steering_of_variant
from model_adapters.controller_json import controller_of, feature_id, index_of_id, wire_refusals
from model_adapters.errors import Refused, SteerError
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

ONES = np.ones(3, np.float32)


def feature(index, **more):
    about = {"uuid": feature_id(index), "label": f"L{index}", "max_activation_strength": 1}
    return {**about, "index_in_sae": index, **more}


def group(*indices):
    return {"features": [feature(index) for index in indices]}


def edit(index, value, mode="nudge"):
    return {"mode": mode, "value": value, "features": group(index)}


def compare(left, operator, right):
    return {"left_hand": group(left), "right_hand": right, "operator": operator}


def both(*conditionals, operator="AND"):
    return {"conditionals": list(conditionals), "operator": operator}


def when(*conditionals, operator="AND", **changes):
    """A controller of one scope with an edit."""
    return controller(scopes=[{**scope(both(*conditionals, operator=operator), edit(1, 1.0)), **changes}])


def scope(conditionals, *interventions, event=None, scopes=()):
    return {
        "conditionals": conditionals,
        "controller": controller(*interventions, scopes=scopes),
        "is_active": False,
        "event_name": event,
    }


def controller(*interventions, scopes=()):
    unsaid = dict.fromkeys(("nonzero_strength_threshold", "min_nudge_entropy", "max_nudge_entropy"))
    return {"interventions": list(interventions), "scopes": list(scopes), "name": "controller__14015087", **unsaid}


def read(*interventions, scopes=()):
    return steering_of(controller(*interventions, scopes=scopes)).interventions


def nudges(*pairs):
    return EditFeatures(tuple(FeatureEdit(index, value) for index, value in pairs))


# What a controller means.


def test_an_empty_controller_is_the_control():
    """A controller without edits and scopes, as a variant without edits sends, is the empty steering."""
    assert steering_of(controller()) == CONTROL
    assert steering_of({"interventions": [], "scopes": []}) == CONTROL


def test_nudges_and_pins_are_read():
    """Each edit is read with its index, value and mode; an integer value is the float it stands for."""
    assert read(edit(5, 0.5), edit(2, 1, "pin")) == (
        EditFeatures((FeatureEdit(2, 1.0, "pin"), FeatureEdit(5, 0.5, "nudge"))),
    )


def test_each_member_of_a_group_gets_the_value():
    """An edit of a group edits every feature in it; a bare feature stands for a group of one."""
    one = {"mode": "nudge", "value": 0.25, "features": group(1, 3)}
    bare = {"mode": "nudge", "value": 0.5, "features": feature(7)}
    assert read(one, bare) == (nudges((1, 0.25), (3, 0.25), (7, 0.5)),)


def test_nudges_of_one_index_are_summed():
    """Two nudges of a feature are one with the sum of both; a sum of zero is left out."""
    assert read(edit(5, 0.5), edit(6, 0.1), edit(5, 0.25)) == (nudges((5, 0.75), (6, 0.1)),)
    assert read(edit(5, 0.5), edit(5, -0.5)) == ()


def test_a_pin_removes_earlier_edits_and_later_nudges_add():
    """A pin replaces earlier nudges and pins of its feature; a nudge after it is kept beside it."""
    assert read(edit(5, 0.5), edit(5, 0.2, "pin")) == (EditFeatures((FeatureEdit(5, 0.2, "pin"),)),)
    assert read(edit(5, 0.1, "pin"), edit(5, 0.2, "pin")) == (EditFeatures((FeatureEdit(5, 0.2, "pin"),)),)
    assert read(edit(5, 0.2, "pin"), edit(5, 0.5), edit(4, 1.0)) == (
        EditFeatures((FeatureEdit(4, 1.0), FeatureEdit(5, 0.2, "pin"))),
        nudges((5, 0.5)),
    )


def test_a_pin_to_zero_stays():
    """Pinning a feature to zero switches it off, which is not nothing."""
    assert read(edit(5, 0.0, "pin")) == (EditFeatures((FeatureEdit(5, 0.0, "pin"),)),)


@pytest.mark.parametrize("operator", [">", "<", "==", ">=", "<=", "!="])
def test_conditions_compare_features_with_numbers(operator):
    """A scope is a When whose condition compares a feature's activation with the number on the right."""
    found = read(scopes=[scope(both(compare(6, operator, 0.75)), edit(1, 0.5))])
    assert found == (When(FeatureCompare((6,), operator, 0.75), (nudges((1, 0.5)),)),)


@pytest.mark.parametrize("right", [group(7, 8), feature(7)])
def test_conditions_compare_features_with_features(right):
    """The right side may be a group of features or one bare feature."""
    (found,) = read(scopes=[scope(both(compare(6, ">", right)), edit(1, 0.5))])
    assert found.condition == FeatureCompare((6,), ">", (7, 8) if "features" in right else (7,))


def test_conditions_nest():
    """AND and OR become AllOf and AnyOf at any depth; a group of one is that one."""
    a, b, c = (compare(index, ">", 0.5) for index in (1, 2, 3))
    one, two, three = (FeatureCompare((index,), ">", 0.5) for index in (1, 2, 3))
    nested = both(a, both(b, c, operator="OR"))
    (found,) = read(scopes=[scope(nested, edit(1, 0.5))])
    assert found.condition == AllOf((one, AnyOf((two, three))))
    (found,) = read(scopes=[scope(both(both(a, operator="OR")), edit(1, 0.5))])
    assert found.condition == one


def test_an_event_is_an_interrupt():
    """A scope with an event and no edits interrupts; which name it has does not change the steering."""
    one = steering_of(controller(scopes=[scope(both(compare(6, ">", 0.75)), event="one")]))
    other = steering_of(controller(scopes=[scope(both(compare(6, ">", 0.75)), event="other")]))
    assert one.interventions[0].event == "one"
    assert one.interventions[0].interventions == ()
    assert one.fingerprint == other.fingerprint


def test_scopes_nest():
    """A scope in a scope acts where both conditions hold; one that does nothing is left out."""
    inner = scope(both(compare(7, "<", 0.1)), edit(2, 0.5))
    idle = scope(both(compare(7, "<", 0.1)), edit(2, 0.5), edit(2, -0.5))
    (found,) = read(scopes=[scope(both(compare(6, ">", 0.75)), edit(1, 0.5), scopes=[inner, idle]), idle])
    inside = When(FeatureCompare((7,), "<", 0.1), (nudges((2, 0.5)),))
    assert found == When(FeatureCompare((6,), ">", 0.75), (nudges((1, 0.5)), inside))


@pytest.mark.parametrize("name", ["00000000-0000-4000-8000-000000000005", "00000000000040008000000000000005", "odd"])
def test_features_are_known_by_index(name):
    """Ids may be hex, dashed or no UUID at all: the index decides, and the id and label are kept as provenance."""
    held = {"mode": "nudge", "value": 0.5, "features": feature(5, uuid=name, label="jokes")}
    by_id = copy.deepcopy(held)
    by_id["features"]["id"] = by_id["features"].pop("uuid")
    for one in (held, by_id):
        steering = steering_of(controller(one))
        assert steering.fingerprint == Steering((nudges((5, 0.5)),)).fingerprint
        assert steering.provenance == {"features": [{"index": 5, "label": "jokes", "uuid": name}]}


NESTED = both(compare(6, ">", 0.5))
for _ in range(20):
    NESTED = both(NESTED)

REFUSED = {
    "no object": ([], "controller is list, not an object with interventions, scopes"),
    "nothing": ({}, "controller lacks 'interventions'"),
    "no scopes": ({"interventions": []}, "controller lacks 'scopes'"),
    "an unknown key": ({**controller(), "layer": 3}, "controller has 'layer', which isn't understood"),
    "no list": ({"interventions": {}, "scopes": []}, "controller.interventions is dict; it is a list"),
    "mul": (controller(edit(5, 2.0, "mul")), r"controller.interventions\[0\].mode is 'mul'; it is one of nudge, pin"),
    "a mode of no text": (controller(edit(5, 2.0, ["pin"])), "mode is .'pin'.; it is one of"),
    "a text as value": (controller(edit(5, "0.5")), r"\[0\].value is '0.5'; it is a number"),
    "not a number": (controller(edit(5, float("nan"))), r"\[0\].value is nan; it must be a finite number"),
    "beyond floats": (controller(edit(5, 10**400)), r"\[0\].value is inf; it must be a finite number"),
    "a sum beyond floats": (controller(edit(5, 1e308), edit(5, 1e308)), "FeatureEdit.value is inf"),
    "no index": (controller({**edit(5, 1.0), "features": {"features": [{"uuid": "a"}]}}), "not a feature with index"),
    "a bad index": (controller(edit(-1, 1.0)), "index_in_sae is -1; indices are whole numbers from 0"),
    "true as index": (controller(edit(True, 1.0)), "index_in_sae is True; indices"),
    "an empty group": (controller({**edit(5, 1.0), "features": {"features": []}}), "features is empty; give at least"),
    "an operator": (when(compare(6, "~", 1)), "operator is '~'; it is one of"),
    "a join": (when(compare(6, ">", 1), operator="XOR"), "it is AND or OR"),
    "no conditions": (when(), "conditionals is empty; give at least one"),
    "a right hand": (when(compare(6, ">", None)), "right_hand is None; it is a"),
    "active already": (when(compare(6, ">", 1), is_active=True), "is_active is True"),
    "an event": (when(compare(6, ">", 1), event_name=3), "event_name is 3; it is a text or null"),
    "entropy": ({**controller(), "min_nudge_entropy": 0.5}, "min_nudge_entropy is 0.5; its meaning is not published"),
    "too deep": (controller(scopes=[scope(NESTED, edit(1, 1.0))]), "nests deeper than 16 levels; flatten it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_understood_is_refused(name):
    """A controller that can't be read in full is refused by the place and the remedy, never applied in part."""
    given, said = REFUSED[name]
    with pytest.raises(SteerError, match=said):
        steering_of(given)


# Files and variants.


def test_a_variant_object_is_taken_by_its_controller():
    """An object with a controller and a base model, as the SDK's Variant is, gives its steering and model."""
    held = controller(edit(5, 0.5))
    variant = SimpleNamespace(base_model="some/model", controller=SimpleNamespace(json=lambda: held))
    steering = steering_of_variant(variant)
    assert steering.interventions == (nudges((5, 0.5)),)
    assert steering.provenance["base_model"] == "some/model"


def test_the_sdks_own_variant_is_understood():
    """Edits, conditions, nesting, events and pins of the real SDK arrive as the steering they mean."""
    goodfire = pytest.importorskip("goodfire", reason="needs the goodfire SDK")
    from goodfire.controller.controller import Controller
    from goodfire.features.features import Feature

    a, b, c = (Feature(UUID(feature_id(index)), f"L{index}", index) for index in (1, 2, 3))
    variant = goodfire.Variant("meta-llama/Meta-Llama-3.1-8B-Instruct")
    variant.set(a, 1)
    variant.set(b | c, -0.3)
    variant.set_when((a > 0.75) & ((b > c) | (c <= 2)), {c: 0.5})
    variant.abort_when(b == 1.5)
    condition = AllOf(
        (
            FeatureCompare((1,), ">", 0.75),
            AnyOf((FeatureCompare((2,), ">", (3,)), FeatureCompare((3,), "<=", 2.0))),
        )
    )
    steering = steering_of_variant(variant)
    assert steering.interventions == (
        nudges((1, 1.0), (2, -0.3), (3, -0.3)),
        When(condition, (nudges((3, 0.5)),)),
        When(FeatureCompare((2,), "==", 1.5), (), event="any name"),
    )
    assert len(steering.interventions[2].event) == 36
    raw = Controller()
    raw[a] = True
    raw[a] -= 0.25
    assert steering_of(raw.json()).interventions == (EditFeatures((FeatureEdit(1, 0.5, "pin"),)), nudges((1, -0.25)))
    variant.reset()
    variant.set(a, 0.5)
    assert steering_of_variant(variant.json()).interventions == (nudges((1, 0.5)),)


SAVED = {
    "base_model": "some/model",
    "edits": [
        {"feature_id": feature_id(5), "feature_label": "jokes", "index_in_sae": 5, "value": 0.5},
        {"feature_id": "x", "feature_label": "puns", "index_in_sae": 5, "value": True},
    ],
    "scopes": [
        {
            "condition": both(compare(6, ">", 0.75)),
            "nested_variant": {"base_model": "some/model", "edits": [{"index_in_sae": 1, "value": -1}], "scopes": []},
        }
    ],
}


@pytest.mark.parametrize(
    "held",
    [
        controller(edit(5, 1.5), scopes=[scope(both(compare(6, ">", 0.75)), edit(1, -1.0))]),
        {
            "base_model": "some/model",
            "controller": controller(edit(5, 1.5), scopes=[scope(both(compare(6, ">", 0.75)), edit(1, -1.0))]),
        },
        SAVED,
    ],
)
def test_files_hold_controllers_and_variants(tmp_path, held):
    """A controller, one beside its model, and a saved variant are read from a file as the same steering."""
    path = tmp_path / "edits.json"
    path.write_text(json.dumps(held))
    expected = (nudges((5, 1.5)), When(FeatureCompare((6,), ">", 0.75), (nudges((1, -1.0)),)))
    assert steering_of_file(path).interventions == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "can't be read .No such file"),
        ("{", "is not JSON"),
        ("[]", "list is neither a variant nor a controller"),
        ('{"edits": 3}', "edits is"),
    ],
)
def test_a_file_that_holds_neither_is_refused(tmp_path, text, said):
    """A file that is missing or holds something else is refused by its name."""
    path = tmp_path / "edits.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SteerError, match=said) as caught:
        steering_of_file(path)
    assert str(path) in str(caught.value)


def test_edits_are_typed():
    """Edits typed by hand are nudges by index; those of one index are summed."""
    assert edits_of("551@0.6+983@-0.3") == nudges((551, 0.6), (983, -0.3))
    assert edits_of("5@1e+3+6@+.5+5@-1") == nudges((5, 999.0), (6, 0.5))


@pytest.mark.parametrize("text", ["", "5", "5@", "@1", "5@x", "5@1,6@2", "5@1+", "-5@1", "5@nan", "5@1-6@2"])
def test_edits_that_are_mistyped_are_refused(text):
    """What isn't INDEX@VALUE joined by + is refused with the form to write."""
    with pytest.raises(SteerError, match=r"can't be read; write INDEX@VALUE"):
        edits_of(text)


def test_edits_that_cancel_are_refused():
    """Typed edits that add up to nothing are no edits."""
    with pytest.raises(SteerError, match="add up to nothing"):
        edits_of("5@1+5@-1")


# Writing.


def test_a_controller_is_written_as_the_protocol_has_it():
    """Every key that the hosted service took is there, values are floats, pins come before nudges."""
    steering = Steering(
        (
            SystemPrompt("Be funny."),
            EditFeatures((FeatureEdit(2, 1), FeatureEdit(5, 0.5, "pin"))),
            When(FeatureCompare((6,), ">", 1), (nudges((1, 0.5)),), event="e"),
        ),
        {"features": [{"index": 5, "label": "jokes", "uuid": "abc"}]},
    )
    name = f"controller__{steering.fingerprint[:8]}"
    unsaid = dict.fromkeys(("nonzero_strength_threshold", "min_nudge_entropy", "max_nudge_entropy"))

    def bare(index, label, uuid):
        about = {"uuid": uuid, "label": label, "index_in_sae": index, "max_activation_strength": 1}
        return {"features": [about]}

    six = bare(6, "feature 6", "00000000-0000-4000-8000-000000000006")
    inside = {
        "interventions": [
            {"mode": "nudge", "value": 0.5, "features": bare(1, "feature 1", "00000000-0000-4000-8000-000000000001")}
        ],
        "scopes": [],
        "name": name,
        **unsaid,
    }
    leaf = {"left_hand": six, "right_hand": 1.0, "operator": ">"}
    written = controller_of(steering)
    assert written == {
        "interventions": [
            {"mode": "pin", "value": 0.5, "features": bare(5, "jokes", "abc")},
            {"mode": "nudge", "value": 1.0, "features": bare(2, "feature 2", "00000000-0000-4000-8000-000000000002")},
        ],
        "scopes": [
            {
                "conditionals": {"conditionals": [leaf], "operator": "AND"},
                "controller": inside,
                "is_active": False,
                "event_name": "e",
            }
        ],
        "name": name,
        **unsaid,
    }
    assert '"value": 1.0' in json.dumps(written)


@pytest.mark.parametrize(
    "steering", [CONTROL, Steering((SystemPrompt("Be funny."),)), Steering((nudges((5, 0.5)),)).scaled(0)]
)
def test_nothing_to_control_sends_no_controller(steering):
    """The control, a prompt alone, and edits scaled to zero are sent without a controller."""
    assert controller_of(steering) is None


def test_labels_come_from_both_parts_of_a_sum():
    """A sum of steerings sends the ids and labels that either part knows."""
    parts = [
        Steering((nudges((index, 0.5)),), {"features": [{"index": index, "uuid": f"id{index}", "label": f"L{index}"}]})
        for index in (1, 2)
    ]
    written = controller_of(parts[0] + parts[1])
    sent = [one["features"]["features"][0] for one in written["interventions"]]
    assert [(one["uuid"], one["label"]) for one in sent] == [("id1", "L1"), ("id2", "L2")]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (AddVector(0, ONES), "AddVector holds vectors, a service takes features: prepare features for it, or use hook"),
        (ClampFeature(0, ONES, 0.0, ONES, 1.0), "ClampFeature holds vectors"),
        (AblateDirection(0, ONES), "AblateDirection holds vectors"),
        (When(FeatureCompare((1,), ">", 0.5), (AddVector(0, ONES),)), "AddVector holds vectors"),
        (When(Compare(Reading(0, ONES), ">", 0.5), (nudges((1, 0.5)),)), "a condition on a direction"),
        (When(AnyOf((Compare(Reading(0, ONES), ">", 0.5),)), (nudges((1, 0.5)),)), "a condition on a direction"),
        (When(FeatureCompare((1,), ">", 0.5), (nudges((1, 0.5)),), moment="prompt"), "token by token"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(one, said):
    """Vectors and conditions that a controller has no place for are refused by name, with what to do instead."""
    assert len(wire_refusals(Steering((one,)))) == 1
    with pytest.raises(Refused, match=said):
        controller_of(Steering((one,)))


def test_two_pins_of_one_index_are_refused():
    """Pins of one index that differ only in what the wire doesn't carry can't both be sent."""
    pins = tuple(EditFeatures((FeatureEdit(5, 1.0, "pin"),), layer=layer) for layer in (1, 2))
    with pytest.raises(Refused, match="feature 5 is pinned twice"):
        controller_of(Steering(pins))


# There and back.

INDICES = st.integers(0, 6) | st.integers(0, 200_000)
VALUES = st.sampled_from([0.5, -0.5, 0.0, 1.1]) | st.floats(-1e6, 1e6)
EDITS = st.builds(edit, INDICES, VALUES | st.integers(-3, 3), st.sampled_from(["nudge", "pin"]))
LEAVES = st.builds(
    lambda left, operator, right: {"left_hand": group(*left), "right_hand": right, "operator": operator},
    st.lists(INDICES, min_size=1, max_size=3),
    st.sampled_from([">", "<", "==", ">=", "<=", "!="]),
    VALUES | st.lists(INDICES, min_size=1, max_size=2).map(lambda some: group(*some)) | INDICES.map(feature),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda some, join: both(*some, operator=join),
        st.lists(inner, min_size=1, max_size=3),
        st.sampled_from(["AND", "OR"]),
    ),
    max_leaves=5,
)


def controllers(pins=True):
    edits = st.lists(EDITS if pins else EDITS.filter(lambda one: one["mode"] == "nudge"), max_size=6)
    inner = st.builds(lambda some: controller(*some), edits)
    for _ in range(2):
        scopes = st.lists(
            st.builds(
                lambda condition, inside, event: {**scope(both(condition), event=event), "controller": inside},
                CONDITIONS,
                inner,
                st.none() | st.sampled_from(["one", "two"]),
            ),
            max_size=2,
        )
        inner = st.builds(lambda some, held: controller(*some, scopes=held), edits, scopes)
    return inner


def read_or_none(given):
    try:
        return steering_of(given)
    except SteerError as problem:  # one feature pinned inside and outside a scope
        assert "two clamps of the same feature" in str(problem)  # noqa: PT017
        return None


@given(controllers())
def test_reading_what_was_written_gives_the_same_steering(given_controller):
    """For any controller, writing its steering and reading that again changes nothing, JSON in between."""
    steering = read_or_none(given_controller)
    if steering is not None:
        written = controller_of(steering)
        again = CONTROL if written is None else steering_of(json.loads(json.dumps(written)))
        assert again.fingerprint == steering.fingerprint
        assert again.interventions == steering.interventions


def oracle(interventions):
    """Strengths added to and set for each feature, edit by edit, as the published rules have it."""
    added, pinned = {}, {}
    for one in interventions:
        (held,) = one["features"]["features"]
        index, value = held["index_in_sae"], float(one["value"])
        if one["mode"] == "pin":
            pinned[index] = value
            added.pop(index, None)
        else:
            added[index] = added.get(index, 0.0) + value
    return {index: value for index, value in added.items() if value}, pinned


@given(st.lists(EDITS, max_size=12))
def test_any_list_of_edits_follows_the_published_rules(edits):
    """However nudges and pins follow each other, what a steering adds and sets is what the rules say."""
    added, pinned = {}, {}
    for one in steering_of(controller(*edits)).interventions:
        for held in one.edits:
            target = pinned if held.mode == "pin" else added
            assert held.index not in target
            target[held.index] = held.value
    assert (added, pinned) == oracle(edits)


@given(st.integers(0, 2**48 - 1))
def test_ids_hold_their_index(index):
    """An id made for an index is a UUID from which the index is read again, hex or dashed, upper or lower case."""
    name = feature_id(index)
    assert str(UUID(name)) == name
    for form in (name, UUID(name).hex, name.upper(), UUID(name).hex.upper()):
        assert index_of_id(form) == index


def test_the_ids_of_others_hold_no_index():
    """An id that was made elsewhere is not mistaken for one that holds an index."""
    assert index_of_id("6f1c2d3e-0000-4000-8000-000000000005") is None
    assert index_of_id("odd") is None
