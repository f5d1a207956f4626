"""An arm's effect on one outcome: its mean difference from the control, with an interval and a test.

- Target `fixed`, these named behaviors under these very steerings: clusters are questions; the test flips whole ones.
- Target `random`, behaviors like these: clusters are questions and behaviors; the test is the interval's. Draws of a
  steering that is found for each behavior lie within behaviors, so this covers other draws too.

Whole questions are exchanged exactly only where each answer has a control of its own. A control that all behaviors
share, or an arm that is a mean over draws, has another spread than what it is exchanged with. There p is the larger of
the flips' and the interval's t test; that this holds its level, and the flips alone don't, is simulated in the tests.
"""

from dataclasses import replace

import numpy as np

from steer_tasks.analysis.cells import Cells, Pairs, over_draws
from steer_tasks.analysis.clustered import Clusters, clustered_mean, p_value, skewed_p_value
from steer_tasks.analysis.detectable import smallest_detectable
from steer_tasks.analysis.findings import Effect, Estimate, SignalChange, Target
from steer_tasks.analysis.flips import mcnemar, sign_flips
from steer_tasks.analysis.outcomes import SCALES, Scale


def effect(
    arm: str, outcome: str, behavior: str | None, target: Target, pairs: Pairs, lost: int, level: float
) -> Effect | None:
    """The effect over `pairs`, all behaviors' or one's; None where no pair has both scores.

    `lost` counts answers that have no pair. With fewer than two behaviors the target is `fixed`. The caller adjusts p.
    """
    scored, scale = pairs.scored, SCALES[outcome]
    if not len(scored.difference):
        return None
    target = target if len(np.unique(scored.arm.behavior)) > 1 else "fixed"
    estimate = difference(scored, target, scale, level)
    p, test = p_of_no_effect(scored, target, estimate)
    return Effect(
        arm=arm,
        outcome=outcome,
        behavior=behavior,
        target=target,
        pairs=len(scored.difference),
        unpaired=lost + pairs.half_scored,
        estimate=estimate,
        p=p,
        p_adjusted=None,
        test=test,
        detectable=smallest_detectable(estimate, level),
        wrong_way=wrong_way(scored, target, level),
        wrong_way_control=wrong_way_control(pairs.control, level),
        bounds=bounds(pairs, scale),
    )


def difference(scored: Pairs, target: Target, scale: Scale, level: float) -> Estimate:
    """Mean of arm minus control over behaviors and questions, each averaged over its draws; pairs with both scores."""
    return _estimate(scored.difference, scored.arm, target, scale.span, scale.step, level, -scale.span, scale.span)


def signal_change(arm: str, name: str, scored: Pairs, target: Target, level: float) -> SignalChange | None:
    """The mean difference in a signal, clustered as an effect is; None for no pairs. A signal's scale has no ends."""
    if not len(scored.difference):
        return None
    target = target if len(np.unique(scored.arm.behavior)) > 1 else "fixed"
    means, clusters = _clustered(scored.difference, scored.arm, target)
    return SignalChange(arm, name, clustered_mean(means, clusters, level))


def p_of_no_effect(scored: Pairs, target: Target, estimate: Estimate) -> tuple[float | None, str]:
    """p of no effect, and the name of its test."""
    values, behaviors, questions = over_draws(scored.difference, scored.arm.behavior, scored.arm.question)
    if target == "random":
        return skewed_p_value(estimate, values, behaviors), "t by question and behavior, skewness allowed for"
    by_t = p_value(estimate)
    if len(values) == len(scored.difference) and len(np.unique(behaviors)) == 1 and _one_to_one(scored):
        if np.isin(values, (-1.0, 0.0, 1.0)).all() and np.nanmax(scored.arm.scores) <= 1:
            return mcnemar(values), "exact McNemar"
        return sign_flips(values), "exact sign flips of questions"
    by_flips = sign_flips(np.bincount(questions, values))
    return max(by_flips, by_t or 0.0), "sign flips of whole questions, and t: the larger p"


def wrong_way(scored: Pairs, target: Target, level: float) -> Estimate:
    """Share of pairs in which the arm scored less than the control; of repeats every one against every one."""
    arm, control = scored.arm.scores[:, :, None], scored.control.scores[:, None, :]
    known = ~np.isnan(arm) & ~np.isnan(control)
    shares = ((arm < control) & known).sum((1, 2)) / known.sum((1, 2))
    return _estimate(shares, scored.arm, target, 1, 1, level, 0, 1)


def wrong_way_control(control: Cells, level: float) -> Estimate | None:
    """The same share between one repeat of the control and another, clustered by question.

    None where no cell has two scored ones. A cell that serves several pairs counts once.
    """
    first_of = np.unique(np.stack([control.behavior, control.question], 1), axis=0, return_index=True)[1]
    once = control.at(np.sort(first_of))
    several = once.at((~np.isnan(once.scores)).sum(1) >= 2)
    if not len(several.scores):
        return None
    first, second = several.scores[:, :, None], several.scores[:, None, :]
    known = ~np.isnan(first) & ~np.isnan(second)
    count = known.sum((1, 2)) - (~np.isnan(several.scores)).sum(1)
    shares = ((first < second) & known).sum((1, 2)) / count
    return _estimate(shares, several, "fixed", 1, 1, level, 0, 1)


def bounds(pairs: Pairs, scale: Scale) -> tuple[float, float] | None:
    """The mean difference if every missing score were at the end of its scale that lowers it, and that raises it.

    Worst-case bounds as in Manski, American Economic Review 80 (1990), without sampling error. None where none is
    missing.
    """
    if not pairs.arm.missing + pairs.control.missing:
        return None
    low, high = pairs.bounds(scale)
    means = [float(over_draws(one, pairs.arm.behavior, pairs.arm.question)[0].mean()) for one in (low, high)]
    return means[0], means[1]


def _one_to_one(scored: Pairs) -> bool:
    # As many answers on either side of each pair: they can be exchanged.
    return bool(np.array_equal((~np.isnan(scored.arm.scores)).sum(1), (~np.isnan(scored.control.scores)).sum(1)))


def _estimate(
    values: np.ndarray, cells: Cells, target: Target, span: float, step: float, level: float, least: float, most: float
) -> Estimate:
    means, clusters = _clustered(values, cells, target)
    return within(clustered_mean(means, clusters, level, span, step), least, most)


def _clustered(values: np.ndarray, cells: Cells, target: Target) -> tuple[np.ndarray, Clusters]:
    """Values averaged over draws, and what they are clustered by."""
    means, behaviors, questions = over_draws(values, cells.behavior, cells.question)
    by_question = {"question": questions.tolist()}
    return means, by_question if target == "fixed" else {**by_question, "behavior": behaviors.tolist()}


def within(estimate: Estimate, least: float, most: float) -> Estimate:
    """The estimate with its interval cut to what is possible."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(least, estimate.low), high=min(most, estimate.high))
