"""Judge-free signals: what can be read off an answer without asking a model. Standard library only."""

from collections.abc import Iterable


def repeated_ngrams(text: str, n: int = 4) -> float | None:
    """Share of word n-grams that occurred before in the same text: 1 - distinct / total, in [0, 1].

    A loop goes towards 1, ordinary prose of a few hundred words stays below 0.1. None where the text has fewer than
    `n` words, as there is nothing to repeat. Words are split at white space, case kept. (1 - distinct-n of Li et al.,
    arXiv:1510.03055, section 5.2, there over unigrams and bigrams; n = 4 tells loops from common phrases.)
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def mean_known(values: Iterable[float | None]) -> tuple[float | None, int]:
    """Mean over the values that are there, and how many are missing; None where all are."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return (sum(known) / len(known) if known else None), len(listed) - len(known)
