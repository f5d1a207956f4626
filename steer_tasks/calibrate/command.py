"""`steer calibrate`: what its options run. Light: everything else is imported when it runs."""

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from model_adapters.errors import SteerError
from steer_tasks.calibrate.arguments import check_shape, dictionary_of, named_methods, sizes_of, whole_numbers, writable
from steer_tasks.calibrate.opening import check_runner, opened
from steer_tasks.calibrate.unconfirmed import Unconfirmed
from steer_tasks.runner import served_by

if TYPE_CHECKING:
    from model_adapters.steering import Steering
    from steer_tasks.calibrate.plan import Plan
    from steer_tasks.calibrate.trace import Point, Trace


def calibrate(given: argparse.Namespace) -> None:
    """Calibrate, or match KL. Raises SteerError for what can't be done, Unconfirmed for what was done in vain."""
    if given.match is not None:
        from steer_tasks.calibrate.matching import run_match

        run_match(given)
        return
    if given.budget is None:
        raise SteerError("give --budget, such as --budget margin:0.05, or --match kl:FILE")
    if len(given.method) > 1:
        raise SteerError("--method is given twice; several are for --match, calibrate them one by one")
    _calibrate(given)


def _calibrate(given: argparse.Namespace) -> None:
    from steer_tasks.calibrate.calibration import Calibration
    from steer_tasks.calibrate.judging import open_judge
    from steer_tasks.calibrate.table import point_line

    plan = _plan(given)
    out, dictionary = writable(given.out), dictionary_of(given.dictionary)
    check_shape(given, [one for one in plan.layers if one is not None])

    def tell(half: str, point: "Point") -> None:
        print(point_line(half, point, plan.method.size), file=sys.stderr, flush=True)

    with asyncio.Runner() as runner:
        judging = runner.run(open_judge(plan.judge, plan.behavior)) if plan.judge else None
        with opened(given, runner) as model:
            trace, steering = Calibration(plan, model, runner.run, judging, dictionary, tell).calibrated()
    _report(trace, steering, out or default_out(trace), given)


def _plan(given: argparse.Namespace) -> "Plan":
    """What the options ask for, checked as far as it can be without a model."""
    from model_adapters.behavior import find_behavior
    from steer_tasks.calibrate.judging import check_judge_name
    from steer_tasks.calibrate.outcomes import chosen_objective, parse_budgets
    from steer_tasks.calibrate.plan import make_plan

    budgets = parse_budgets(given.budget)
    check_runner(given, "kl" in budgets)
    if not given.behavior:
        raise SteerError("give --behavior; `steer behaviors` lists them, other text works too")
    if given.judge:
        check_judge_name(given.judge, [given.model])
    (method,) = named_methods(given.method, given.parameters)
    return make_plan(
        method,
        find_behavior(given.behavior),
        chosen_objective(given.objective, given.judge),
        budgets,
        judge=given.judge,
        layers=whole_numbers(given.layers),
        sizes=sizes_of(given.doses),
        draw=given.draw,
        seed=given.seed,
        questions=given.questions,
        max_tokens=given.max_tokens,
    )


def _report(trace: "Trace", steering: "Steering | None", path: Path, given: argparse.Namespace) -> None:
    """Write the trace and, where it is confirmed, the steering, and say what was found. Raises Unconfirmed."""
    from model_adapters.steering_file import save_steering, write_whole
    from steer_tasks.calibrate.table import closing_lines, cost_lines, show, trace_table

    beside = path.with_suffix(".trace.json")
    write_whole(beside, (json.dumps(trace.as_dict(), indent=2, ensure_ascii=False) + "\n").encode())
    show(trace_table(trace))
    print("\n".join([*cost_lines(trace), f"trace: {beside}"]))
    if steering is None:
        left = f"; {path} is of an earlier run and stays as it was" if path.exists() else ""
        raise Unconfirmed(f"{FAILED[trace.verdict]}; no steering is written{left}")
    save_steering(steering, path)
    print("\n".join(closing_lines(trace, path, given.model, served_by(given))))


FAILED: Mapping[str, str] = {
    "nothing within budget": "no size keeps the budgets on the selecting half; widen them, or begin lower with --doses",
    "over budget": "not confirmed: on the confirming half even the smallest size has a loss whose upper limit is over "
    "its budget; widen the budget, or ask more questions (trying --seed after --seed until one fits proves nothing)",
    "no gain": "not confirmed: on the confirming half the gain's lower limit isn't above zero, so what the budgets "
    "allow buys nothing that can be told from chance",
}
"""What a verdict other than `confirmed` means."""


def default_out(trace: "Trace") -> Path:
    """A file in the cache folder, named by what was calibrated and a digest of how it went."""
    from model_adapters.cache import cache_folder
    from model_adapters.identity import digest

    return cache_folder("calibrations") / f"{trace.method}-{trace.behavior}-{digest(trace.as_dict())}.json"
