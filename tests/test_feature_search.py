"""Feature search and named edits: what a model or a person chooses."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.behavior import Behavior
from model_adapters.errors import Refused, SteerError
from model_adapters.method import Context
from model_adapters.methods import build_method
from model_adapters.methods.feature_search import parse_reply
from model_adapters.preparation import prepare
from model_adapters.steering import EditFeatures, FeatureEdit, When
from tests.fake_backend import ReadingBackend, SpeakingBackend
from tests.tiny_dictionary import tiny_dictionary

GLAD = Behavior("glad", "be glad", "")
OFFERED = [7, 8, 9, 551]


def searched(reply, draw=0, writer=True):
    model = SpeakingBackend(reply if callable(reply) else lambda _: reply)
    context = Context(ReadingBackend(), model if writer else None, tiny_dictionary(), draw=draw)
    return asyncio.run(build_method("feature_search").prepare(GLAD, context)), model


def test_the_model_is_shown_ten_labels_and_its_choice_is_taken():
    """The writer sees index and label of features that fit the behavior; the steering is what it picks."""
    steering, model = searched('Sure! [{"index": 0, "value": 0.5}, {"index": 4, "value": -0.25}] Good luck.')
    assert steering.interventions == (
        EditFeatures((FeatureEdit(0, 0.5), FeatureEdit(4, -0.25)), tiny_dictionary().digest),
    )
    (request,) = model.asked
    assert "0: glad joy" in request.prompt[0].content
    assert "4: bright glad days" in request.prompt[0].content
    assert "1: fun and jokes" not in request.prompt[0].content
    assert [note["label"] for note in steering.provenance["features"]] == ["glad joy", "bright glad days"]


def test_an_unusable_reply_is_asked_for_once_more_with_the_reason():
    """The second question says what was wrong with the first reply; its answer counts."""
    replies = iter(["I would pick joy.", '[{"index": 0, "value": 0.1}]'])
    steering, model = searched(lambda _: next(replies), draw=3)
    assert steering.interventions[0].edits == (FeatureEdit(0, 0.1),)
    assert len(model.asked) == 2
    assert "there is no JSON list of objects in it" in model.asked[1].prompt[2].content
    assert [request.sampling.seed for request in model.asked] == [3, 3]
    assert steering.provenance["replies"] == ["I would pick joy.", '[{"index": 0, "value": 0.1}]']


def test_two_unusable_replies_are_an_error():
    """Nothing is guessed: the error names the model, the reason and the remedy."""
    with pytest.raises(SteerError, match=r"gave no usable choice in two replies \(value 0\.9 is not a number"):
        searched('[{"index": 0, "value": 0.9}]')


def test_without_a_writer_the_target_chooses():
    """The target itself, unsteered, is asked where there is no second model."""
    target = ReadingBackend(lambda _: '[{"index": 0, "value": 0.2}]')
    context = Context(target, None, tiny_dictionary())
    steering = asyncio.run(build_method("feature_search").prepare(GLAD, context))
    assert steering.interventions[0].edits == (FeatureEdit(0, 0.2),)
    assert not target.asked[0].steering


def test_a_behavior_that_fits_no_label_is_refused():
    """Where the search finds nothing there is nothing to choose from."""
    context = Context(ReadingBackend(), None, tiny_dictionary())
    with pytest.raises(Refused, match="no label fits 'zzzz'"):
        asyncio.run(build_method("feature_search").prepare(Behavior("z", "zzzz", ""), context))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("", "no JSON list"),
        ("[1, 2]", "no JSON list"),
        ("[]", "it has 0 features, not 1 to 3"),
        ('[{"index": 7, "value": 0.1}, {"index": 7, "value": 0.2}]', "a feature is in it twice"),
        ('[{"index": 5, "value": 0.1}]', "index 5 is not in the list"),
        ('[{"index": "7", "value": 0.1}]', "index 7 is not in the list"),
        ('[{"index": true, "value": 0.1}]', "index True is not in the list"),
        ('[{"index": 7, "value": 0}]', "value 0 is not a number"),
        ('[{"index": 7, "value": 0.61}]', "value 0.61 is not a number"),
        ('[{"index": 7, "value": NaN}]', "value nan is not a number"),
        ('[{"index": 7}]', "value None is not a number"),
        (json.dumps([{"index": i, "value": 0.1} for i in OFFERED]), "it has 4 features, not 1 to 3"),
    ],
)
def test_what_a_reply_may_not_be(reply, said):
    """Every fault of a reply is named."""
    with pytest.raises(SteerError, match=said):
        parse_reply(reply, OFFERED)


PROSE = st.text(st.characters(exclude_characters="[]{}"), max_size=30)
CHOICES = st.lists(
    st.tuples(st.sampled_from(OFFERED), st.floats(0.01, 0.6) | st.floats(-0.6, -0.01)),
    min_size=1,
    max_size=3,
    unique_by=lambda pair: pair[0],
)


@given(CHOICES, PROSE, PROSE)
def test_a_choice_is_found_whatever_stands_around_it(choices, before, after):
    """The first list of objects is read exactly, with any prose before and after it."""
    reply = before + json.dumps([{"index": index, "value": value} for index, value in choices]) + after
    assert parse_reply(reply, OFFERED) == tuple(FeatureEdit(index, value) for index, value in choices)


@given(st.text())
def test_any_reply_is_read_or_refused(reply):
    """No reply, whatever it holds, is anything but edits or a named refusal."""
    try:
        found = parse_reply(reply, OFFERED)
    except SteerError:
        return
    assert all(isinstance(edit, FeatureEdit) for edit in found)


# Named edits


def test_edits_are_named_on_one_line():
    """`551@0.6+983@-0.3` are two nudges; no behavior is needed."""
    method = build_method("features", {"edits": "551@0.6+983@-0.3"})
    steering = asyncio.run(method.prepare(GLAD, Context(SpeakingBackend())))
    assert steering.interventions == (EditFeatures((FeatureEdit(551, 0.6), FeatureEdit(983, -0.3))),)


def test_a_controllers_file_is_read_with_its_scopes(tmp_path):
    """A saved controller gives its edits, and a When for its scope."""
    feature = {"uuid": "u", "label": "L", "index_in_sae": 5, "max_activation_strength": 1}
    inner = {"interventions": [{"mode": "pin", "value": 0.4, "features": {"features": [feature]}}], "scopes": []}
    condition = {
        "operator": "AND",
        "conditionals": [{"left_hand": {"features": [feature]}, "right_hand": 0.5, "operator": ">"}],
    }
    controller = {
        "interventions": [{"mode": "nudge", "value": 0.5, "features": {"features": [feature]}}],
        "scopes": [{"conditionals": condition, "controller": inner, "is_active": False, "event_name": None}],
    }
    path = tmp_path / "controller.json"
    path.write_text(json.dumps(controller))
    steering = asyncio.run(build_method("features", {"edits": str(path)}).prepare(GLAD, Context(SpeakingBackend())))
    assert steering.interventions[0] == EditFeatures((FeatureEdit(5, 0.5),))
    assert isinstance(steering.interventions[1], When)
    assert steering.interventions[1].interventions == (EditFeatures((FeatureEdit(5, 0.4, "pin"),)),)


def test_a_changed_file_is_read_again(tmp_path, monkeypatch):
    """Edits in a file are not stored by the file's name: what is in it now is what runs."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "edits.json"

    class Takes(SpeakingBackend):
        def refusals(self, steering):
            return []

    def fingerprint(value):
        path.write_text(json.dumps({"base_model": "m", "edits": [{"index_in_sae": 3, "value": value}]}))
        method = build_method("features", {"edits": str(path)})
        return asyncio.run(prepare(method, None, Takes())).steering.fingerprint

    assert fingerprint(0.1) != fingerprint(0.2)
    assert fingerprint(0.1) == fingerprint(0.1)


@pytest.mark.parametrize("edits", ["", "551", "551@", "551@0.6;983@1", "a@1", "551@x"])
def test_edits_that_cannot_be_read_are_refused(edits):
    """What is neither edits nor a file is refused by name."""
    with pytest.raises(SteerError):
        asyncio.run(build_method("features", {"edits": edits}).prepare(GLAD, Context(SpeakingBackend())))
