"""Texts damaged by known amounts, and what a judge's scores of them say."""

import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.calibration import (
    INJECTIONS,
    Judged,
    calibration_items,
    degrees,
    false_alarms,
    injection_resistance,
    length_bias,
    ordering,
    repeatability,
)
from judges.damage import DEGREES, KINDS, LEVELS, clean_texts, damaged, material, sentences, to_degree
from judges.signals import repeated_ngrams
from model_adapters.behavior import find_behavior

TEXT = clean_texts()[0]
GIVEN = material(TEXT)


def moved(a, b):
    """How many places of two texts hold another word, and by how much their lengths differ."""
    one, two = a.split(), b.split()
    return sum(x != y for x, y in zip(one, two, strict=False)) + abs(len(one) - len(two))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_grows_with_its_level(kind):
    """Level 0 is the text itself, every level changes more words than the one before, on average over the texts."""
    for text in clean_texts():
        assert damaged(text.answer, kind, 0, material(text)) == text.answer
    amounts = [
        statistics.mean(moved(text.answer, damaged(text.answer, kind, level, material(text))) for text in clean_texts())
        for level in LEVELS
    ]
    assert amounts == sorted(set(amounts))


@given(st.sampled_from(sorted(KINDS)), st.sampled_from(LEVELS), st.integers(0, 5))
def test_damage_repeats(kind, level, seed):
    """The same arguments give the same damaged text."""
    assert damaged(TEXT.answer, kind, level, GIVEN, seed) == damaged(TEXT.answer, kind, level, GIVEN, seed)


@given(st.sampled_from(sorted(KINDS)), st.sampled_from(LEVELS), st.text(max_size=60))
def test_any_text_can_be_damaged(kind, level, text):
    """Short, empty and odd texts are damaged without failing."""
    assert isinstance(damaged(text, kind, level, GIVEN), str)


def test_each_kind_does_what_it_says():
    """Shuffling keeps the words, truncation is a beginning, a loop repeats, mixing brings foreign sentences."""
    words = sorted(TEXT.answer.split())
    for kind in ("words_shuffled", "sentences_shuffled"):
        assert sorted(damaged(TEXT.answer, kind, 4, GIVEN).split()) == words
    assert TEXT.answer.startswith(damaged(TEXT.answer, "truncation", 3, GIVEN))
    assert repeated_ngrams(damaged(TEXT.answer, "loop", 4, GIVEN)) > 0.8
    assert set(sentences(damaged(TEXT.answer, "language_mixing", 4, GIVEN))) <= set(GIVEN.foreign) | set(
        one for text in GIVEN.foreign for one in sentences(text)
    )
    assert not set(sentences(damaged(TEXT.answer, "off_topic", 4, GIVEN))) & set(sentences(TEXT.answer))


def test_degrees_hold_as_many_parts_as_they_say():
    """A degree of k has k of three parts from the answers that show the behavior; the prompt is the same for all."""
    behavior = find_behavior("funny")
    made = [to_degree(behavior, degree) for degree in DEGREES]
    assert len({one.prompt for one in made}) == 1
    for degree, one in zip(DEGREES, made, strict=True):
        assert sum(contrast.positive in one.answer for contrast in behavior.contrasts) == degree


def test_items_have_ids_of_their_own():
    """All items of a whole calibration have different ids, every kind and behavior is among them."""
    items = calibration_items()
    assert len({item.id for item in items}) == len(items) == 368
    assert {item.group.split("/")[0] for item in items if item.test == "damage"} == set(KINDS)
    assert {item.test for item in items} == {"damage", "degree", "repeat", "length", "injection"}


def scored(give, items=None):
    """What a judge would say that gives each item `give(item)`."""
    chosen = calibration_items(2, ["funny", "concise"]) if items is None else items
    return [Judged(one.test, one.group, one.level, give(one), one.repeat) for one in chosen]


def perfect(item):
    if item.test == "damage":
        return 5 - item.level
    if item.test == "injection":
        return 2
    return 2 + item.level if item.test == "degree" else 5


def test_a_perfect_judge_gets_full_marks():
    """Right order everywhere, no false alarm, no bias, nothing believed."""
    found = scored(perfect)
    assert set(ordering(found).values()) == {1.0}
    assert set(ordering(found)) == {*KINDS, "all_damage"}
    assert degrees(found) == {"funny": 1.0, "concise": 1.0, "all_degrees": 1.0}
    assert (false_alarms(found), repeatability(found), length_bias(found)) == (0.0, 1.0, 0.0)
    assert injection_resistance(found) == 1.0


def test_a_judge_that_always_says_the_same_is_at_chance():
    """Ties count half: one score for everything is 0.5 in every order."""
    found = scored(lambda item: 3)
    assert set(ordering(found).values()) == {0.5}
    assert set(degrees(found).values()) == {0.5}
    assert false_alarms(found) == 1.0


def test_a_judge_that_believes_what_it_reads_is_found_out():
    """Every plea that raises a score counts against the judge."""
    found = scored(lambda item: 5 if item.test == "injection" and item.level == 1 else perfect(item))
    assert injection_resistance(found) == 1 - 1 / len(INJECTIONS)


def test_length_bias_and_repeats_by_hand():
    """Long minus short, and the share of texts with one score at every repeat."""
    found = scored(lambda item: 3 + item.level if item.test == "length" else 4)
    assert length_bias(found) == 1.0
    wavering = scored(lambda item: item.repeat if item.test == "repeat" and item.group == "0/0" else 4)
    assert repeatability(wavering) == 3 / 4


def test_missing_scores_are_left_out_and_nothing_is_divided_by_zero():
    """A judge whose replies can't be read has no statistics, and no failure either."""
    found = scored(lambda item: None)
    assert ordering(found) == degrees(found) == {}
    assert [false_alarms(found), repeatability(found), length_bias(found), injection_resistance(found)] == [None] * 4
    assert ordering([]) == {}
    some = [replace(one, score=None) if one.level == 2 else one for one in scored(perfect)]
    assert set(ordering(some).values()) == {1.0}
