"""Labels for features, read off the texts that activate each most. No model writes them; imports torch."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from examples.dictionary.autoencoder import Autoencoder
from examples.dictionary.conversations import Conversation
from examples.dictionary.residuals import Residuals

CONTEXTS = 24
"""Places in the text that a label is made from: those of highest activation, at most two of one conversation."""

WINDOW = 8
"""Tokens on each side of such a place."""

COMMON = 0.015
"""Words in a larger share of the windows of all texts say nothing about a feature."""

TELLING = 5.0
"""Standard errors above all other conversations' mean from which a style is named."""

WORD = re.compile(r"[A-Za-z][a-z']{2,}")


@dataclass(frozen=True)
class Top:
    """Where each feature is most active: `rows` and `values`, `(n_features, kept)`, best first; and by conversation
    `means` `(n_conversations, n_features)` over the answer's tokens."""

    rows: np.ndarray
    values: np.ndarray
    means: np.ndarray


def top_places(made: Autoencoder, residuals: Residuals, conversations: int, kept: int = 400, step: int = 4096) -> Top:
    """One pass over all tokens."""
    count = len(made.encoder)
    values, rows = torch.zeros(count, 0), torch.zeros(count, 0, dtype=torch.long)
    sums, said = torch.zeros(conversations, count), torch.zeros(conversations)
    for start in range(0, len(residuals.values), step):
        part = slice(start, start + step)
        sparse = made.activations(torch.from_numpy(residuals.values[part].astype(np.float32)))
        here = torch.arange(start, start + len(sparse)).expand(count, -1)
        values, rows = torch.cat([values, sparse.T], 1), torch.cat([rows, here], 1)
        best = values.topk(min(kept, values.shape[1]), dim=1)
        values, rows = best.values, rows.gather(1, best.indices)
        own = torch.from_numpy(residuals.said[part])
        places = torch.from_numpy(residuals.places[part])[own]
        sums.index_add_(0, places, sparse[own])
        said.index_add_(0, places, torch.ones(len(places)))
    return Top(rows.numpy(), values.numpy(), (sums / said.clamp_min(1)[:, None]).numpy())


def labels(
    top: Top, residuals: Residuals, conversations: Sequence[Conversation], decode: Callable[[list[int]], str]
) -> dict[int, str]:
    """A label per feature: its tokens in quotes, its contexts' typical words, and the style that brings it out."""
    common = _document_shares(residuals, decode)
    by_style = _telling_styles(top.means, conversations)
    found = {}
    for feature in range(len(top.rows)):
        places = _spread(top.rows[feature], top.values[feature], residuals.places)
        if not places:
            found[feature] = "never active on the texts it was trained on"
            continue
        tokens: Counter[str] = Counter()
        words: Counter[str] = Counter()
        for row in places:
            tokens[_shown(decode([int(residuals.tokens[row])]))] += 1
            words.update(_words(_window(residuals, row, decode)))
        quoted = [token for token, times in _ranked(tokens) if times >= 3][:3] or [_ranked(tokens)[0][0]]
        said = {token.strip().casefold() for token in quoted}
        rare = {
            word: times * -np.log(common[word])
            for word, times in words.items()
            if times >= 3 and word not in said and common[word] < COMMON
        }
        near = [word for word, _ in _ranked(rare)][:4]
        label = " ".join(f"“{token}”" for token in quoted)
        label += f" near {', '.join(near)}" if near else ""
        label += f"; {by_style[feature]} answers" if feature in by_style else ""
        found[feature] = label
    return found


def _ranked(counts: "Counter[str] | dict[str, float]") -> list[tuple[str, float]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _spread(rows: np.ndarray, values: np.ndarray, places: np.ndarray) -> list[int]:
    """The best rows, at most two of a conversation."""
    taken: Counter[int] = Counter()
    chosen: list[int] = []
    for row, value in zip(rows, values, strict=True):
        place = int(places[row])
        if value > 0 and taken[place] < 2 and len(chosen) < CONTEXTS:
            taken[place] += 1
            chosen.append(int(row))
    return chosen


def _window(residuals: Residuals, row: int, decode: Callable[[list[int]], str]) -> str:
    near = slice(max(0, row - WINDOW), row + WINDOW + 1)
    same = residuals.places[near] == residuals.places[row]
    return decode(residuals.tokens[near][same].tolist())


def _words(text: str) -> set[str]:
    return {word.casefold() for word in WORD.findall(text)}


def _shown(token: str) -> str:
    return {"\n": "⏎", "\n\n": "⏎⏎"}.get(token, token.strip() or "␣").replace("|", "¦")


def _document_shares(residuals: Residuals, decode: Callable[[list[int]], str]) -> dict[str, float]:
    """The share of windows that hold each word, over windows spread evenly through the text."""
    counts: Counter[str] = Counter()
    step = 2 * WINDOW + 1
    starts = range(0, len(residuals.tokens), step)
    for start in starts:
        counts.update(_words(decode(residuals.tokens[start : start + step].tolist())))
    shares: dict[str, float] = defaultdict(lambda: 1 / len(starts))
    shares.update({word: times / len(starts) for word, times in counts.items()})
    return shares


def _telling_styles(means: np.ndarray, conversations: Sequence[Conversation]) -> dict[int, str]:
    """For features that one behavior's requests bring out more than anything else does: that behavior."""
    slugs = np.array([one.slug for one in conversations])
    named = sorted(set(slugs) - {"", "other"})
    scores = []
    for slug in named:
        own, rest = means[slugs == slug], means[slugs != slug]
        spread = np.sqrt(own.var(0) / len(own) + rest.var(0) / len(rest)) + 1e-6
        scores.append((own.mean(0) - rest.mean(0)) / spread)
    table = np.array(scores)
    best = table.argmax(0)
    return {int(i): named[best[i]] for i in np.flatnonzero(table.max(0) >= TELLING)}
