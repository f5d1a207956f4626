"""A blank figure in our style, and a drawn one as inline SVG: no date, no colours or fonts of its own, its own ids."""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from steer_tasks.analysis.figures.theme import COLOURS, SIZE, WIDTH, stand_in, style_sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

HALO = "svg.halo text{paint-order:stroke;stroke:var(--page);stroke-width:2.5px;stroke-linejoin:round}"
"""Sets type off from the lines behind it."""

_LONG = re.compile(r"(\.\d\d)\d+")
"""Digits of a coordinate beyond what a screen shows."""


@dataclass(frozen=True)
class Drawing:
    """A finished figure. `svg` is inline SVG for a page that has `style_sheet()`."""

    key: str
    """Its place on the page; ids in the SVG begin with it."""
    title: str
    alt: str
    """What it shows, for somebody who can't see it."""
    caption: str
    svg: str
    width: float
    """Of the view box; a figure is never shown wider than a quarter more."""
    height: float

    def standalone(self) -> str:
        """The same as an SVG file of its own, with its colours for light and dark."""
        head, body = self.svg.split(">", 1)
        sheet = f"{style_sheet('svg')}\nsvg{{font-family:{FONTS};background:var(--page)}}\n{HALO}"
        size = f'width="{1.25 * self.width:g}" height="{1.25 * self.height:g}"'
        return f'{head} xmlns="http://www.w3.org/2000/svg" {size}><style>{sheet}</style>{body}\n'


@dataclass
class Canvas:
    """A figure while it is drawn."""

    figure: "Figure"
    axes: "list[Axes]" = field(default_factory=list)


@contextmanager
def canvas(height: float, width: float = WIDTH, rows: int = 1, columns: int = 1, **layout: Any) -> Iterator[Canvas]:
    """A blank figure of a size in units of the view box, and its axes; nothing of matplotlib's global state changes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style()), warnings.catch_warnings():
        # The page's fonts have them; only the room that they take is guessed.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **layout)
        yield Canvas(figure, [axis for row in axes for axis in row])


def finished(drawn: Canvas, key: str, title: str, alt: str, caption: str, halo: bool = False) -> Drawing:
    """The drawing, inside `canvas(...)`. `halo` sets its type off from lines behind it."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawn.figure.savefig(text, format="svg", metadata=nothing, transparent=True)
    width, height = (72 * inches for inches in drawn.figure.get_size_inches())
    body = _inline(text.getvalue(), key)
    # As attributes, for a rule in the SVG's own style sheet would hold for the whole page.
    head = (
        f'<svg id="{key}" class="{"halo" if halo else "plain"}" viewBox="0 0 {width:g} {height:g}" '
        f'role="img" aria-labelledby="{key}-title {key}-desc" '
        f'style="max-width:{1.25 * width:g}px;stroke-linejoin:round;stroke-linecap:butt">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-desc">{escape(alt)}</desc>'
    )
    return Drawing(key, title, alt, caption, f"{head}{body}</svg>", width, height)


def _style() -> Any:
    ink, muted, line = stand_in("ink"), stand_in("muted"), stand_in("line")
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "steer-tasks",
        "text.parse_math": False,  # an arm may hold a dollar sign
        "font.family": "DejaVu Sans",  # matplotlib's own, so that a layout is the same everywhere
        "font.size": SIZE,
        "axes.titlesize": SIZE,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.labelsize": SIZE,
        "axes.labelcolor": ink,
        "axes.edgecolor": line,
        "axes.titlecolor": ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.unicode_minus": True,
        "axes.axisbelow": True,
        "grid.color": line,
        "grid.linewidth": 0.6,
        "text.color": ink,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "xtick.labelsize": SIZE - 1,
        "ytick.labelsize": SIZE - 1,
        "hatch.color": muted,
        "hatch.linewidth": 0.6,
        "figure.constrained_layout.h_pad": 0.06,
        "figure.constrained_layout.w_pad": 0.06,
    }


def _inline(svg: str, key: str) -> str:
    """The inside of matplotlib's SVG with our names for colours, the page's font, and ids that begin with `key`."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    for name in COLOURS:
        body = body.replace(stand_in(name), f"var(--{name})")
    kept = set(re.findall(r'(?:xlink:href="#|url\(#)([\w.-]+)', body))
    short = {old: f"{key}-{hashlib.sha256(old.encode()).hexdigest()[:6]}" for old in kept}
    body = re.sub(r' id="([\w.-]+)"', lambda found: f' id="{short[found[1]]}"' if found[1] in short else "", body)
    body = re.sub(r'xlink:href="#([\w.-]+)"', lambda found: f'href="#{short[found[1]]}"', body)
    body = re.sub(r"url\(#([\w.-]+)\)", lambda found: f"url(#{short[found[1]]})", body)
    body = re.sub(r' (?:d|x|y|transform)="[^"]*"', lambda found: _LONG.sub(r"\1", found[0]), body)
    body = re.sub(r' transform="rotate\(-0 [^"]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return re.sub(r"\n(?=[<LMQCz])|(?<=>)\n", "", body).replace("\n", " ")
