"""What joining by question changes, as tables of the report."""

from steer_tasks.analysis.rejoin import Rejoined
from steer_tasks.analysis.rejoin_table import printed, tables_of


def cell(arm: str, behavior: str, rows: int, by_place: int, by_question: int, **given: object) -> Rejoined:
    odd = {"wrong_keys": 0, "first_wrong": None, "lost": (), "unknown": 0, **given}
    return Rejoined("8B", arm, behavior, rows, hits_by_place=by_place, hits_by_question=by_question, **odd)  # type: ignore[arg-type]


CELLS = (
    cell("Control", "funny", 171, 114, 114),
    cell("Control", "analytical", 170, 44, 113, wrong_keys=128, first_wrong=7, lost=("anatomy/0",)),
    cell("Auto Steer", "funny", 171, 55, 55),
)


def test_both_accuracies_stand_by_arm() -> None:
    """Each arm has its accuracy by place and by question over all behaviors, and the difference."""
    table = tables_of(CELLS)[0]
    # Control: 158 of 341 by place, 227 of 341 by question.
    assert [row.cells for row in table.rows] == [
        ("Control", "8B", "341", "0.463", "0.666", "+0.202", "128"),
        ("Auto Steer", "8B", "171", "0.322", "0.322", "0.000", "0"),
    ]


def test_cells_that_differ_are_named() -> None:
    """Cells with wrong keys or lost rows stand by themselves, with the first wrong row and the lost questions."""
    (_, table) = tables_of(CELLS)
    assert [row.cells for row in table.rows] == [
        (
            *("Control", "8B", "analytical", "170", "0.259", "0.665", "+0.406", "128"),
            *("7", "anatomy/0", "0"),
        )
    ]
    assert len(tables_of(CELLS[:1])) == 1


def test_the_terminal_shows_both_accuracies() -> None:
    """On the terminal the arms stand one below the other, their columns aligned."""
    lines = printed(tables_of(CELLS)[0]).splitlines()
    assert lines[0].split() == [
        *("arm", "model", "rows", "by", "place", "by", "question", "difference", "wrong", "keys"),
    ]
    assert lines[1].index("0.463") == lines[0].index("by place")
    assert lines[2].startswith("Auto Steer  8B     171   0.322     0.322        0.000")
