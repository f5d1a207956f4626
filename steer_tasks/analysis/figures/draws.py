"""How far an arm's effect depends on the draw of its steering: one point for each draw."""

from steer_tasks.analysis.figures.canvas import Drawing, canvas, finished
from steer_tasks.analysis.figures.looks import Looks
from steer_tasks.analysis.figures.theme import stand_in
from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.wording import outcome, signed


def draws(findings: Findings, field: str, looks: Looks, key: str) -> Drawing | None:
    """Effects of each draw by arm, for arms with two or more; None where no arm has."""
    found = [one for one in findings.draws if one.outcome == field and one.draws > 1]
    if not found:
        return None
    with canvas(height=58 + 28 * len(found)) as drawn:
        axes = drawn.axes[0]
        axes.grid(True, axis="x")
        axes.axvline(0, color=stand_in("muted"), linewidth=0.8)
        for row, one in enumerate(found):
            values = list(one.by_draw.values())
            colour = stand_in(looks.colours[one.arm])
            axes.plot((min(values), max(values)), (row, row), color=colour, linewidth=1, alpha=0.5)
            axes.plot(values, [row] * len(values), looks.markers[one.arm], color=colour, markersize=7, alpha=0.8)
        names = [one.arm if len(one.arm) <= 24 else f"{one.arm[:23]}…" for one in found]
        axes.set_yticks(range(len(found)), names)
        axes.tick_params(axis="y", length=0, labelcolor=stand_in("ink"))
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.margins(x=0.1)
        axes.set_xlabel(f"change in {outcome(field).label}   ({outcome(field).unit})")
        title = f"Change in {outcome(field).label} by draw"
        decimals = outcome(field).decimals
        told = "; ".join(
            f"{one.arm}: {', '.join(signed(value, decimals) for value in one.by_draw.values())}" for one in found
        )
        caption = "Each mark is one draw of the steering, its mean difference from the control over all its pairs."
        return finished(drawn, key, title, f"{title}. {told}.", caption)
