"""Ids of features in the local Ember."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.ember_service.identifiers import feature_id, feature_index, read_id
from model_adapters.errors import SteerError

digests = st.text("0123456789abcdef", min_size=16, max_size=16)
indices = st.integers(0, 2**24)


@given(digests, indices)
def test_an_id_holds_its_index(digest, index):
    """Every id is a canonical lower-case dashed UUID from which the dictionary reads back the index, however spelt."""
    name = feature_id(digest, index)
    assert name == str(uuid.UUID(name))
    for spelling in (name, name.upper(), name.replace("-", "")):
        assert feature_index(digest, spelling, index + 1) == index


@given(digests, digests, indices)
def test_an_id_of_another_dictionary_is_refused(digest, other, index):
    """An id is accepted by the dictionary that gave it and by no other."""
    name = feature_id(digest, index)
    assert read_id(name) == (digest[:12], index)
    if digest[:12] != other[:12]:
        with pytest.raises(SteerError, match="another dictionary"):
            feature_index(other, name, index + 1)


def test_an_id_beyond_the_dictionary_is_refused():
    """An id whose index the dictionary doesn't have is refused with the dictionary's size."""
    with pytest.raises(SteerError, match="48 features"):
        feature_index("0123456789abcdef", feature_id("0123456789abcdef", 48), 48)


@given(st.one_of(st.text(max_size=40), st.uuids(version=4).map(str)))
def test_other_peoples_ids_are_refused(name):
    """What is no id of ours is refused, whatever it is."""
    with pytest.raises(SteerError, match="none of this service"):
        feature_index("0123456789abcdef", name, 10)


def test_the_id_of_feature_five():
    """The layout is fixed: twelve digits of the digest, version 8 and our mark, the index."""
    assert feature_id("0123456789abcdef", 5) == "01234567-89ab-85ae-8000-000000000005"
