"""Effects by behavior and arm, as coloured cells with their numbers."""

from steer_tasks.analysis.figures.canvas import Drawing, canvas, finished
from steer_tasks.analysis.figures.theme import SIZE, WIDTH, stand_in
from steer_tasks.analysis.findings import Effect, Findings
from steer_tasks.analysis.pooled import of_behavior, steered
from steer_tasks.analysis.wording import alpha, outcome, signed

LONGEST = 30
"""Characters of a behavior's name that fit beside the cells."""


def heatmap(findings: Findings, field: str, key: str) -> Drawing | None:
    """One outcome's change by behavior (rows) and arm (columns); None where fewer than two behaviors have one."""
    found = {
        (row, column): effect
        for row in findings.behaviors
        for column in steered(findings)
        if (effect := of_behavior(findings, column, field, row)) is not None
    }
    rows = [row for row in findings.behaviors if any(cell[0] == row for cell in found)]
    columns = [column for column in steered(findings) if any(cell[1] == column for cell in found)]
    if len(rows) < 2:
        return None
    most = max(abs(one.estimate.value) for one in found.values()) or 1.0
    width = max(WIDTH, 150 + 58 * len(columns))
    with canvas(height=60 + 23 * len(rows), width=width) as drawn:
        axes = drawn.axes[0]
        from matplotlib.patches import Rectangle

        for (row, column), effect in found.items():
            x, y, value = columns.index(column), rows.index(row), effect.estimate.value
            colour = stand_in("more" if value > 0 else "less")
            alpha = abs(value) / most
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=colour, alpha=alpha, linewidth=0))
            told = signed(value, outcome(field).decimals) + ("*" if _sure(effect) else "")
            weight = "bold" if _sure(effect) else "normal"
            axes.text(x + 0.5, y + 0.5, told, ha="center", va="center", fontweight=weight, fontsize=SIZE - 0.5)
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([place + 0.5 for place in range(len(columns))], [_wrapped(name) for name in columns])
        axes.set_yticks([place + 0.5 for place in range(len(rows))], [_short(name) for name in rows])
        axes.tick_params(length=0, labelcolor=stand_in("ink"))
        axes.xaxis.tick_top()
        axes.hlines(range(1, len(rows)), 0, len(columns), color=stand_in("line"), linewidth=0.6)
        axes.spines[:].set_visible(False)
        word = outcome(field).label
        title = f"Change in {word}, by behavior and arm"
        told = "; ".join(
            f"{row}: " + ", ".join(f"{c} {signed(found[row, c].estimate.value)}" for c in columns if (row, c) in found)
            for row in rows
        )
        caption = (
            f"Arm minus control, in {outcome(field).unit}: blue is more {word}, orange is less. "
            "Bold with a star: interval and p-value both tell it from zero."
        )
        return finished(drawn, key, title, f"{title}. {told}.", caption)


def _sure(effect: Effect) -> bool:
    low, high, p = effect.estimate.low, effect.estimate.high, effect.p_adjusted
    excluded = low is not None and high is not None and (low > 0 or high < 0)
    p = effect.p if p is None else p
    return excluded and p is not None and p < alpha(effect.estimate.level)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _wrapped(name: str) -> str:
    """An arm's name in lines of about ten characters, three at most."""
    lines = [""]
    for word in name.split():
        if lines[-1] and len(lines[-1]) + len(word) >= 10:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    shown = [line if len(line) <= 13 else f"{line[:12]}…" for line in lines]
    return "\n".join(shown[:3])
