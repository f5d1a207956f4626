"""Texts damaged by known amounts, and behaviors present to known degrees: what a judge that is any good must order.

Standard library, PyYAML and `model_adapters` only.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from model_adapters.behavior import Behavior

LEVELS = (0, 1, 2, 3, 4)
"""Severities; 0 is the text as it was written."""

SHARES = {1: 0.15, 2: 0.35, 3: 0.65, 4: 1.0}
"""Share of a text that is damaged at each severity, about doubling, up to all of it."""

WINDOW = 6
"""Words shuffled among themselves, and words of the phrase that a loop repeats."""

DEGREES = (0, 1, 2, 3)
"""How many of an answer's three parts show the behavior."""

_FILE = Path(__file__).parent / "calibration_texts.yaml"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class CleanText:
    """A prompt and an undamaged answer."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Material:
    """What texts are damaged with: other texts for noise and for sentences off the topic, and foreign sentences."""

    others: tuple[str, ...]
    foreign: tuple[str, ...]


def clean_texts() -> tuple[CleanText, ...]:
    """The package's undamaged texts."""
    return tuple(CleanText(one["prompt"], one["answer"]) for one in _content()["texts"])


def material(for_text: CleanText) -> Material:
    """What a text can be damaged with: everything but itself."""
    others = tuple(one.answer for one in clean_texts() if one != for_text)
    return Material(others, tuple(_content()["other_languages"]))


def damaged(text: str, kind: str, level: int, given: Material, seed: int = 0) -> str:
    """`text` damaged in one way to a severity from 0 (as it is) to 4; the same arguments give the same text."""
    if level == 0:
        return text
    return KINDS[kind](text, SHARES[level], given, random.Random(f"{kind} {level} {seed} {text}"))


def words_shuffled(text: str, share: float, given: Material, chance: random.Random) -> str:
    """Words change places within windows of six; `share` of the windows, chosen at random."""
    words = text.split()
    windows = [words[start : start + WINDOW] for start in range(0, len(words), WINDOW)]
    for index in _chosen(len(windows), share, chance):
        windows[index] = _deranged(windows[index], chance)
    return " ".join(word for window in windows for word in window)


def sentences_shuffled(text: str, share: float, given: Material, chance: random.Random) -> str:
    """`share` of the sentences, at least two, change places among themselves."""
    parts = sentences(text)
    places = sorted(_chosen(len(parts), share, chance, least=2))
    moved = _deranged([parts[place] for place in places], chance)
    for place, sentence in zip(places, moved, strict=True):
        parts[place] = sentence
    return " ".join(parts)


def loop(text: str, share: float, given: Material, chance: random.Random) -> str:
    """The last `share` of the words is a phrase of six words again and again: the one that stood before."""
    words = text.split()
    kept = max(len(words) - round(len(words) * share), WINDOW)
    phrase = words[kept - WINDOW : kept]
    looped = [phrase[index % WINDOW] for index in range(len(words) - kept)]
    return " ".join(words[:kept] + looped)


def noise(text: str, share: float, given: Material, chance: random.Random) -> str:
    """`share` of the words are replaced by words of other texts."""
    words = text.split()
    pool = [word for other in given.others for word in other.split()]
    for index in _chosen(len(words), share, chance):
        words[index] = chance.choice(pool)
    return " ".join(words)


def truncation(text: str, share: float, given: Material, chance: random.Random) -> str:
    """The last `share` of the words is missing, at most all but three."""
    words = text.split()
    return " ".join(words[: max(len(words) - round(len(words) * share), 3)])


def language_mixing(text: str, share: float, given: Material, chance: random.Random) -> str:
    """`share` of the sentences are replaced by sentences in other languages, about other things."""
    return _replaced(text, share, given.foreign, chance)


def off_topic(text: str, share: float, given: Material, chance: random.Random) -> str:
    """`share` of the sentences are replaced by well-formed sentences from answers to other prompts."""
    return _replaced(text, share, [one for other in given.others for one in sentences(other)], chance)


KINDS: dict[str, Callable[[str, float, Material, random.Random], str]] = {
    "words_shuffled": words_shuffled,
    "sentences_shuffled": sentences_shuffled,
    "loop": loop,
    "noise": noise,
    "truncation": truncation,
    "language_mixing": language_mixing,
    "off_topic": off_topic,
}
"""The ways of damaging a text, by name."""


def sentences(text: str) -> list[str]:
    """A text's sentences, by the marks that end them."""
    return _SENTENCE.split(text.strip())


def to_degree(behavior: Behavior, degree: int, start: int = 0) -> CleanText:
    """Three of a behavior's contrast prompts answered at once, `degree` of them by the answer that shows it.

    `start` is the first contrast taken; they are used in turn.
    """
    chosen = [behavior.contrasts[(start + part) % len(behavior.contrasts)] for part in range(len(DEGREES) - 1)]
    answers = [one.positive if part < degree else one.negative for part, one in enumerate(chosen)]
    return CleanText(
        "Please answer these questions:\n" + "\n".join(f"{n}. {one.prompt}" for n, one in enumerate(chosen, 1)),
        "\n".join(f"{n}. {answer}" for n, answer in enumerate(answers, 1)),
    )


def _content() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return found


def _chosen(count: int, share: float, chance: random.Random, least: int = 1) -> list[int]:
    return chance.sample(range(count), min(count, max(least, round(count * share))))


def _deranged(items: Sequence[str], chance: random.Random) -> list[str]:
    """The items in another order than they had, where there is one."""
    moved = list(items)
    for _ in range(100):
        chance.shuffle(moved)
        if moved != list(items):
            break
    return moved


def _replaced(text: str, share: float, pool: Sequence[str], chance: random.Random) -> str:
    parts = sentences(text)
    places = _chosen(len(parts), share, chance)
    # Each foreign sentence once before any comes again, so that the damage isn't a repetition as well.
    drawn = [one for _ in range(-(-len(places) // len(pool))) for one in chance.sample(list(pool), len(pool))]
    for place, sentence in zip(places, drawn, strict=False):
        parts[place] = sentence
    return " ".join(parts)
