"""How far an effect depends on the draw of its steering: variation between draws, sampling noise taken off."""

import math

import numpy as np

from steer_tasks.analysis.cells import Pairs
from steer_tasks.analysis.findings import DrawVariation


def draw_variation(arm: str, outcome: str, scored: Pairs) -> DrawVariation | None:
    """Between the draws of each behavior over the questions that all of them scored; None for no pairs.

    A behavior's draws (rows) and questions (columns) are a two-way table with one value a cell. The variance of true
    draw effects is that of the draws' means less the interaction's mean square over the number of questions (Searle,
    Casella and McCulloch, Variance Components, 1992, section 4.7), averaged over behaviors, weighted by draws minus
    one, and 0 where that is negative. The control is the same under every draw and cancels.
    """
    values, draws = scored.difference, scored.arm.draw
    if not len(values):
        return None
    by_draw = {int(draw): float(values[draws == draw].mean()) for draw in np.unique(draws)}
    weighted = [part for part in map(_variance, _tables(scored)) if part is not None]
    weight = sum(freedom for _, freedom in weighted)
    if not weight:
        return DrawVariation(arm, outcome, len(by_draw), by_draw, None)
    variance = sum(one * freedom for one, freedom in weighted) / weight
    return DrawVariation(arm, outcome, len(by_draw), by_draw, math.sqrt(max(0.0, variance)))


def _tables(scored: Pairs) -> list[np.ndarray]:
    # One table (draws, questions) for each behavior, of the questions that every draw has.
    values, cells, found = scored.difference, scored.arm, []
    for behavior in np.unique(cells.behavior):
        here = cells.behavior == behavior
        rows, row = np.unique(cells.draw[here], return_inverse=True)
        columns, column = np.unique(cells.question[here], return_inverse=True)
        table = np.full((len(rows), len(columns)), np.nan)
        table[row, column] = values[here]
        found.append(table[:, ~np.isnan(table).any(0)])
    return found


def _variance(table: np.ndarray) -> tuple[float, int] | None:
    # The variance of draw effects and its degrees of freedom; None for a table that can't tell them from noise.
    draws, questions = table.shape
    if draws < 2 or questions < 2:
        return None
    means = table.mean(1)
    rest = table - means[:, None] - table.mean(0) + table.mean()
    noise = float((rest * rest).sum()) / ((draws - 1) * (questions - 1))
    return float(means.var(ddof=1)) - noise / questions, draws - 1
