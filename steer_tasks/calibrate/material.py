"""What calibration asks: calibration questions, development prompts and contrasts, split into halves by a seed.

Test questions are never among it. No torch, no harness.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from model_adapters.behavior import Behavior, Contrast
from model_adapters.errors import SteerError
from steer_tasks.question_digests import committed
from steer_tasks.questions import Question, load_questions

CALIBRATION, TEST = "mmlu_114", "mmlu_171"

Item = TypeVar("Item")


@dataclass(frozen=True)
class Prompt:
    """A development prompt; `id` is `dev/<its place in the behavior's file>`."""

    id: str
    text: str


@dataclass(frozen=True)
class Pair:
    """A contrast of the behavior; `id` is `contrast/<its place in the behavior's file>`."""

    id: str
    contrast: Contrast


@dataclass(frozen=True)
class Half:
    """What one half asks."""

    questions: tuple[Question, ...]
    prompts: tuple[Prompt, ...]
    pairs: tuple[Pair, ...]

    def ids(self) -> dict[str, list[str]]:
        """The items by kind, ready for JSON."""
        kinds: dict[str, tuple[Question | Prompt | Pair, ...]] = {
            "questions": self.questions,
            "prompts": self.prompts,
            "contrasts": self.pairs,
        }
        return {kind: [one.id for one in items] for kind, items in kinds.items()}


@dataclass(frozen=True)
class Material:
    """Two halves without a common item: the dose is selected on one and confirmed on the other."""

    selecting: Half
    confirming: Half
    seed: int
    questions: dict[str, str | int | list[str]]
    """Where the questions come from, and which were left out, as `QuestionSet.provenance` has it."""


def load_material(behavior: Behavior, *, seed: int = 0, questions: int | None = None) -> Material:
    """The calibration questions (a random `questions` of them where that is given) and a behavior's material, halved.

    A calibration question that is also a test question, word for word, is left out. Raises SteerError where there are
    fewer than two questions a half.
    """
    found = load_questions(CALIBRATION)
    repeated = also_tested()
    usable = [one for one in found.questions if one.id not in repeated]
    if questions is not None:
        if not 4 <= questions <= len(usable):
            raise SteerError(f"--questions is {questions}; give 4 to {len(usable)}")
        usable = random.Random(f"{seed} which questions").sample(usable, questions)
    if len(usable) < 4:
        raise SteerError(f"{found.source} has {len(usable)} usable calibration questions; at least 4 are needed")
    prompts = [Prompt(f"dev/{number}", text) for number, text in enumerate(behavior.dev_prompts)]
    pairs = [Pair(f"contrast/{number}", one) for number, one in enumerate(behavior.contrasts)]
    asked, told, shown = halves(usable, f"{seed} asked"), halves(prompts, f"{seed} dev"), halves(pairs, f"{seed} pairs")
    selecting, confirming = (Half(asked[half], told[half], shown[half]) for half in (0, 1))
    about = {**found.provenance(), "left_out": sorted(repeated & {one.id for one in found.questions})}
    return Material(selecting, confirming, seed, about)


def also_tested() -> frozenset[str]:
    """Calibration questions that the split holds a second time, as test questions; known by digest alone."""
    table = committed()
    tested = {table.originals[id_] for id_ in table.ids(TEST)}
    return frozenset(id_ for id_ in table.ids(CALIBRATION) if table.originals[id_] in tested)


def halves(items: Sequence[Item], seed: str) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
    """The items in two halves, each in an order drawn by the seed; the first has one more where the number is odd."""
    shuffled = random.Random(seed).sample(list(items), len(items))
    middle = -(-len(shuffled) // 2)
    return tuple(shuffled[:middle]), tuple(shuffled[middle:])
