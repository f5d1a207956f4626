"""Colours, markers and type of every figure. Colours are names that the page resolves, so figures follow its theme.

While a figure is drawn a name stands as a colour of its own, which nobody else uses, and becomes `var(--name)` in the
SVG. Arms' colours are those of Okabe and Ito, which the colour-blind can tell apart, made darker for a light page and
lighter for a dark one; markers differ too, so that no arm is told by colour alone.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

# Name -> (on a light page, on a dark page).
COLOURS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "page": ("#ffffff", "#15171b"),
        "ink": ("#1a1c20", "#e9eaed"),
        "muted": ("#5b616b", "#a7adb8"),
        "line": ("#d9dce1", "#363b44"),
        "arm0": ("#5b616b", "#a7adb8"),
        "arm1": ("#0068a8", "#5db4ef"),
        "arm2": ("#c04a00", "#ff9057"),
        "arm3": ("#00805c", "#35cb9c"),
        "arm4": ("#a2407a", "#e79ac6"),
        "arm5": ("#8a6400", "#efbd50"),
        "arm6": ("#4b4fb8", "#a9adff"),
        "more": ("#7cc0ea", "#14598a"),
        "less": ("#f0ab5c", "#8a4a00"),
        "level1": ("#dfe8f3", "#20303f"),
        "level2": ("#b3cde6", "#2b4f70"),
        "level3": ("#7fabd3", "#34658f"),
        "level4": ("#3a76aa", "#6aa6d8"),
        "level5": ("#14507f", "#b5dbf7"),
    }
)

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SIZE = 11.0
"""Of figures' text, in units of their view box; 440 of those are a figure's usual width."""
WIDTH = 440.0

_ARM_COLOURS = 6


def stand_in(name: str) -> str:
    """The colour that stands for a name while matplotlib draws."""
    return f"#fe{list(COLOURS).index(name):02x}ed"


def arm_colours(arms: Sequence[str], families: Mapping[str, str]) -> dict[str, str]:
    """A colour's name for each arm: the control, which is first, in grey; arms of one family alike."""
    kinds = list(dict.fromkeys(families.get(arm, arm) for arm in arms[1:]))
    colours = {kind: f"arm{1 + number % _ARM_COLOURS}" for number, kind in enumerate(kinds)}
    return {arm: "arm0" if arm == arms[0] else colours[families.get(arm, arm)] for arm in arms}


def arm_markers(arms: Sequence[str]) -> dict[str, str]:
    """A marker for each arm, as matplotlib names them; arms of one colour differ while there are markers."""
    return {arm: MARKERS[number % len(MARKERS)] for number, arm in enumerate(arms)}


def style_sheet(scope: str = ":root") -> str:
    """CSS that gives every name its colour, light and, on a dark screen, dark."""

    def block(which: int) -> str:
        return f"{scope}{{" + "".join(f"--{name}:{pair[which]};" for name, pair in COLOURS.items()) + "}"

    return f"{block(0)}\n@media screen and (prefers-color-scheme: dark){{{block(1)}}}"
