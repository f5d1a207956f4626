"""A measured line of the benchmark's table, and whether it reaches its bar. numpy only."""

from dataclasses import dataclass

from tests.benchmarks.pairs import Ratio


@dataclass(frozen=True)
class Bar:
    """What a measure must reach and what it aims at; `at_least` says which way is better."""

    must: float
    aim: float
    at_least: bool = False
    unit: str = ""

    def reached(self, value: float) -> bool:
        """Whether a value is on the right side of what must be."""
        return value >= self.must if self.at_least else value <= self.must

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        return f"{word} {self.must:g}{self.unit} (aim {self.aim:g})"


@dataclass(frozen=True)
class Line:
    """One line: what was measured, over what, and what came out. `sampled` says what was drawn, scaled or left out."""

    measure: str
    found: Ratio | float
    bar: Bar
    sampled: str

    @property
    def value(self) -> float:
        """The number that is held against the bar; of several pairs the median."""
        return self.found.median if isinstance(self.found, Ratio) else self.found

    @property
    def verdict(self) -> str:
        """`reached` or `missed`."""
        return "reached" if self.bar.reached(self.value) else "missed"

    def __str__(self) -> str:
        shown = str(self.found) if isinstance(self.found, Ratio) else f"{self.found:.3g}{self.bar.unit}"
        return f"| {self.measure} | {shown} | {self.bar} | {self.verdict} | {self.sampled} |"


HEAD = "| measure | found: median, 95 % interval | must reach | | sampled and scaled |\n| --- | --- | --- | --- | --- |"
