"""Alternating pairs, and what may be said of their ratio. numpy only."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

MANY = 5
"""With fewer pairs there is no interval to speak of; each ratio is shown."""


@dataclass(frozen=True)
class Ratio:
    """Ratios of paired times, one a pair: left over right."""

    ratios: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return float(np.median(self.ratios))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the median: the percentile bootstrap over pairs, 10,000 resamples, seeded."""
        drawn = np.random.default_rng(0).choice(self.ratios, (10_000, len(self.ratios)))
        low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
        return float(low), float(high)

    def __str__(self) -> str:
        if len(self.ratios) < MANY:
            return f"{self.median:.3f} ({', '.join(f'{one:.3f}' for one in self.ratios)})"
        low, high = self.interval
        return f"{self.median:.3f} [{low:.3f}, {high:.3f}], {len(self.ratios)} pairs"


def paired(left: Callable[[], float], right: Callable[[], float], pairs: int) -> Ratio:
    """Ratio of what the two sides cost (seconds, or seconds per token), in pairs whose order alternates.

    Each side is run once before, uncounted: what is only paid once is no part of the comparison.
    """
    left(), right()
    ratios = []
    for number in range(pairs):
        if number % 2:
            second, first = right(), left()
        else:
            first, second = left(), right()
        ratios.append(first / second)
    return Ratio(tuple(ratios))


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def machine() -> str:
    """What the figures were measured on."""
    import torch

    return f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"
