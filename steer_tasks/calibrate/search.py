"""The search for a size: up a ladder until a budget breaks, then closer between two rungs. Imports scipy.

One dimension, and answers that are the same whenever they are asked again: so each step is a bracket that shrinks, by
`scipy.optimize`, and no surface is modelled.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from scipy.optimize import brentq, minimize_scalar

RATIO = 2.0
"""Between two rungs of the ladder."""

TOLERANCE = 0.05
"""How near an edge or a peak a size is found, as a share of it."""

CLOSER = 4
"""Most trials that look for an edge, and most that look for a peak."""


class Tried(Protocol):
    """What the search needs of a trial."""

    @property
    def excess(self) -> float:
        """How far over the budgets; at most 0 within all of them."""
        ...

    @property
    def objective(self) -> float | None:
        """What is made large; None where the trial was stopped."""
        ...


Trial = Callable[[int | None, float], Tried]
"""Measures a layer (None: the method's own) at a size."""


@dataclass
class Search:
    """Trials of one search, each made once. Sizes are compared by their logarithms."""

    trial: Trial
    tried: dict[tuple[int | None, float], Tried] = field(default_factory=dict)

    def at(self, layer: int | None, size: float) -> Tried:
        """The trial of a layer at a size."""
        if (layer, size) not in self.tried:
            self.tried[layer, size] = self.trial(layer, size)
        return self.tried[layer, size]

    def within(self, layer: int | None) -> list[tuple[float, float]]:
        """`(size, objective)` of a layer's trials within all budgets, by size."""
        found = [
            (size, one.objective)
            for (of, size), one in self.tried.items()
            if of == layer and one.excess <= 0 and one.objective is not None
        ]
        return sorted(found)

    def best(self, layers: Sequence[int | None]) -> tuple[int | None, float] | None:
        """Layer and size with the largest objective within all budgets, the smaller size of equals; None without."""
        found = [(-value, size, place) for place, layer in enumerate(layers) for size, value in self.within(layer)]
        if not found:
            return None
        _, size, place = min(found)
        return layers[place], size

    def run(self, layers: Sequence[int | None], low: float, high: float) -> tuple[int | None, float] | None:
        """The best layer and size from `low` to `high`; None where no trial is within the budgets.

        Every layer is climbed; only the best is looked at closer, and only where something is gained. What lies above
        a size that broke a budget is never tried: a dose behind a cliff isn't one to rely on.
        """
        edges = {layer: self.climb(layer, rungs(low, high)) for layer in layers}
        best = self.best(layers)
        if best is None:
            return None
        layer, size = best
        if not (self.at(layer, size).objective or 0.0) > 0:
            return best
        beyond = edges[layer]
        if beyond is not None and size == self.within(layer)[-1][0]:
            self.to_edge(layer, size, beyond)
        self.to_peak(layer)
        return self.best(layers)

    def climb(self, layer: int | None, sizes: Sequence[float]) -> float | None:
        """Try sizes upwards; the first that breaks a budget ends it and is returned, None where none does."""
        return next((size for size in sizes if self.at(layer, size).excess > 0), None)

    def to_edge(self, layer: int | None, inside: float, outside: float) -> None:
        """Near in on the largest size within the budgets, between one that is and one that isn't (Brent's root)."""

        def excess(log_size: float) -> float:
            # The ends are known; their logarithms don't always come back as the same numbers.
            size = next((one for one in (inside, outside) if math.log(one) == log_size), math.exp(log_size))
            return min(self.at(layer, size).excess, 1.0)

        ends = math.log(inside), math.log(outside)
        brentq(excess, *ends, xtol=TOLERANCE / 2, rtol=1e-9, maxiter=CLOSER, disp=False)

    def to_peak(self, layer: int | None) -> None:
        """Near in on the largest objective between the neighbours of the best size (Brent's bounded minimum)."""
        within = self.within(layer)
        place = max(range(len(within)), key=lambda index: (within[index][1], -index))
        ends = within[max(place - 1, 0)][0], within[min(place + 1, len(within) - 1)][0]
        # At the top of what is allowed, or at the only size there is, nothing lies beyond to look for.
        if place == len(within) - 1 or ends[1] <= ends[0] * (1 + TOLERANCE):
            return
        least = min(value for _, value in within)

        def lack(log_size: float) -> float:
            one = self.at(layer, math.exp(log_size))
            if one.objective is None or one.excess > 0:
                return -least + min(one.excess, 1.0)
            return -one.objective

        bounds = math.log(ends[0]), math.log(ends[1])
        minimize_scalar(lack, bounds=bounds, method="bounded", options={"maxiter": CLOSER, "xatol": TOLERANCE / 2})


def rungs(low: float, high: float) -> list[float]:
    """Sizes from `low` upwards, each twice the last, and `high` as the last."""
    found = [low]
    while found[-1] * RATIO < high * (1 - 1e-9):
        found.append(found[-1] * RATIO)
    return [*found, high] if high > low else found
