"""What was gained against what was lost: each arm as a point with its intervals, and the arms that no other beats."""

from collections.abc import Sequence

from steer_tasks.analysis.families import Family
from steer_tasks.analysis.figures.canvas import Canvas, Drawing, canvas, finished
from steer_tasks.analysis.figures.labels import Point, place_labels
from steer_tasks.analysis.figures.looks import Looks
from steer_tasks.analysis.figures.theme import SIZE, stand_in
from steer_tasks.analysis.findings import Estimate, Findings
from steer_tasks.analysis.pooled import budget, front, trade
from steer_tasks.analysis.wording import MINUS, amount, outcome, percent, signed

NAMED = 12
"""Up to so many arms are all named beside their points; with more only those on the front are."""


def tradeoff(findings: Findings, cost: str, looks: Looks, swept: Sequence[Family], key: str) -> Drawing | None:
    """Behavior gained against an outcome lost; None where no arm has both."""
    pairs = trade(findings, cost)
    if not pairs:
        return None
    losses = {arm: _negated(lost.estimate) for arm, (lost, _) in pairs.items()}
    gains = {arm: gained.estimate for arm, (_, gained) in pairs.items()}
    places = {arm: (losses[arm].value, gains[arm].value) for arm in pairs}
    best = front({findings.control: (0.0, 0.0), **places})
    word = outcome(cost).label
    with canvas(height=330) as drawn:
        axes = drawn.axes[0]
        axes.grid(True)
        axes.axhline(0, color=stand_in("muted"), linewidth=0.8)
        axes.axvline(0, color=stand_in("muted"), linewidth=0.8)
        points = [Point(findings.control, looks.colours[findings.control], 0.0, 0.0)]
        points += [_point(arm, looks, losses[arm], gains[arm]) for arm in pairs]
        _sweeps(drawn, swept, places, looks)
        for point in points:
            _mark(drawn, point, looks)
        axes.margins(x=0.3, y=0.14)
        axes.autoscale_view()
        _front(drawn, [places.get(arm, (0.0, 0.0)) for arm in best])
        _budget(drawn, budget(findings, cost), cost)
        axes.set_xlabel(f"{word} lost   (control {MINUS} arm, {outcome(cost).unit})")
        axes.set_ylabel("behavior gained   (points)")
        few = len(points) <= NAMED
        place_labels(axes, [point for point in points if few or point.name in (*best, findings.control)])
        title = f"Behavior gained against {word} lost"
        told = "; ".join(_told(arm, places[arm], cost) for arm in pairs)
        alt = f"{title}, each against {findings.control}. {told}. Not beaten by another: {', '.join(best)}."
        caption = (
            f"Up is more of the behavior, right is more {word} lost; bars are {percent(_level(gains))} intervals. "
            "The dotted line is the front: no arm on it is beaten in both by another. It joins point estimates, so "
            "arms whose bars overlap may change places."
            + ("" if few else f" Of the {len(points)} arms only those on the front are named; the table has all.")
        )
        return finished(drawn, key, title, alt, caption, halo=True)


def _negated(one: Estimate) -> Estimate:
    low, high = (None if bound is None else -bound for bound in (one.high, one.low))
    return Estimate(-one.value, low, high, one.level, one.stderr, one.df, one.method, one.clusters)


def _bar(one: Estimate) -> tuple[float, float] | None:
    return None if one.low is None or one.high is None else (one.low, one.high)


def _point(arm: str, looks: Looks, loss: Estimate, gain: Estimate) -> Point:
    return Point(arm, looks.colours[arm], loss.value, gain.value, _bar(loss), _bar(gain))


def _level(gains: dict[str, Estimate]) -> float:
    return next(iter(gains.values())).level


def _mark(drawn: Canvas, point: Point, looks: Looks) -> None:
    axes, colour = drawn.axes[0], stand_in(point.colour)
    if point.x_bar:
        axes.plot(point.x_bar, (point.y, point.y), color=colour, linewidth=1.3, solid_capstyle="butt")
    if point.y_bar:
        axes.plot((point.x, point.x), point.y_bar, color=colour, linewidth=1.3, solid_capstyle="butt")
    edge = stand_in("page")
    axes.plot(point.x, point.y, looks.markers[point.name], color=colour, markersize=8, mec=edge, mew=0.8, zorder=4)


def _sweeps(drawn: Canvas, swept: Sequence[Family], places: dict[str, tuple[float, float]], looks: Looks) -> None:
    for family in swept:
        way = [(0.0, 0.0), *(places[arm] for _, arm in family.arms if arm in places)]
        colour = stand_in(looks.colours[family.arms[0][1]])
        drawn.axes[0].plot(*zip(*way, strict=True), color=colour, linewidth=1, alpha=0.5)


def _front(drawn: Canvas, corners: Sequence[tuple[float, float]]) -> None:
    axes = drawn.axes[0]
    left, right, low, high = *axes.get_xlim(), *axes.get_ylim()
    xs, ys = [*(x for x, _ in corners), right], [*(y for _, y in corners), corners[-1][1]]
    axes.plot(xs, ys, color=stand_in("ink"), linewidth=1.1, linestyle=(0, (1.5, 2.5)), drawstyle="steps-post", zorder=1)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _budget(drawn: Canvas, most: float | None, cost: str) -> None:
    axes = drawn.axes[0]
    if most is None or not axes.get_xlim()[0] < most < axes.get_xlim()[1]:
        return
    axes.axvline(most, color=stand_in("muted"), linewidth=1, linestyle=(0, (5, 3)))
    axes.annotate(
        f"budget {amount(most, cost)}", (most, 0), (3, 3), xycoords=("data", "axes fraction"),
        textcoords="offset points", color=stand_in("muted"), fontsize=SIZE - 2,
    )  # fmt: skip


def _told(arm: str, place: tuple[float, float], cost: str) -> str:
    loss, gain = place
    return f"{arm}: behavior {signed(gain)}, {outcome(cost).label} {signed(-loss, outcome(cost).decimals)}"
