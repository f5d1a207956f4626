"""Whether conditions are met, token by token, for the rows of a batch. Imports torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from model_adapters.backends.local.span import Span
from model_adapters.conditions import AllOf, Compare, Condition, FeatureCompare, Reading, readings
from model_adapters.interventions import When, whens
from model_adapters.steering import Steering

COMPARED: dict[str, Callable[[Tensor, Any], Tensor]] = {
    ">": torch.gt,
    "<": torch.lt,
    "==": torch.eq,
    ">=": torch.ge,
    "<=": torch.le,
    "!=": torch.ne,
}


def guards_of(steering: Steering) -> list[When]:
    """The conditions of a steering in a fixed order: one gate each."""
    return [path[-1] for one in steering.interventions for path in whens(one)]


def last_layer(guard: When) -> int:
    """The block after which a condition is decided."""
    return max(reading.layer for reading in readings(guard.condition))


def looks_back(steering: Steering) -> bool:
    """Whether a condition lies above what it guards, so that tokens must be read one at a time."""
    return any(last_layer(guard) > act.layer for act, guards in steering.acts for guard in guards)


def leaves_prompt(steering: Steering) -> bool:
    """Whether nothing is read or changed before the last prompt token: all acts are at response positions, and there
    are no conditions."""
    return not any(guards_of(steering)) and all(act.positions == "response" for act, _ in steering.acts)


@dataclass
class Gate:
    """One condition for one row. The masks are `(tokens,)`, bool, of the current pass.

    `met` is None until the pass has read all that decides it. `before` is what held after the pass before, `latched`
    whether the prompt met it, `tokens` how many tokens met it, `read` how many were looked at.
    """

    guard: When
    device: torch.device
    met: Tensor | None = None
    before: bool = False
    latched: bool = False
    tokens: int = 0
    read: int = 0
    is_fired: bool = False
    _values: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readings = list(readings(self.guard.condition))
        self.layers = frozenset(reading.layer for reading in self.readings)
        self.last_layer = max(self.layers)
        self._encoders = [torch.tensor(reading.encoder, device=self.device) for reading in self.readings]

    def copy(self) -> "Gate":
        """The same state for a row that goes on from here."""
        return replace(self, _values={})

    def begin(self) -> None:
        """A new pass: what the last one decided becomes what held before."""
        if self.met is not None:
            self.before = bool(self.met[-1])
        self.met, self._values = None, {}

    def look(self, layer: int, hidden: Tensor, span: Span, row: int) -> None:
        """Read one block's output `(tokens, d_model)`, before it is changed; decide where nothing is left to read."""
        for number, reading in enumerate(self.readings):
            if reading.layer == layer:
                value = hidden.float() @ self._encoders[number].to(hidden.device) + reading.bias
                self._values[number] = value.relu() if reading.rectified else value
        if layer == self.last_layer:
            self._decide(span, row)

    def _decide(self, span: Span, row: int) -> None:
        numbers = {id(reading): number for number, reading in enumerate(self.readings)}
        held = span.every[row]
        real = held if span.starts_text is None else held & ~span.starts_text[row]
        met = self._holds(self.guard.condition, numbers) & real
        own = span.own(row)
        if self.guard.moment == "prompt":
            of_prompt = met & ~own
            met = ((of_prompt.cumsum(0) > 0) | self.latched) & real
            self.latched = self.latched or bool(of_prompt.any())
        self.met = met
        self.tokens += int(met.sum())
        self.read += int(held.sum())
        self.is_fired = bool((met & own).any())

    def _holds(self, condition: Condition, numbers: dict[int, int]) -> Tensor:
        match condition:
            case Compare():
                left = self._values[numbers[id(condition.left)]]
                right = condition.right
                other = self._values[numbers[id(right)]] if isinstance(right, Reading) else right
                return COMPARED[condition.operator](left, other)
            case FeatureCompare():
                raise TypeError("features by index are resolved before a model runs")
            case _:
                parts = torch.stack([self._holds(one, numbers) for one in condition.conditions])
                return parts.all(0) if isinstance(condition, AllOf) else parts.any(0)


@dataclass
class Gates:
    """The gates of a batch: one list for each row, in the order of `guards_of` its steering."""

    rows: list[list[Gate]] = field(default_factory=list)
    events: list[list[tuple[str, tuple[int, ...]]]] = field(default_factory=list)
    is_stepwise: bool = False

    @classmethod
    def of(cls, steerings: Sequence[Steering], device: torch.device) -> "Gates":
        """Closed, for rows with these steerings."""
        rows = [[Gate(guard, device) for guard in guards_of(steering)] for steering in steerings]
        if not any(rows):
            return cls()
        events = [
            [(str(path[-1].event), gate_numbers(steering, path)) for path in steering.events] for steering in steerings
        ]
        return cls(rows, events, any(looks_back(steering) for steering in steerings))

    def __bool__(self) -> bool:
        return any(self.rows)

    def begin(self) -> None:
        """A new pass."""
        for gates in self.rows:
            for gate in gates:
                gate.begin()

    def look(self, layer: int, hidden: Tensor, span: Span) -> None:
        """Read one block's output `(batch, tokens, d_model)` before it is changed."""
        for row, gates in enumerate(self.rows):
            for gate in gates:
                if layer in gate.layers:
                    gate.look(layer, hidden[row], span, row)

    def mask(self, row: int, numbers: Sequence[int], layer: int, width: int) -> Tensor | bool:
        """Where all these gates let an act at `layer` through: `(tokens,)`, or one truth for the pass's only token."""
        found: Tensor | bool = True
        for number in numbers:
            gate = self.rows[row][number]
            above = gate.last_layer > layer
            if above and width > 1:
                raise RuntimeError("a condition above what it guards was run with several tokens in one pass")
            is_open = gate.before if above else gate.met
            if is_open is None:
                raise RuntimeError(f"layer {layer} acts before its condition was read")
            found = is_open & found
        return found

    def fired(self, row: int) -> tuple[str, ...]:
        """The events whose conditions the row's own latest token met."""
        if not self.events:
            return ()
        gates = self.rows[row]
        return tuple(name for name, path in self.events[row] if all(gates[number].is_fired for number in path))

    def take(self, rows: Sequence[int]) -> "Gates":
        """The gates of some rows, by index; a row may be taken several times."""
        if not self.rows:
            return self
        kept = [[gate.copy() for gate in self.rows[row]] for row in rows]
        return Gates(kept, [self.events[row] for row in rows], self.is_stepwise and any(kept))

    def joined(self, other: "Gates", rows: int, more: int) -> "Gates":
        """The gates of this batch's `rows` rows and of `other`'s `more` behind them."""
        if not self.rows and not other.rows:
            return self
        none: tuple[list[Any], list[Any]] = ([[] for _ in range(rows)], [[] for _ in range(more)])
        gates = [*(self.rows or none[0]), *(other.rows or none[1])]
        events = [*(self.events or none[0]), *(other.events or none[1])]
        return Gates(gates, events, self.is_stepwise or other.is_stepwise)


def gate_numbers(steering: Steering, guards: Sequence[When]) -> tuple[int, ...]:
    """Which gates of a row these guards are."""
    known = guards_of(steering)
    return tuple(next(number for number, one in enumerate(known) if one is guard) for guard in guards)
