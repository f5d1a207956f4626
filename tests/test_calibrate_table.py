"""A calibration on the terminal: what its table and its last lines say."""

import io
import shlex
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from steer_tasks.calibrate.cost import Cost
from steer_tasks.calibrate.limits import Bounded
from steer_tasks.calibrate.table import Use, cost_lines, edge_lines, point_line, show, trace_table, use_line
from steer_tasks.calibrate.trace import Point, Trace
from steer_tasks.listing import steering_text
from tests.tiny_backend import added


def bound(mean, lower, upper, missing=0):
    return Bounded(mean, lower, upper, 0.05, 57, missing)


def point(size, gain, loss, stopped=None, layer=3):
    budgets = {"margin": 0.1}
    return Point(
        layer, size, "f" * 16, 0.123456, gain, {"margin": loss}, budgets, stopped, 19 if stopped else 57, Cost()
    )


POINTS = (
    point(0.2, bound(0.4, 0.3, 0.5), bound(0.01, -0.02, 0.04)),
    point(0.4, bound(0.6, 0.5, 0.7, 2), bound(0.09, 0.05, 0.13)),
    point(0.8, None, bound(1.5, 1.2, 1.8), stopped="margin"),
)
TRACE = Trace(
    verdict="confirmed",
    method="caa",
    parameters={},
    behavior="funny",
    draw=0,
    size="dose",
    range=(0.2, 0.8),
    objective="llr",
    budgets={"margin": 0.1},
    level=0.95,
    power=0.8,
    seed=0,
    questions={},
    selecting={},
    confirming={},
    model={},
    protocol={},
    max_tokens=9,
    judge=None,
    rubrics={},
    missing_verdicts={"no_score": 3},
    points=POINTS,
    selected=0,
    confirmations=(POINTS[0],),
    chosen=0.2,
    cost=Cost(1234, 5, 67, 8, 9, 10),
    versions={},
    date="",
)


def printed(trace):
    out = io.StringIO()
    Console(file=out, width=200).print(trace_table(trace))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_every_trial_is_a_row_with_limits_and_remarks():
    """Layer, dose, KL, gain with its lower limit and loss with its upper one; what was selected, over, or given up."""
    lines = printed(TRACE)
    assert "select 3 0.2 0.1235 +0.4 (+0.3) +0.01 (+0.04) selected" in lines
    assert "select 3 0.4 0.1235 +0.6 (+0.5) 2 missing +0.09 (+0.13) over: margin" in lines
    assert "select 3 0.8 0.1235 – +1.5 (+1.8) given up: margin, 19 questions" in lines
    assert "confirm 3 0.2 0.1235 +0.4 (+0.3) +0.01 (+0.04) confirmed" in lines


def test_a_narrow_terminal_cuts_no_number(capsys, monkeypatch):
    """However few columns there are, every cell is printed whole."""
    monkeypatch.setenv("COLUMNS", "30")
    show(trace_table(TRACE))
    assert "given up: margin, 19 questions" in capsys.readouterr().out


def test_costs_and_missing_verdicts_are_said():
    """Trials, those given up, tokens by kind, answers out of the store, verdicts, and why some are missing."""
    cost, missing = cost_lines(TRACE)
    assert cost == (
        "cost: 4 trials, 1 of them given up early, and the control: 1,234 prompt, 5 generated and 67 scored tokens in "
        "8 requests, 9 more from the store, 10 verdicts"
    )
    assert missing == "missing verdicts, counted as the worst score: 3 no_score"


def test_a_trial_is_a_line_as_it_ends():
    """Half, dose, layer, KL, gain and loss; a trial that was given up says after how many questions."""
    assert point_line("selecting", POINTS[0], "dose") == (
        "selecting: dose 0.2 at layer 3, kl 0.1235, gain +0.4, margin +0.01 (+0.04)"
    )
    assert point_line("selecting", POINTS[2], "dose").endswith("margin +1.5 (+1.8); given up after 19 questions")


def test_the_commands_survive_a_shell():
    """A path with spaces is quoted, and a server's address is where each harness takes it."""
    line = use_line(
        Path("/a b/c.json"), Use("my model", served={"base_url": "http://x:1", "served_as": "its name"})
    ).removeprefix("use: ")
    lm_eval, inspect = (shlex.split(part) for part in line.split("; "))
    served = ["-M", "runner=vllm", "-M", "served_as=its name", "--model-base-url", "http://x:1"]
    assert lm_eval[lm_eval.index("--model_args") + 1] == (
        "pretrained=my model,runner=vllm,served_as=its name,base_url=http://x:1,steering=/a b/c.json"
    )
    assert inspect[4:] == ["hook_steered/my model", *served, "-T", "steering=/a b/c.json"]
    here = shlex.split(use_line(Path("/c.json"), Use("embedded")).rpartition("; ")[2])
    assert here[4:] == ["hook_steered/embedded", "-T", "steering=/c.json"]


def test_the_commands_open_the_model_that_was_calibrated():
    """The dtype and the revision that were given are in both commands; what wasn't given is in neither."""
    use = Use("hub/id", dtype="float32", revision="abc")
    lm_eval, inspect = (shlex.split(part) for part in use_line(Path("/c.json"), use).removeprefix("use: ").split("; "))
    arguments = lm_eval[lm_eval.index("--model_args") + 1]
    assert arguments == "pretrained=hub/id,dtype=float32,revision=abc,steering=/c.json"
    assert inspect[4:] == ["hook_steered/hub/id", "-M", "dtype=float32", "-M", "revision=abc", "-T", "steering=/c.json"]
    assert "-M" not in use_line(Path("/c.json"), Use("hub/id"))


def test_an_end_of_the_range_is_said():
    """What was selected at the largest size, or gains most at the least, is named with the option that goes beyond."""
    assert edge_lines(replace(TRACE, range=(0.1, 0.8))) == []
    assert edge_lines(replace(TRACE, range=(0.2, 0.2))) == []
    assert edge_lines(replace(TRACE, selected=None)) == []
    (above,) = edge_lines(replace(TRACE, range=(0.1, 0.2)))
    assert above == "note: dose 0.2 ends the range and keeps the budgets; --doses may end higher"
    (below,) = edge_lines(TRACE)
    assert below == "note: dose 0.2 begins the range and none above it serves better; --doses may begin lower"
    lost = replace(POINTS[0], gain=bound(-0.1, -0.2, 0.0))
    assert edge_lines(replace(TRACE, points=(lost,))) == []


def test_show_names_the_trace_and_counts_what_is_long():
    """`steer show` of a calibrated steering has its verdict and dose in a line, not every trial."""
    text = steering_text(added().described(calibration=TRACE.as_dict()))
    (line,) = [line for line in text.splitlines() if line.startswith("calibration")]
    assert "verdict=confirmed" in line
    assert "points=(3 entries)" in line
    assert "chosen=0.2" in line
    assert len(line) < 1000
