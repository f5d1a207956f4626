"""Simulated studies with a known truth: what intervals hold, how often tests err, and that naive tests fail."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind

from steer_tasks.analysis.clustered import clustered_mean
from steer_tasks.analysis.draws import draw_variation
from steer_tasks.analysis.effects import difference, p_of_no_effect, wrong_way
from steer_tasks.analysis.equivalence import equivalence
from steer_tasks.analysis.excess import excess
from steer_tasks.analysis.findings import Target
from steer_tasks.analysis.flips import holm, sign_flips
from steer_tasks.analysis.outcomes import SCALES
from tests.simulated_parts import PUBLISHED, published
from tests.simulated_studies import CUTS, DESIGNS, SCENARIOS, Truth, coverage, holds, pairs_of, studies

LEAST = 0.93
"""Of studies whose interval must hold the truth."""


def chance(share: float, count: int) -> float:
    """Three standard errors of a share that is counted in `count` studies."""
    return 3 * (share * (1 - share) / count) ** 0.5


# Intervals


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_intervals_hold_the_truth(name):
    """In 2,000 studies of each design and outcome, both targets' intervals hold the truth in at least 93%."""
    for (behaviors, questions), outcome in product(DESIGNS, CUTS):
        found = coverage(SCENARIOS[name], outcome, behaviors, questions, 2000)
        for target in ("fixed", "random"):
            print(f"{name}, {behaviors} × {questions}, {outcome}, {target}: {found[target]:.3f}")
            assert found[target] >= LEAST, (behaviors, questions, outcome, target, found)


def test_intervals_of_a_small_study_hold_the_truth():
    """The same in 400 studies of 4 × 30 with effects by question and behavior; they would not without clusters."""
    truth = SCENARIOS["effect by question and behavior"]
    found = coverage(truth, "accuracy", 4, 30, 400)
    assert found["fixed"] >= LEAST
    assert found["random"] >= LEAST
    naive = []
    for (study,) in studies(truth, "accuracy", 4, 30, 400, seed=0):
        values = study.pairs.difference
        naive.append(holds(clustered_mean(values, {"row": list(range(len(values)))}), study.random))
    assert np.mean(naive) < 0.7


@pytest.mark.slow
def test_effects_as_skewed_as_published_ones():
    """Behaviors drawn from published effects: t alone holds the mean of 14 in less than 92% of studies, ours in 93%.

    Four behaviors are a limit, which the documentation names: they hold it in less than 88%.
    """
    found = published(3000, PUBLISHED, 14)
    assert found["t"] < 0.92
    assert found["ours"] >= LEAST
    assert published(1000, PUBLISHED, 4)["ours"] < 0.88


# Tests


def _family(truth: Truth, behaviors: int, questions: int, count: int) -> dict[str, float]:
    # Share of studies of 3 arms and 2 outcomes in which any adjusted p is below 5%.
    wrong: dict[Target, list[bool]] = {"fixed": [], "random": []}
    outcomes = [studies(truth, outcome, behaviors, questions, count, seed=7, arms=3) for outcome in CUTS]
    for arms in zip(*outcomes, strict=True):
        for target, found in wrong.items():
            p = {}
            for outcome, held in zip(CUTS, arms, strict=True):
                for place, study in enumerate(held):
                    estimate = difference(study.pairs, target, SCALES[outcome], 0.95)
                    p[outcome, place] = p_of_no_effect(study.pairs, target, estimate)[0]
            found.append(any(one is not None and one < 0.05 for one in holm(p).values()))
    return {target: float(np.mean(found)) for target, found in wrong.items()}


NULLS = {
    "shared control": Truth(),
    "own control": Truth(shared_control=False),
    "near the ceiling": Truth(level=2.2),
    "draws of nothing": Truth(level=0.0, draws=1e-9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
@pytest.mark.parametrize(("behaviors", "questions"), DESIGNS)
def test_families_without_effects_are_seldom_called_effects(name, behaviors, questions):
    """Three arms without effect on two outcomes: at most 5% of 1,000 studies adjust any p to less than 5%."""
    count = 1000
    found = _family(NULLS[name], behaviors, questions, count)
    print(f"{name}, {behaviors} × {questions}: {found}")
    assert max(found.values()) <= 0.05 + chance(0.05, count)


@pytest.mark.slow
@pytest.mark.parametrize(("behaviors", "questions"), DESIGNS)
def test_behaviors_that_differ_about_no_effect_are_seldom_called_an_effect(behaviors, questions):
    """Effects of behaviors that are symmetric about none: for behaviors like these at most 5% of families err."""
    found = _family(Truth(level=0.0, behaviors=0.7, interaction=0.4), behaviors, questions, 1000)
    assert found["random"] <= 0.05 + chance(0.05, 1000)


@pytest.mark.slow
def test_a_control_that_is_shared_breaks_flips_alone():
    """Near the ceiling with one control for 14 behaviors, flips of whole questions alone err far more than 5%."""
    alone, ours = [], []
    for (study,) in studies(Truth(level=3.0, questions=0.7), "accuracy", 14, 171, 600, seed=3):
        scored = study.pairs
        alone.append(sign_flips(np.bincount(scored.arm.question, scored.difference)) < 0.05)
        estimate = difference(scored, "fixed", SCALES["accuracy"], 0.95)
        p = p_of_no_effect(scored, "fixed", estimate)[0]
        ours.append(p is not None and p < 0.05)
    assert np.mean(alone) > 0.15
    assert np.mean(ours) <= 0.05 + chance(0.05, 600)


def test_naive_tests_reject_where_there_is_nothing():
    """One control for 14 behaviors, no effect: McNemar over all rows errs in over 35% of studies, so does t over rows.

    The test over whole questions keeps to 5%.
    """
    count, mcnemar, independent, ours = 400, [], [], []
    for (study,) in studies(Truth(), "accuracy", 14, 171, count, seed=5):
        scored = study.pairs
        up, down = int((scored.difference > 0).sum()), int((scored.difference < 0).sum())
        mcnemar.append(binomtest(up, up + down).pvalue < 0.05)
        independent.append(ttest_ind(scored.arm.scores[:, 0], scored.control.scores[:, 0]).pvalue < 0.05)
        estimate = difference(scored, "fixed", SCALES["accuracy"], 0.95)
        p = p_of_no_effect(scored, "fixed", estimate)[0]
        ours.append(p is not None and p < 0.05)
    print(f"McNemar over rows {np.mean(mcnemar):.2f}, t over rows {np.mean(independent):.2f}, ours {np.mean(ours):.3f}")
    assert np.mean(mcnemar) > 0.35
    assert np.mean(independent) > 0.25
    assert np.mean(ours) <= 0.05 + chance(0.05, count)


# Budgets, placebos, draws, the wrong way


@pytest.mark.slow
@pytest.mark.parametrize("outcome", CUTS)
def test_a_loss_as_large_as_the_budget_is_seldom_called_within_it(outcome):
    """Where the true loss is the budget, at most 5% of 2,000 studies of 14 × 171 find it within."""
    truth, count = Truth(level=0.8, effect=-0.4, interaction=0.4), 2000
    for target in ("fixed", "random"):
        within = []
        for (study,) in studies(truth, outcome, 14, 171, count, seed=11):
            found = equivalence("arm", outcome, -study.truth(target), study.pairs, target, 0.95)
            within.append(found.verdict == "within")
        assert np.mean(within) <= 0.05 + chance(0.05, count)


@pytest.mark.slow
@pytest.mark.parametrize("draws", [3, 5])
def test_excess_over_placebos_holds_the_truth(draws):
    """An arm against placebo draws that differ in all behaviors alike: 93% of 2,000 intervals hold the truth."""
    generator, held = np.random.default_rng(13), {"fixed": [], "random": []}
    truth = Truth(level=0.8)
    for _ in range(2000):
        level = generator.normal(0.8, 1, (1, 30, 1))
        control = truth_scores(level + generator.normal(size=(1, 30, 1)))
        by_behavior = generator.normal(0, 0.3, (14, 1, 1))
        arm = truth_scores(level - 0.6 + by_behavior + generator.normal(size=(14, 30, 1)))
        by_draw = generator.normal(-0.2, 0.2, (1, 1, draws))
        placebo = truth_scores(level + by_draw + generator.normal(size=(14, 30, draws)))
        expected = float(truth.score("coherence_score", -0.2, 0.2**2))
        fixed = float(np.mean(truth.score("coherence_score", -0.6 + by_behavior, 0))) - expected
        random = float(truth.score("coherence_score", -0.6, 0.3**2)) - expected
        for target, value in (("fixed", fixed), ("random", random)):
            found = excess(
                "arm", ("p",), "coherence_score", target, pairs_of(arm, control), [pairs_of(placebo, control)], 0.95
            )
            held[target].append(holds(found.estimate, value))
    print({target: np.mean(one) for target, one in held.items()})
    assert min(np.mean(one) for one in held.values()) >= LEAST


def truth_scores(latent: np.ndarray) -> np.ndarray:
    """1 to 5 by how many cuts lie below."""
    return 1 + sum((latent > cut).astype(float) for cut in CUTS["coherence_score"])


def test_variation_between_draws_is_free_of_sampling_noise():
    """Over 300 studies the variance between draws averages to the true one, where the draws' means alone show more."""
    generator, found, plain = np.random.default_rng(17), [], []
    for _ in range(300):
        by_draw = generator.normal(0, 0.3, (6, 1, 4))
        arm = 3 + by_draw + generator.normal(0, 1, (1, 12, 1)) + generator.normal(0, 1, (6, 12, 4))
        variation = draw_variation("arm", "coherence_score", pairs_of(arm, np.full((1, 12, 1), 3.0)))
        found.append(variation.sd_between**2)
        plain.append(arm.mean(1).var(axis=1, ddof=1).mean())
    assert np.mean(plain) == pytest.approx(0.09 + 1 / 12, rel=0.1)
    assert np.mean(found) == pytest.approx(0.09, rel=0.12)


@pytest.mark.slow
def test_the_share_pushed_the_wrong_way_holds_the_truth():
    """At least 93% of 2,000 intervals of the wrong-way share hold the true one, counted over a million pairs."""
    truth = SCENARIOS["effect by question and behavior"]
    ((large,),) = studies(truth, "coherence_score", 1000, 1000, 1, seed=19)
    true = float((large.pairs.difference < 0).mean())
    held = [
        holds(wrong_way(study.pairs, "random", 0.95), true)
        for (study,) in studies(truth, "coherence_score", 14, 12, 2000, seed=23)
    ]
    assert np.mean(held) >= LEAST
