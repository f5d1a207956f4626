"""What a grid's logs show on the screen: one table for each model. rich; inspect_ai for types only."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from steer_tasks.grid import Grid

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

SHOWN = {
    "accuracy": "acc.",
    "answered": "answ.",
    "behavior": "behav.",
    "coherence": "coher.",
    "repeated_ngrams": "repeated",
    "reference_nll": "ref. NLL",
}
"""Scores that the table shows, and how its columns are called."""


def cell_of(log: "EvalLog") -> str:
    """The name of the grid's cell that a log is of."""
    return str((log.eval.metadata or {}).get("grid", {}).get("cell", log.eval.task_id))


def results_tables(grid: Grid, logs: Sequence["EvalLog"]) -> list[Table]:
    """One table a model, a row for each cell: means, and how much is missing.

    Not a verdict: differences between arms are read pair by pair.
    """
    tables = {}
    for log in logs:
        if log.eval.model not in tables:
            table = tables[log.eval.model] = Table(title=f"{grid.name}: {log.eval.model}", title_justify="left")
            table.add_column("cell", overflow="fold")
            for column in ("n", *SHOWN.values()):
                table.add_column(column, justify="right")
        shown = {score.name: score for score in (log.results.scores if log.results else [])}
        total = log.results.total_samples if log.results else 0
        row = [_shown(shown.get(name), total) for name in SHOWN]
        tables[log.eval.model].add_row(cell_of(log), str(total), *row)
    return list(tables.values())


def _shown(score: Any, total: int) -> str:
    if score is None:
        return "–"
    scored = score.scored_samples if score.scored_samples is not None else total
    if not scored or "mean" not in score.metrics:
        return "none scored"
    value = f"{score.metrics['mean'].value:.3f}"
    return value if scored == total else f"{value} ({scored})"
