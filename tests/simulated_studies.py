"""Studies whose truth is known, and how often intervals hold it. `python -m tests.simulated_studies` prints the table.

A latent normal model: question q is answered at z_q + e by the control and at z_q + μ + β_b + δ_bd + θ_q + e by an arm
under behavior b and draw d, all normal and independent. The score is how many cuts lie below: one cut for right or
wrong, four for 1 to 5. The control answers once for all behaviors, or once for each.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import norm

from steer_tasks.analysis.cells import Cells, Pairs
from steer_tasks.analysis.effects import difference
from steer_tasks.analysis.findings import Estimate, Target
from steer_tasks.analysis.outcomes import SCALES

CUTS = {"accuracy": np.array([0.0]), "coherence_score": np.array([-1.5, -0.5, 0.5, 1.5])}

TARGETS: tuple[Target, Target] = ("fixed", "random")

DESIGNS = ((14, 171), (14, 12), (4, 30))
"""Behaviors and questions of the simulated studies."""


@dataclass(frozen=True)
class Truth:
    """The model's numbers: level of the questions and its spread, the arm's effect and its spreads."""

    level: float = 0.6
    questions: float = 1.0
    effect: float = 0.0
    behaviors: float = 0.0
    interaction: float = 0.0
    """Spread of the arm's effect over questions, θ."""
    draws: float = 0.0
    shared_control: bool = True

    def score(self, outcome: str, effect: np.ndarray | float, spread: float) -> np.ndarray | float:
        """Expected score at an effect, over questions and what else `spread` holds the variance of."""
        wide = np.sqrt(1 + self.questions**2 + spread)
        least = SCALES[outcome].worst
        return least + sum(norm.cdf((self.level + effect - cut) / wide) for cut in CUTS[outcome])


SCENARIOS = {
    "no effect, shared control": Truth(),
    "no effect, own control": Truth(shared_control=False),
    "no effect, near the ceiling": Truth(level=2.2),
    "effect by question and behavior": Truth(effect=-0.5, behaviors=0.5, interaction=0.5),
    "the same, own control": Truth(effect=-0.5, behaviors=0.5, interaction=0.5, shared_control=False),
    "the same, 5 draws a behavior": Truth(effect=-0.5, behaviors=0.4, interaction=0.5, draws=0.5),
    "a few behaviors carry the effect": Truth(3.2, 0.7, effect=-1.5, behaviors=1.2, interaction=0.3),
}
"""What intervals must hold in at least 93% of studies. In the last one most behaviors hardly leave the ceiling and some
fall far."""


@dataclass(frozen=True)
class Study:
    """One simulated study: its pairs, and the mean difference for these behaviors and draws, and for others."""

    pairs: Pairs
    fixed: float
    random: float

    def truth(self, target: Target) -> float:
        return self.fixed if target == "fixed" else self.random


def studies(
    truth: Truth, outcome: str, behaviors: int, questions: int, count: int, seed: int, arms: int = 1
) -> Iterator[list[Study]]:
    """`count` studies, each of some arms that share questions and control."""
    generator = np.random.default_rng(seed)
    draws = 5 if truth.draws else 1
    scale = SCALES[outcome]
    for _ in range(count):
        level = generator.normal(truth.level, truth.questions, (1, questions, 1))
        rows = 1 if truth.shared_control else behaviors
        control = _scored(level + generator.normal(size=(rows, questions, 1)), outcome) + scale.worst
        made = []
        for _ in range(arms):
            by_behavior = generator.normal(0, truth.behaviors, (behaviors, 1, 1))
            by_draw = by_behavior + generator.normal(0, truth.draws, (behaviors, 1, draws))
            by_question = generator.normal(0, truth.interaction, (1, questions, 1))
            noise = generator.normal(size=(behaviors, questions, draws))
            arm = _scored(level + truth.effect + by_draw + by_question + noise, outcome) + scale.worst
            made.append(Study(pairs_of(arm, control), *_means(truth, outcome, by_draw)))
        yield made


def _scored(latent: np.ndarray, outcome: str) -> np.ndarray:
    return sum((latent > cut).astype(float) for cut in CUTS[outcome])


def _means(truth: Truth, outcome: str, by_draw: np.ndarray) -> tuple[float, float]:
    control = truth.score(outcome, 0.0, 0.0)
    these = truth.score(outcome, truth.effect + by_draw, truth.interaction**2)
    spread = truth.interaction**2 + truth.behaviors**2 + truth.draws**2
    return float(np.mean(these) - control), float(truth.score(outcome, truth.effect, spread) - control)


def pairs_of(arm: np.ndarray, control: np.ndarray) -> Pairs:
    """Scores (behaviors, questions, draws) beside a control's, which broadcasts to them."""
    behavior, question, draw = (one.ravel() for one in np.indices(arm.shape))

    def cells(scores: np.ndarray) -> Cells:
        column = np.broadcast_to(scores, arm.shape).reshape(-1, 1).copy()
        return Cells(behavior, question, draw, column, np.ones(column.shape, dtype=bool))

    return Pairs(cells(arm), cells(control))


LEVELS = (0.95, 0.9)
"""Of two-sided intervals; the ends of the second are one-sided limits at 95%."""


def coverage(truth: Truth, outcome: str, behaviors: int, questions: int, count: int, seed: int = 0) -> dict[str, float]:
    """Shares of studies whose 95% interval holds the truth, by target, and of those whose one-sided limits miss it."""
    scale = SCALES[outcome]
    found: dict[str, list[bool]] = defaultdict(list)
    for (study,) in studies(truth, outcome, behaviors, questions, count, seed):
        for target in TARGETS:
            both, one_sided = (difference(study.pairs, target, scale, level) for level in LEVELS)
            true = study.truth(target)
            found[target].append(holds(both, true))
            found[f"{target} low"].append(one_sided.low is not None and one_sided.low > true)
            found[f"{target} high"].append(one_sided.high is not None and one_sided.high < true)
    return {name: float(np.mean(one)) for name, one in found.items()}


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval holds the truth; no interval claims nothing and so isn't wrong."""
    return estimate.low is None or estimate.high is None or estimate.low <= truth <= estimate.high


def main(count: int) -> None:
    """Print coverage for every scenario, design and outcome, and how far one-sided limits err."""
    print(f"Shares of {count} studies whose 95% interval holds the truth")
    print()
    print("| truth | study | accuracy, fixed | accuracy, random | 1 to 5, fixed | 1 to 5, random |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    misses = []
    for (name, truth), (behaviors, questions) in product(SCENARIOS.items(), DESIGNS):
        found = {outcome: coverage(truth, outcome, behaviors, questions, count) for outcome in CUTS}
        shares = [f"{one[target]:.3f}" for one in found.values() for target in TARGETS]
        print(f"| {name} | {behaviors} × {questions} | {' | '.join(shares)} |", flush=True)
        for outcome, one in found.items():
            sides = [side for side in one if " " in side]
            misses += [(one[side], f"{side}, {name}, {behaviors} × {questions}, {outcome}") for side in sides]
    print()
    print("One-sided limits at 95% that lie on the wrong side of the truth, the eight most:")
    for share, where in sorted(misses, reverse=True)[:8]:
        print(f"{share:.3f} {where}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
