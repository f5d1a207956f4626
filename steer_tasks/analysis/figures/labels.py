"""Names beside points, placed so that they cover as little as can be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steer_tasks.analysis.figures.theme import SIZE, stand_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

# Offset in points, and how the text hangs on it.
_PLACES = (
    ((7, 5), "left", "bottom"),
    ((-7, 5), "right", "bottom"),
    ((7, -5), "left", "top"),
    ((-7, -5), "right", "top"),
    ((0, 11), "center", "bottom"),
    ((0, -11), "center", "top"),
    ((7, 20), "left", "bottom"),
    ((7, -20), "left", "top"),
    ((-7, 20), "right", "bottom"),
    ((-7, -20), "right", "top"),
    ((7, 35), "left", "bottom"),
    ((-7, 35), "right", "bottom"),
    ((7, -35), "left", "top"),
    ((-7, -35), "right", "top"),
    ((7, 50), "left", "bottom"),
    ((-7, -50), "right", "top"),
)

_NAME = 20
"""How much worse it is to cover a name than a bar: two names over each other can't be read."""


@dataclass(frozen=True)
class Point:
    """A point with a name, and the arms of its error bars, in the axes' units."""

    name: str
    colour: str
    x: float
    y: float
    x_bar: tuple[float, float] | None = None
    y_bar: tuple[float, float] | None = None


def place_labels(axes: "Axes", points: Sequence[Point]) -> None:
    """Write each point's name where it covers the fewest bars, points and other names; the axes' limits are final."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]
    taken = [box for point in points for box in _boxes(axes, point)]
    names: list[Bbox] = []
    frame = axes.get_window_extent()
    for point in points:
        best = None
        for offset, sideways, upright in _PLACES:
            text = axes.annotate(
                point.name, (point.x, point.y), offset, textcoords="offset points", ha=sideways, va=upright,
                color=stand_in(point.colour), fontsize=SIZE, fontweight="bold",
            )  # fmt: skip
            text.set_in_layout(False)
            box = text.get_window_extent()
            covered = sum(_shared(box, other) for other in taken) + 4 * _outside(box, frame)
            covered += _NAME * sum(_shared(box, other) for other in names)
            text.remove()
            if best is None or covered < best[0] - 1e-6:
                best = (covered, offset, sideways, upright, box)
        if best:
            _, offset, sideways, upright, box = best
            kept = axes.annotate(
                point.name, (point.x, point.y), offset, textcoords="offset points", ha=sideways, va=upright,
                color=stand_in(point.colour), fontsize=SIZE, fontweight="bold",
            )  # fmt: skip
            kept.set_in_layout(False)
            names.append(box)


def _boxes(axes: "Axes", point: Point) -> "list[Bbox]":
    from matplotlib.transforms import Bbox

    def box(low: tuple[float, float], high: tuple[float, float], margin: float) -> Bbox:
        one, other = axes.transData.transform([low, high])
        return Bbox([[one[0] - margin, one[1] - margin], [other[0] + margin, other[1] + margin]])

    found = [box((point.x, point.y), (point.x, point.y), 5)]
    if point.x_bar:
        found.append(box((point.x_bar[0], point.y), (point.x_bar[1], point.y), 4))
    if point.y_bar:
        found.append(box((point.x, point.y_bar[0]), (point.x, point.y_bar[1]), 4))
    return found


def _shared(one: "Bbox", other: "Bbox") -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: "Bbox", frame: "Bbox") -> float:
    return float(box.width * box.height - _shared(box, frame))
