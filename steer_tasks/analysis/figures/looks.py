"""How each arm looks, the same in every figure and table of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steer_tasks.analysis.families import Family, family_names
from steer_tasks.analysis.figures.theme import arm_colours, arm_markers


@dataclass(frozen=True)
class Looks:
    """A colour's name and a marker for each arm."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]


def looks_of(arms: Sequence[str], swept: Sequence[Family]) -> Looks:
    """Looks of a model's arms, the control first; arms of one family share a colour."""
    return Looks(arm_colours(arms, family_names(swept)), arm_markers(arms))
