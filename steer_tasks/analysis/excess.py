"""What an arm does beyond its placebos, whose draws are a sample of their own."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.special import stdtrit

from steer_tasks.analysis.cells import Cells, Pairs, over_draws
from steer_tasks.analysis.clustered import clustered_mean, p_value, skewed_p_value
from steer_tasks.analysis.effects import within
from steer_tasks.analysis.findings import Estimate, Excess, Target
from steer_tasks.analysis.outcomes import SCALES


def excess(
    arm: str,
    placebos: Sequence[str],
    outcome: str,
    target: Target,
    own: Pairs,
    others: Sequence[Pairs],
    level: float,
    no_behavior: int | None = None,
) -> Excess | None:
    """The arm's effect less the mean effect of its placebos' draws; None where they share no scored cell.

    Placebos without behavior, which have the number `no_behavior`, stand beside each of the arm's behaviors.
    Over the behaviors and questions that both have; the control cancels. Two things vary and their variances are added:
    the difference over questions (and behaviors), as any effect, and the placebos' mean over its draws, V_d = s² / R of
    the R draws' means. Degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946, equation 17). s² holds
    sampling noise too, so the interval is rather too wide. Placebos without draws have the first part only.
    """
    scored = own.scored
    values, draws, behavior, question = _placebo_values(others)
    if len(behavior) and (behavior == no_behavior).all():
        known = np.unique(scored.arm.behavior)
        behavior = np.repeat(known, len(values))
        values, draws, question = (np.tile(one, len(known)) for one in (values, draws, question))
    shared = _shared(scored.arm, behavior, question)
    if shared is None:
        return None
    mine, theirs = shared
    at_arm = over_draws(scored.difference[mine], scored.arm.behavior[mine], scored.arm.question[mine])
    at_placebo = over_draws(values[theirs], behavior[theirs], question[theirs])
    clusters = {"question": at_arm[2].tolist()}
    if target == "random" and len(np.unique(at_arm[1])) > 1:
        clusters["behavior"] = at_arm[1].tolist()
    scale = SCALES[outcome]
    differences = at_arm[0] - at_placebo[0]
    base = clustered_mean(differences, clusters, level, 2 * scale.span, scale.step)
    means = [float(values[theirs & (draws == draw)].mean()) for draw in np.unique(draws[theirs])]
    estimate = within(_widened(base, means, level), -2 * scale.span, 2 * scale.span)
    p = p_value(estimate)
    if p is not None and "behavior" in clusters:  # where the interval is longer, so is the test's
        p = max(p, skewed_p_value(base, differences, at_arm[1]) or 0.0)
    return Excess(arm, tuple(placebos), outcome, estimate, p)


def _placebo_values(others: Sequence[Pairs]) -> tuple[np.ndarray, ...]:
    # Effects of all placebo arms in one row, draws of different arms numbered apart.
    held, first = [], 0
    for one in (pairs.scored for pairs in others):
        draws = np.unique(one.arm.draw, return_inverse=True)[1] + first
        held.append((one.difference, draws, one.arm.behavior, one.arm.question))
        first = int(draws.max(initial=first - 1)) + 1
    values, draws, behavior, question = (np.concatenate(column) for column in zip(*held, strict=True))
    return values, draws, behavior, question


def _shared(arm: Cells, behavior: np.ndarray, question: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    # Masks of the cells whose behavior and question the other side has too.
    mine = list(zip(arm.behavior.tolist(), arm.question.tolist(), strict=True))
    theirs = list(zip(behavior.tolist(), question.tolist(), strict=True))
    both = set(mine) & set(theirs)
    if not both:
        return None
    return np.array([key in both for key in mine]), np.array([key in both for key in theirs])


def _widened(base: Estimate, means: Sequence[float], level: float) -> Estimate:
    if base.stderr is None or base.df is None or base.low is None or base.high is None:
        return base
    draws = len(means)
    if draws < 2:
        return replace(base, method=f"{base.method}; one draw of the placebo")
    own, between = base.stderr**2, float(np.var(means, ddof=1)) / draws
    whole = own + between
    df = whole**2 / (own**2 / base.df + between**2 / (draws - 1))
    reach = float(stdtrit(df, (1 + level) / 2)) * whole**0.5
    method = f"{base.method}, and over {draws} placebo draws"
    clusters = {**base.clusters, "placebo draw": draws}
    # Never shorter than without the placebos' draws, as it is on the long side of skewed behaviors.
    low, high = min(base.low, base.value - reach), max(base.high, base.value + reach)
    return Estimate(base.value, low, high, level, whole**0.5, df, method, clusters)
