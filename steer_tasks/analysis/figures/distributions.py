"""How the scores of each arm are spread over their scale, missing ones included."""

from collections import Counter
from collections.abc import Sequence

from steer_tasks.analysis.figures.canvas import Canvas, Drawing, canvas, finished
from steer_tasks.analysis.figures.theme import SIZE, stand_in
from steer_tasks.analysis.record import Record
from steer_tasks.analysis.wording import outcome, share

SCALE = (1, 2, 3, 4, 5)


def distribution(records: Sequence[Record], arms: Sequence[str], field: str, key: str) -> Drawing | None:
    """Shares of the scores 1 to 5 by arm; None where nothing was scored."""
    counts = {arm: Counter(_step(record, field) for record in records if record.arm == arm) for arm in arms}
    counts = {arm: found for arm, found in counts.items() if set(found) - {None}}
    if not counts:
        return None
    with canvas(height=62 + 25 * len(counts)) as drawn:
        axes = drawn.axes[0]
        for row, found in enumerate(counts.values()):
            _row(drawn, row, found)
        axes.set_yticks(range(len(counts)), [name if len(name) <= 24 else f"{name[:23]}…" for name in counts])
        axes.tick_params(axis="y", length=0, labelcolor=stand_in("ink"))
        axes.set_ylim(len(counts) - 0.45, -0.55)
        axes.set_xlim(0, 100)
        axes.spines[:].set_visible(False)
        axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"])
        _legend(drawn, any(found[None] for found in counts.values()))
        title = f"Scores of {outcome(field).label} by arm"
        told = "; ".join(f"{arm}: {_told(found)}" for arm, found in counts.items())
        caption = (
            "Share of each arm's answers by score, all behaviors together; counts where they fit. "
            "Scores between two steps count for the nearer one."
        )
        return finished(drawn, key, title, f"{title}. {told}.", caption)


def _step(record: Record, field: str) -> int | None:
    value = getattr(record, field)
    return None if value is None else int(min(max(value + 0.5, SCALE[0]), SCALE[-1]))


def _row(drawn: Canvas, row: int, found: Counter[int | None]) -> None:
    axes, total, left = drawn.axes[0], sum(found.values()), 0.0
    for step in (*SCALE, None):
        width = 100 * found[step] / total
        colour = stand_in("line") if step is None else stand_in(f"level{step}")
        axes.barh(row, width, 0.72, left, color=colour, hatch="////" if step is None else None, linewidth=0)
        if step is not None and width >= 6.5:
            # Dark type on the light steps of a light page, and the other way round on a dark one.
            ink = stand_in("ink" if step <= 3 else "page")
            axes.text(left + width / 2, row, str(found[step]), ha="center", va="center", color=ink, fontsize=SIZE - 1.5)
        left += width


def _legend(drawn: Canvas, missing: bool) -> None:
    from matplotlib.patches import Patch

    marks = [Patch(facecolor=stand_in(f"level{step}"), label=str(step)) for step in SCALE]
    if missing:
        marks.append(Patch(facecolor=stand_in("line"), hatch="////", label="missing"))
    drawn.figure.legend(
        handles=marks, loc="outside upper right", ncols=len(marks), frameon=False, fontsize=SIZE - 1,
        handlelength=1, handleheight=1, columnspacing=0.9, handletextpad=0.4, borderpad=0,
    )  # fmt: skip


def _told(found: Counter[int | None]) -> str:
    total = sum(found.values())
    told = [f"{share(found[step] / total)} at {step}" for step in SCALE if found[step]]
    return ", ".join(told + ([f"{found[None]} missing"] if found[None] else []))
