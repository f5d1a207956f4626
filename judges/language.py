"""Language drift: how much of an answer is in another language than its prompt. py3langid, loaded at first use."""

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

WINDOW = 12
"""Words a window. Shorter ones are told wrongly more often; longer ones hide a sentence of another language."""

FEWEST = 6
"""Words that a text, or a last window, needs to be told at all."""

CERTAIN = 0.9
"""Least probability at which a window counts as another language.

Measured on the study's public open-ended answers of the 70B model, all English, those 1,109 whose coherence its judge
put at 5: in 8 of them some window is taken for another language at any probability, in none at 0.9.
"""


def language_drift(text: str, reference: str) -> float | None:
    """Share of a text's windows of 12 words that are surely in another language than `reference`, in [0, 1].

    Where the reference's own language isn't certain, as in a prompt of three words, the text's most frequent one takes
    its place. None where the text has fewer than 6 words, or no window in a certain language either. Languages are
    told by py3langid's naive Bayes over byte n-grams (Lui and Baldwin, ACL 2012, system demonstrations, pp. 25–30).
    """
    words = text.split()
    if len(words) < FEWEST:
        return None
    windows = [words[start : start + WINDOW] for start in range(0, len(words), WINDOW)]
    told = [_language(" ".join(window)) for window in windows if len(window) >= FEWEST]
    certain = Counter(one for one in told if one is not None)
    expected = _language(reference) or next((one for one, _ in certain.most_common(1)), None)
    if expected is None:
        return None
    return sum(one is not None and one != expected for one in told) / len(told)


def _language(text: str) -> str | None:
    """The code of a text's language; None where none is certain."""
    code, probability = _identifier().classify(text)
    return str(code) if probability >= CERTAIN else None


@cache
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
