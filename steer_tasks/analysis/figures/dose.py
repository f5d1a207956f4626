"""Dose–response: what each outcome did as a family's dose or coefficient grew, with sweet spot and cliff."""

from steer_tasks.analysis.dose_response import Reading
from steer_tasks.analysis.families import Family
from steer_tasks.analysis.figures.canvas import Canvas, Drawing, canvas, finished
from steer_tasks.analysis.figures.looks import Looks
from steer_tasks.analysis.figures.theme import SIZE, stand_in
from steer_tasks.analysis.findings import Effect, Findings
from steer_tasks.analysis.pooled import budget, pooled
from steer_tasks.analysis.wording import GAIN, OUTCOMES, change, outcome


def dose_response(findings: Findings, family: Family, reading: Reading, looks: Looks, key: str) -> Drawing | None:
    """One panel for each outcome that the family's arms have effects on; None where there is none."""
    series = {field: _effects(findings, family, field) for field in OUTCOMES if field != "answered"}
    series = {field: found for field, found in series.items() if found}
    if not series:
        return None
    with canvas(height=40 + 120 * len(series), rows=len(series), sharex=True) as drawn:
        for number, (field, found) in enumerate(series.items()):
            _panel(drawn, number, field, found, looks.colours[family.arms[0][1]])
            _limits(drawn, number, findings, field, reading)
        drawn.axes[-1].set_xlabel(family.unit + ("   (‖added‖ / ‖residual‖)" if family.unit == "dose" else ""))
        values = [0.0, *(value for value, _ in family.arms)]
        room = 0.03 * (max(values) - min(values))
        drawn.axes[-1].set_xlim(min(values) - room, max(values) + room)
        title = f"{family.name} by {family.unit}"
        told = ". ".join(
            f"{outcome(field).label.capitalize()}: "
            + "; ".join(f"{value:g}: {change(effect)}" for value, effect in found.items())
            for field, found in series.items()
        )
        read = " ".join(reading.sentences)
        caption = f"Differences from the control, which stands at 0, with their intervals. {read}"
        alt = f"{title}. {told}. {read}"
        return finished(drawn, key, title, alt, caption, halo=True)


def _effects(findings: Findings, family: Family, field: str) -> dict[float, Effect]:
    found = {value: pooled(findings, arm, field) for value, arm in family.arms}
    return {value: effect for value, effect in found.items() if effect is not None}


def _panel(drawn: Canvas, number: int, field: str, found: dict[float, Effect], colour: str) -> None:
    axes, ink = drawn.axes[number], stand_in(colour)
    axes.grid(True, axis="y")
    axes.axhline(0, color=stand_in("muted"), linewidth=0.8)
    axes.plot([0, *found], [0, *(one.estimate.value for one in found.values())], "-o", color=ink, markersize=5)
    for value, one in found.items():
        if one.estimate.low is not None and one.estimate.high is not None:
            axes.plot((value, value), (one.estimate.low, one.estimate.high), color=ink, linewidth=1.3)
    axes.margins(y=0.15)
    axes.set_title(f"{outcome(field).label}, change in {outcome(field).unit}", fontweight="normal", fontsize=SIZE)


def _limits(drawn: Canvas, number: int, findings: Findings, field: str, reading: Reading) -> None:
    axes = drawn.axes[number]
    most = budget(findings, field)
    if field != GAIN and most is not None:
        low, high = axes.get_ylim()
        axes.axhline(-most, color=stand_in("muted"), linewidth=1, linestyle=(0, (5, 3)))
        axes.set_ylim(min(low, -1.25 * most), high)
    if reading.sweet_spot is not None:
        axes.axvline(reading.sweet_spot, color=stand_in("arm3"), linewidth=1.2, linestyle=(0, (1.5, 2)))
    if reading.cliff is not None and reading.before_cliff is not None:
        axes.axvspan(reading.before_cliff, reading.cliff, color=stand_in("less"), alpha=0.3, linewidth=0)
    if number == 0:
        if reading.sweet_spot is not None:
            _said(drawn, reading.sweet_spot, "sweet spot")
        if reading.cliff is not None and reading.before_cliff is not None:
            _said(drawn, (reading.before_cliff + reading.cliff) / 2, "cliff")


def _said(drawn: Canvas, x: float, word: str) -> None:
    drawn.axes[0].annotate(
        word, (x, 1), (0, -2), xycoords=("data", "axes fraction"), textcoords="offset points",
        ha="center", va="top", fontsize=SIZE - 1.5, color=stand_in("ink"),
    )  # fmt: skip
