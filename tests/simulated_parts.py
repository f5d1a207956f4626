"""What each part of the intervals is worth: coverage without it. `python -m tests.simulated_parts` prints it.

Variances are worked out here from whole tables (behaviors, questions), apart from the package's.
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import norm, t

from steer_tasks.analysis.clustered import clustered_mean
from steer_tasks.analysis.skewness import FARTHEST, skewness
from tests.simulated_studies import Truth, holds, studies

PUBLISHED = np.array([0, -1.8, -4.7, -5.3, -15.2, -4.1, -5.9, -5.9, -2.4, -49.1, -3.5, -29.3, -3.5, -38.3])
"""Auto Steer minus Control in points of accuracy, by behavior, as published for the 70B model in arXiv:2602.04903."""

Rule = Callable[[np.ndarray], tuple[float, float]]
"""Of a table of differences (behaviors, questions): variance of the mean, degrees of freedom."""


def parts(table: np.ndarray) -> tuple[float, float, float]:
    """Variances of the mean by question, by behavior and by both at once."""
    rows, columns = table.shape
    by_both = ((table - table.mean()) ** 2).sum() / table.size / (table.size - 1)
    return table.mean(0).var(ddof=1) / columns, table.mean(1).var(ddof=1) / rows, by_both


def by_question(table: np.ndarray) -> tuple[float, float]:
    """One way, without half steps."""
    return parts(table)[0], table.shape[1] - 1


def plain(table: np.ndarray) -> tuple[float, float]:
    """Cameron, Gelbach and Miller's difference as it is; no interval where it isn't positive."""
    first, second, both = parts(table)
    return first + second - both, min(table.shape) - 1


def added(table: np.ndarray) -> tuple[float, float]:
    """Both one-way variances added."""
    return sum(parts(table)[:2]), min(table.shape) - 1


def satterthwaite(table: np.ndarray) -> tuple[float, float]:
    """The largest of the three, with Satterthwaite's degrees of freedom of the two one-way variances."""
    first, second, both = parts(table)
    rows, columns = table.shape
    df = (first + second) ** 2 / (first**2 / (columns - 1) + second**2 / (rows - 1))
    return max(first + second - both, first, second), df


def covered(rule: Rule, truth: Truth, outcome: str, behaviors: int, questions: int, count: int, target: str) -> float:
    """Share of studies whose 95% t interval by the rule holds the truth; without variance it doesn't."""
    held = []
    for (study,) in studies(truth, outcome, behaviors, questions, count, seed=0):
        table = study.pairs.difference.reshape(behaviors, questions)
        variance, df = rule(table)
        reach = t.ppf(0.975, df) * variance**0.5 if variance > 0 else -1
        held.append(abs(table.mean() - (study.fixed if target == "fixed" else study.random)) <= reach)
    return float(np.mean(held))


NORMAL = PUBLISHED.mean() + 15 * norm.ppf((np.arange(1000) + 0.5) / 1000)
"""Effects about the same mean that aren't skewed."""


def published(count: int, effects: np.ndarray, behaviors: int) -> dict[str, float]:
    """Coverage of the mean effect by studies of behaviors that are drawn from `effects`, in points of a hundred."""
    generator, truth, size = np.random.default_rng(0), effects.mean(), (behaviors, 60)
    found: dict[str, list[bool]] = {"t": [], "ours": [], "Hall's without limit": []}
    clusters = {"question": np.tile(np.arange(60), behaviors), "behavior": np.repeat(np.arange(behaviors), 60)}
    keys = {name: codes.tolist() for name, codes in clusters.items()}
    for _ in range(count):
        noise = generator.normal(0, 20, size) + generator.normal(0, 10, 60)
        table = generator.choice(effects, behaviors)[:, None] + noise
        ours = clustered_mean(table.ravel(), keys)
        studentised = (ours.value - truth) / ours.stderr
        g, w = skewness(table.mean(1)), studentised / behaviors**0.5
        hall = behaviors**0.5 * (w + g * w**2 / 3 + g**2 * w**3 / 27 + g / (6 * behaviors))
        limit = t.ppf(0.975, behaviors - 1)
        found["t"].append(abs(studentised) <= limit)
        found["ours"].append(holds(ours, truth))
        found["Hall's without limit"].append(abs(studentised) <= limit or abs(hall) <= limit)
    return {name: float(np.mean(one)) for name, one in found.items()}


def main(count: int) -> None:
    """Print every comparison that docs/statistics.md names."""
    own, high, higher = Truth(shared_control=False), Truth(level=2.2), Truth(level=3.0, questions=0.7)
    effects = Truth(effect=-0.5, behaviors=0.5, interaction=0.5, shared_control=False)
    print(f"Coverage in {count} studies; Hall's end at most {FARTHEST} times t's")

    def show(said: str, rule: Rule, truth: Truth, outcome: str, behaviors: int, questions: int, target: str) -> None:
        share = covered(rule, truth, outcome, behaviors, questions, count, target)
        print(f"{share:.3f} {said}, {behaviors} × {questions}, {outcome}")

    show("difference of variances alone, noise only", plain, own, "coherence_score", 14, 12, "random")
    show("one-way variances added, noise only", added, own, "coherence_score", 14, 12, "random")
    show("Satterthwaite's df, effects by behavior", satterthwaite, effects, "accuracy", 4, 171, "random")
    show("no half steps, control right in 0.94", by_question, high, "accuracy", 14, 12, "fixed")
    show("no half steps, control right in 0.99", by_question, higher, "accuracy", 14, 12, "fixed")
    for said, of, behaviors in (
        ("published effects", PUBLISHED, 14),
        ("published effects", PUBLISHED, 10),
        ("published effects", PUBLISHED, 4),
        ("normal effects", NORMAL, 14),
    ):
        for name, share in published(count, of, behaviors).items():
            print(f"{share:.3f} {name}, {said} of {behaviors} behaviors")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
