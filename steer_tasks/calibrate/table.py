"""A calibration on a terminal. rich is imported when a table is made."""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steer_tasks.calibrate.limits import Bounded
from steer_tasks.calibrate.trace import Point, Trace
from steer_tasks.runner import served_by

if TYPE_CHECKING:
    from rich.table import Table


def point_line(half: str, point: Point, size: str) -> str:
    """One trial in a line, as it ends."""
    said = [f"{half}: {_where(point, size)}"]
    said += [f"kl {point.kl:.4g}"] if point.kl is not None else []
    if point.gain is not None and point.gain.mean is not None:
        said.append(f"gain {point.gain.mean:+.4g}")
    said += [f"{name} {_loss(point, name)}" for name in point.budgets]
    return ", ".join(said) + (f"; given up after {point.asked} questions" if point.stopped else "")


def trace_table(trace: Trace) -> "Table":
    """Every trial: size, KL, gain with its lower limit, each loss with its upper limit; the confirming half last."""
    from rich import box
    from rich.table import Table

    title = f"{trace.method} towards {trace.behavior}: gain in {trace.objective}, losses with their upper limits"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("half", "layer", trace.size, "KL"):
        table.add_column(name, justify="left" if name == "half" else "right", no_wrap=True)
    table.add_column(f"{trace.objective} (≥)", justify="right", no_wrap=True)
    for name, budget in trace.budgets.items():
        table.add_column(f"{name} (≤ {budget:g})", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for place, point in enumerate(trace.points):
        table.add_row(*_row("select", point), "selected" if place == trace.selected else _remark(point))
    for point in trace.confirmations:
        is_chosen = point.size == trace.chosen
        table.add_row(*_row("confirm", point), trace.verdict if is_chosen else _remark(point), style="bold")
    return table


def _row(half: str, point: Point) -> list[str]:
    layer = "" if point.layer is None else str(point.layer)
    return [half, layer, f"{point.size:.4g}", "" if point.kl is None else f"{point.kl:.4g}", _gain(point.gain)] + [
        _loss(point, name) for name in point.budgets
    ]


def _gain(gain: Bounded | None) -> str:
    if gain is None or gain.mean is None:
        return "–"
    low = "?" if gain.lower is None else f"{gain.lower:+.3g}"
    return f"{gain.mean:+.3g} ({low}){_missing(gain)}"


def _loss(point: Point, name: str) -> str:
    found = point.losses.get(name)
    if found is None or found.mean is None:
        return "–"
    high = "?" if found.upper is None else f"{found.upper:+.3g}"
    return f"{found.mean:+.3g} ({high}){_missing(found)}"


def _missing(found: Bounded) -> str:
    return f" {found.missing} missing" if found.missing else ""


def _remark(point: Point) -> str:
    if point.stopped:
        return f"given up: {point.stopped}, {point.asked} questions"
    return f"over: {', '.join(point.over)}" if point.over else ""


def _where(point: Point, size: str) -> str:
    return f"{size} {point.size:.4g}" + ("" if point.layer is None else f" at layer {point.layer}")


def cost_lines(trace: Trace) -> list[str]:
    """What it cost, and which verdicts are missing."""
    stopped = sum(point.stopped is not None for point in trace.points)
    evaluations = len(trace.points) + len(trace.confirmations)
    given_up = f", {stopped} of them given up early," if stopped else ""
    lines = [f"cost: {evaluations} trials{given_up} and the control: {trace.cost.text()}"]
    if trace.missing_verdicts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in trace.missing_verdicts.items())
        lines.append(f"missing verdicts, counted as the worst score: {reasons}")
    return lines


def edge_lines(trace: Trace) -> list[str]:
    """A line where what was selected lies at an end of the range, so that more may be gained beyond; else none."""
    low, high = trace.range
    if trace.selected is None or low == high:
        return []
    best = trace.points[trace.selected]
    if best.size == high:
        return [f"note: {trace.size} {high:g} ends the range and keeps the budgets; --doses may end higher"]
    if best.size == low and (best.objective or 0.0) > 0:
        return [f"note: {trace.size} {low:g} begins the range and none above it serves better; --doses may begin lower"]
    return []


@dataclass(frozen=True)
class Use:
    """The model that was calibrated, as both harnesses are told it. `served` is empty without a server."""

    model: str
    dtype: str | None = None
    revision: str | None = None
    served: Mapping[str, str] = field(default_factory=dict)
    """A vLLM server's arguments as lm-eval calls them, its address first."""

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Use":
        """As the command line names it."""
        return cls(given.model, given.dtype, given.revision, served_by(given))

    @property
    def arguments(self) -> dict[str, str]:
        """What both harnesses take under one name, as far as it was given; the address, which they don't, left out."""
        opened = {"dtype": self.dtype, "revision": self.revision}
        served = {"runner": "vllm", **self.served} if self.served else {}
        return {name: value for name, value in {**opened, **served}.items() if value is not None and name != "base_url"}


def closing_lines(trace: Trace, path: Path, use: Use) -> list[str]:
    """The last two lines of a confirmed calibration: what was chosen, and how to run it in both harnesses."""
    (point,) = (one for one in trace.confirmations if one.size == trace.chosen)
    return [f"chosen: {_where(point, trace.size)}, confirmed; {path}", use_line(path, use)]


def use_line(path: Path, use: Use) -> str:
    """Two commands that run a steering's file, on questions that calibration never saw."""
    named = [f"{name}={value}" for name, value in use.arguments.items()]
    address = use.served.get("base_url")
    server = [f"base_url={address}"] if address else []
    hook = shlex.quote(",".join([f"pretrained={use.model}", *named, *server, f"steering={path}"]))
    words = [f"hook_steered/{use.model}", *(word for one in named for word in ("-M", one))]
    words += ["--model-base-url", address] if address else []
    words += ["-T", f"steering={path}"]
    return (
        f"use: lm_eval --model hook_steered --model_args {hook} --tasks mmlu_171_mc; "
        f"inspect eval steer_tasks/behavior --model {shlex.join(words)}"
    )


def show(table: "Table") -> None:
    """Print a table whole, however narrow the terminal: a cut number is worth nothing."""
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    width = max(console.width, Measurement.get(console, console.options.update(width=500), table).maximum)
    Console(width=width).print(table)


def match_table(rows: Sequence[Sequence[str]], target: float) -> "Table":
    """Methods at one KL: method, layers, size, KL, trials, fingerprint."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"at KL {target:.4g} nats/token", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("method", "layers", "size", "KL", "trials", "fingerprint"):
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
