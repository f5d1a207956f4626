"""What joining gold answers by question instead of by place changes, as tables."""

from collections.abc import Sequence
from pathlib import Path

from steer_tasks.analysis.rejoin import Rejoined, by_arm, rejoin
from steer_tasks.analysis.tables import Row, Table
from steer_tasks.analysis.wording import NONE, level, signed


def rejoin_tables(paths: Sequence[str | Path]) -> tuple[Table, ...]:
    """Both accuracies of every arm, and of the cells where they differ or rows are lost. Raises as `rejoin` does."""
    return tables_of(rejoin(paths))


def tables_of(cells: Sequence[Rejoined]) -> tuple[Table, ...]:
    """The tables of those cells; without the second one where no key is wrong and no row is lost."""
    arms = tuple(Row((one.arm, one.model, *_numbers(one))) for one in by_arm(cells))
    head = ("arm", "model", "rows", "by place", "by question", "difference", "wrong keys")
    note = (
        "By place: the file's own accuracy, where a lost row gives every later answer another question's gold letter. "
        "By question: each answer against the letter of the question in its prompt. Wrong keys: rows whose gold letter "
        "isn't that of their question."
    )
    found = [Table("Accuracy by place and by question", head, arms, note, frozenset({1}))]
    odd = [one for one in cells if one.wrong_keys or one.lost or one.unknown]
    if odd:
        longer = ("arm", "model", "behavior", *head[2:], "first", "lost", "unknown")
        rows = tuple(
            Row(
                (
                    *(one.arm, one.model, one.behavior or NONE, *_numbers(one)),
                    *(str(one.first_wrong or NONE), _lost(one), str(one.unknown)),
                )
            )
            for one in odd
        )
        note = (
            "First: the first row with a wrong key, among those of its arm and behavior. Lost: questions without a row."
        )
        found.append(Table("Where they differ, or rows are lost", longer, rows, note, frozenset({1, 2, 8})))
    return tuple(found)


def printed(cells: Table) -> str:
    """A table of both accuracies as lines for a terminal."""
    rows = [cells.head, *(row.cells for row in cells.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(cells.head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _numbers(one: Rejoined) -> tuple[str, ...]:
    moved = None if one.by_question is None else one.by_question - one.by_place
    return str(one.rows), level(one.by_place), level(one.by_question), signed(moved, 3), str(one.wrong_keys)


def _lost(one: Rejoined) -> str:
    shown = ", ".join(one.lost[:2])
    return f"{shown} and {len(one.lost) - 2} more" if one.lost[2:] else shown or NONE
