"""Judge-free signals: what can be read off an answer without asking a judge.

They are reported as what they are, never mapped to a judge's scale. Standard library and `judges.language` only.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

from judges.language import language_drift

COMPRESSIBLE = 64
"""Bytes a text needs for its compression ratio: below, zlib's own header and tables weigh as much as the text."""

_TAGGED = re.compile(r"<thinking>.*?</thinking>.*?<answer>.*?</answer>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:thinking|answer)>", re.IGNORECASE)


@dataclass(frozen=True)
class Signals:
    """The signals of one answer; None where one can't be told, with the reason under its name in `reasons`.

    - `repeated_ngrams`: share of word 4-grams that occurred before, in [0, 1]; a loop goes towards 1.
    - `compression_ratio`: bytes per byte after zlib; ordinary prose lies near 2, a loop far above.
    - `distinct_2`: distinct word bigrams over all, in [0, 1]; falls with repetition.
    - `words`: length in words.
    - `truncated`: 1 where a token limit cut it, else 0.
    - `tags_present`: 1 where the tags that the task asks for are there once each, closed and in order, else 0.
    - `language_drift`: share of windows in another language than the prompt's, in [0, 1].
    - `reference_nll`: mean negative log-likelihood per token under a reference model, in nats; rises with oddness,
      but a loop makes it fall.
    """

    repeated_ngrams: float | None = None
    compression_ratio: float | None = None
    distinct_2: float | None = None
    words: float | None = None
    truncated: float | None = None
    tags_present: float | None = None
    language_drift: float | None = None
    reference_nll: float | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float | None]:
        """Value by name, without the reasons."""
        return {name: getattr(self, name) for name in SIGNALS}


SIGNALS = tuple(one.name for one in fields(Signals) if one.name != "reasons")
"""The signals' names."""

_NONE = {
    "repeated_ngrams": "fewer than 4 words",
    "compression_ratio": f"fewer than {COMPRESSIBLE} bytes",
    "distinct_2": "fewer than 2 words",
    "truncated": "the model didn't say how it stopped",
    "tags_present": "the task asks for no tags",
    "language_drift": "too few words, or in no certain language",
    "reference_nll": "no reference model",
}


def text_signals(text: str, *, prompt: str, truncated: bool | None, tagged: bool) -> Signals:
    """All signals but the likelihood. `tagged` says whether the task asks for `<thinking>` and `<answer>` tags."""
    values = {
        "repeated_ngrams": repeated_ngrams(text),
        "compression_ratio": compression_ratio(text),
        "distinct_2": distinct_ngrams(text),
        "words": float(word_count(text)),
        "truncated": None if truncated is None else float(truncated),
        "tags_present": float(tags_present(text)) if tagged else None,
        "language_drift": language_drift(text, prompt),
        "reference_nll": None,
    }
    return Signals(**values, reasons={name: _NONE[name] for name, value in values.items() if value is None})


def with_reference_nll(signals: Signals, value: float | None, reason: str | None) -> Signals:
    """The signals with the likelihood under a reference model, or the reason why there is none."""
    others = {name: said for name, said in signals.reasons.items() if name != "reference_nll"}
    if value is None:
        others["reference_nll"] = reason or _NONE["reference_nll"]
    return replace(signals, reference_nll=value, reasons=others)


def repeated_ngrams(text: str, n: int = 4) -> float | None:
    """Share of word n-grams that occurred before in the same text: 1 - distinct / total, in [0, 1].

    A loop goes towards 1, ordinary prose of a few hundred words stays below 0.1. None where the text has fewer than
    `n` words, as there is nothing to repeat. Words are split at white space, case kept. (1 - distinct-n of Li et al.,
    arXiv:1510.03055, section 5.2, there over unigrams and bigrams; n = 4 tells loops from common phrases.)
    """
    distinct = distinct_ngrams(text, n)
    return None if distinct is None else 1 - distinct


def distinct_ngrams(text: str, n: int = 2) -> float | None:
    """Distinct word n-grams over all word n-grams, in (0, 1]; None where the text has fewer than `n` words.

    Distinct-n of Li et al., arXiv:1510.03055, section 5.2. It falls with length too, so compare equal lengths.
    """
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def compression_ratio(text: str) -> float | None:
    """Bytes of the text in UTF-8 over its bytes after zlib at level 9; None for fewer than 64 bytes."""
    content = text.encode(errors="surrogatepass")
    return len(content) / len(zlib.compress(content, 9)) if len(content) >= COMPRESSIBLE else None


def word_count(text: str) -> int:
    """Words, split at white space."""
    return len(text.split())


def tags_present(text: str) -> bool:
    """Whether `<thinking>…</thinking>` and then `<answer>…</answer>` are there, closed, once each, case aside."""
    return len(_TAG.findall(text)) == 4 and _TAGGED.search(text) is not None


def mean_known(values: Iterable[float | None]) -> tuple[float | None, int]:
    """Mean over the values that are there, and how many are missing; None where all are."""
    listed = list(values)
    known = [value for value in listed if value is not None]
    return (sum(known) / len(known) if known else None), len(listed) - len(known)
