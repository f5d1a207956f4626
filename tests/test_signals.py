"""Judge-free signals of an answer."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.language import language_drift
from judges.signals import (
    COMPRESSIBLE,
    SIGNALS,
    Signals,
    compression_ratio,
    distinct_ngrams,
    mean_known,
    repeated_ngrams,
    tags_present,
    text_signals,
    with_reference_nll,
)

PROSE = (
    "A lock is a basin with a gate at each end. The boat enters from the lower side, and the lower gate closes behind "
    "it. Then somebody opens small shutters, and water from the higher part of the canal runs in."
)
GERMAN = "Das Boot fährt in die Schleuse und das Tor schließt sich langsam hinter ihm wieder zu."


def test_repeated_ngrams_by_hand():
    """Of the four-grams of `a b c d a b c d` five, one is a repetition; three words have none."""
    assert repeated_ngrams("a b c d a b c d") == pytest.approx(1 / 5)
    assert repeated_ngrams("a b c") is None
    assert repeated_ngrams("a b c d") == 0


def test_distinct_ngrams_by_hand():
    """Of the bigrams `a b`, `b a`, `a b` two are distinct."""
    assert distinct_ngrams("a b a b") == pytest.approx(2 / 3)
    assert distinct_ngrams("a") is None


@given(st.text(), st.integers(1, 5))
def test_shares_are_shares(text, n):
    """Both shares lie in [0, 1] for any text, add to one for the same n, and don't depend on the white space."""
    repeated, distinct = repeated_ngrams(text, n), distinct_ngrams(text, n)
    assert (repeated is None) == (distinct is None) == (len(text.split()) < n)
    if repeated is not None and distinct is not None:
        assert 0 <= repeated < 1
        assert repeated + distinct == pytest.approx(1)
        assert repeated_ngrams("  ".join(text.split()), n) == repeated


@given(st.text())
def test_compression_needs_something_to_compress(text):
    """A ratio is given from 64 bytes on, and is above zero."""
    ratio = compression_ratio(text)
    assert (ratio is None) == (len(text.encode(errors="surrogatepass")) < COMPRESSIBLE)
    assert ratio is None or ratio > 0


def test_a_loop_stands_out():
    """A loop has a larger repeated share and compression, and fewer distinct bigrams, than prose of its length."""
    looped = "the cat sat on the mat " * 7
    assert repeated_ngrams(looped) > 0.8 > 0.1 > repeated_ngrams(PROSE)
    assert compression_ratio(looped) > 4 > 2 > compression_ratio(PROSE)
    assert distinct_ngrams(looped) < 0.2 < 0.9 < distinct_ngrams(PROSE)


@pytest.mark.parametrize(
    ("text", "present"),
    [
        ("<thinking>x</thinking><answer>A</answer>", True),
        ("<Thinking>\nx\n</THINKING> so <answer>A</answer>.", True),
        ("<thinking></thinking><answer></answer>", True),
        ("<answer>A</answer><thinking>x</thinking>", False),
        ("<thinking>x<answer>A</answer>", False),
        ("<thinking>x</thinking><answer>A", False),
        ("<thinking>x</thinking><thinking>y</thinking><answer>A</answer>", False),
        ("A", False),
    ],
)
def test_tags_are_there_once_closed_and_in_order(text, present):
    """Open, doubled, misplaced and missing tags are no tags."""
    assert tags_present(text) is present


def test_drift_counts_windows_in_another_language():
    """English prose after an English prompt doesn't drift, German does, and half of each lies between."""
    prompt = "How does a lock on a canal lift a boat?"
    assert language_drift(PROSE, prompt) == 0
    assert language_drift(GERMAN, prompt) == 1
    assert 0 < language_drift(f"{PROSE} {GERMAN} {GERMAN} {GERMAN}", prompt) < 1
    assert language_drift(GERMAN, "Wie hebt eine Schleuse im Kanal ein Boot?") == 0


def test_a_prompt_of_no_certain_language_leaves_the_texts_own():
    """Where the prompt can't be told, drift is from the language that most of the text is in."""
    assert language_drift(PROSE, "12 + 30") == 0
    assert 0 < language_drift(f"{PROSE} {GERMAN}", "") < 0.5


@pytest.mark.parametrize(("text", "prompt"), [("too short", PROSE), ("", PROSE), ("1 2 3 4 5 6 7", "12 + 30")])
def test_drift_is_missing_where_nothing_can_be_told(text, prompt):
    """A short text, and one of numbers after a prompt of numbers, have no drift."""
    assert language_drift(text, prompt) is None


def test_every_missing_signal_has_its_reason():
    """What can't be told is None, never 0, and says why; what can has no reason."""
    found = text_signals("", prompt="A question?", truncated=None, tagged=False)
    missing = {name for name, value in found.as_dict().items() if value is None}
    assert missing == set(SIGNALS) - {"words"} == set(found.reasons)
    assert found.words == 0
    whole = text_signals(PROSE, prompt="How does a lock on a canal work?", truncated=True, tagged=True)
    assert set(whole.reasons) == {"reference_nll"}
    assert (whole.truncated, whole.tags_present, whole.language_drift) == (1.0, 0.0, 0.0)


def test_the_likelihood_is_added_with_its_reason():
    """A value takes the reason away, a missing value brings its own."""
    found = text_signals(PROSE, prompt=PROSE, truncated=False, tagged=False)
    assert with_reference_nll(found, 2.5, None).reference_nll == 2.5
    assert "reference_nll" not in with_reference_nll(found, 2.5, None).reasons
    assert with_reference_nll(found, None, "too long").reasons["reference_nll"] == "too long"


@given(st.text(), st.text(), st.booleans(), st.booleans())
def test_any_text_has_signals(text, prompt, truncated, tagged):
    """No text makes a signal fail, and no signal is NaN."""
    found = text_signals(text, prompt=prompt, truncated=truncated, tagged=tagged)
    assert isinstance(found, Signals)
    assert not any(value is not None and math.isnan(value) for value in found.as_dict().values())


def test_means_count_what_is_missing():
    """The mean is over known values, with the number of the others; of nothing it is None."""
    assert mean_known([1.0, None, 3.0]) == (2.0, 1)
    assert mean_known([None]) == (None, 1)
