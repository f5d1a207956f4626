"""`steer run`: a grid through Inspect's `eval_set`, generation first, judging afterwards from the logs.

Generation is resumable: what a killed run finished is not asked again. A judge is bound only when the logs are
scored, so another judge, or another rubric, costs no generation. Imports inspect_ai inside functions.
"""

import argparse
import asyncio
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.answer_store import kept_in
from steer_tasks.grid import Cell, Grid, GridModel, load_grid
from steer_tasks.grid_estimate import estimate_text
from steer_tasks.grid_models import addressed, check_servers, model_folder
from steer_tasks.grid_results import cell_of, results_tables

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalLog

STAND_IN_JUDGE = "stand_in_judge/dry-run"


@dataclass(frozen=True)
class RunOptions:
    """How a grid is run. `judge` wins over the grid's; `limit` counts samples of each cell; `keeps` is whether answers
    come from the response store, and go into it."""

    log_dir: Path
    judge: str | None
    limit: int | None
    max_tasks: int
    retry_attempts: int
    display: str | None
    keeps: bool = True


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options of `steer run`."""
    parser.add_argument("grid", help="a grid's YAML file")
    parser.add_argument("--judge", help="an Inspect model that judges; wins over the grid's")
    where = "the vLLM server of models with args: {runner: vllm}; wins over the grid's, else VLLM_BASE_URL"
    parser.add_argument("--base-url", metavar="URL", help=where)
    parser.add_argument("--log-dir", help="where the logs go (default logs/<grid's name>)")
    parser.add_argument("--limit", type=int, help="only the first samples of each cell")
    parser.add_argument("--max-tasks", type=int, default=4, help="cells under way at once (default 4)")
    parser.add_argument("--retry-attempts", type=int, default=3, help="how often failed samples are tried again")
    parser.add_argument("--no-store", action="store_true", help="answer everything anew, and keep no answer")
    parser.add_argument("--display", help="Inspect's display: full, rich, plain, log, none")
    parser.add_argument(
        "--dry-run", action="store_true", help="run on a stand-in for models and judge, and print tokens and cost"
    )


def run(given: argparse.Namespace) -> None:
    """Run a grid. Raises SteerError for what can be known before anything is generated, and for cells that failed."""
    grid = load_grid(Path(given.grid).expanduser())
    if given.limit is not None and given.limit < 1:
        raise SteerError(f"--limit is {given.limit}; give at least 1")
    grid = addressed(grid, given.base_url, given.dry_run)
    log_dir = Path(given.log_dir or Path("logs") / grid.name)
    options = RunOptions(
        log_dir,
        given.judge or grid.judge,
        given.limit,
        given.max_tasks,
        given.retry_attempts,
        given.display,
        keeps=not given.no_store and not given.dry_run,
    )
    with said_once("steer_tasks.questions"):
        tasks = tasks_of(grid, options.keeps)
        if given.dry_run:
            dry_run(grid, tasks, options)
            return
    if grid.judged and options.judge is None:
        raise SteerError(f"grid {grid.name} asks for judged scores and names no judge; add --judge PROVIDER/MODEL")
    check_servers(grid, options.log_dir)
    if options.judge is not None:
        check_judge_up_front(options.judge, [model.name for model in grid.models])
    else:
        print(
            "no judge, so no score for behavior and coherence; run the same command again with --judge PROVIDER/MODEL"
        )
    logs = generated(grid, tasks, options)
    if options.judge is not None:
        logs = [judge_log(log, options.judge, grid.rubrics, options.display) for log in logs]
    for table in results_tables(grid, logs):
        Console().print(table)
    print(f"means; in brackets the number of scored samples where some are missing; logs in {options.log_dir}")
    failed = [log for log in logs if log.status != "success"]
    if failed:
        reason = failed[0].error.message.splitlines()[-1] if failed[0].error else failed[0].status
        raise SteerError(f"{len(failed)} of {len(logs)} cells didn't finish ({reason}); run the same command again")


@contextmanager
def said_once(logger: str) -> Iterator[None]:
    """A logger's lines are shown once each, however many cells cause them."""
    shown: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        before = len(shown)
        shown.add(record.getMessage())
        return len(shown) > before

    logging.getLogger(logger).addFilter(is_new)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(is_new)


def tasks_of(grid: Grid, keeps: bool = True) -> dict[str, list[tuple[Cell, "Task"]]]:
    """The grid's tasks by model, each made once, so that everything that needs no weights is checked."""
    from steer_tasks.behavior import behavior

    found: dict[str, list[tuple[Cell, Task]]] = {model.name: [] for model in grid.models}
    for position, cell in enumerate(grid.cells()):
        try:
            task = behavior(**cell.arguments)
        except SteerError as problem:
            raise SteerError(f"grid {grid.name}, arm {cell.name!r}: {problem}") from problem
        found[cell.model.name].append((cell, _in_grid(task, grid.name, position, cell, keeps)))
    return found


def _in_grid(task: "Task", grid: str, position: int, cell: Cell, keeps: bool) -> "Task":
    """The task with its place in the grid, whose `position` a report orders the logs by: Inspect names the logs of one
    second in no order.

    The response store doesn't see the models of `prompt_steered`, which Inspect asks itself, so their greedy answers
    are left to Inspect's cache: it keeps them by messages, sampling and the spec, in which run identity and sample
    index are.
    """
    from inspect_ai.model import CachePolicy

    place = {"name": grid, "position": position, "cell": cell.name, "arm": cell.arm, "swept": dict(cell.swept)}
    task.metadata = {**(task.metadata or {}), "grid": place}
    if keeps and cell.model.name.startswith("prompt_steered/") and not task.config.temperature:
        task.config.cache = CachePolicy(expiry=None)
    return task


def generated(grid: Grid, tasks: Mapping[str, Sequence[tuple[Cell, "Task"]]], options: RunOptions) -> list["EvalLog"]:
    """The logs of all cells, with answers out of the response store and into it."""
    from model_adapters.backends.response_store import ResponseStore

    store = ResponseStore() if options.keeps else None
    with kept_in(store):
        logs = generate(grid, tasks, options)
    if store is not None and store.found:
        print(f"{store.found} answers and scores came from the store {store.folder}, {store.missing} were asked for")
    return logs


def generate(grid: Grid, tasks: Mapping[str, Sequence[tuple[Cell, "Task"]]], options: RunOptions) -> list["EvalLog"]:
    """Generate all cells, model by model, each model's in a folder of its own; logs in the order of the cells."""
    from model_adapters.harnesses.inspect import unload

    logs: list[EvalLog] = []
    for model in grid.models:
        if made := [task for _, task in tasks[model.name]]:
            logs += _eval_set(made, model, options)
            # The next model needs the room.
            asyncio.run(unload())
    return logs


def _eval_set(tasks: list["Task"], model: GridModel, options: RunOptions) -> list["EvalLog"]:
    from inspect_ai import eval_set

    display: dict[str, Any] = {"display": options.display} if options.display else {}
    _, logs = eval_set(
        tasks,
        log_dir=str(model_folder(options.log_dir, model)),
        model=model.name,
        model_base_url=model.base_url,
        model_args=dict(model.args),
        limit=options.limit,
        max_tasks=options.max_tasks,
        retry_attempts=options.retry_attempts,
        retry_on_error=1,
        continue_on_fail=True,
        fail_on_error=0.02,
        log_dir_allow_dirty=True,
        **display,
    )
    by_cell = {cell_of(log): log for log in logs}
    ordered = [by_cell[name] for task in tasks if (name := (task.metadata or {})["grid"]["cell"]) in by_cell]
    return ordered or list(logs)


def check_judge_up_front(judge: str, models: Sequence[str]) -> None:
    """Ask the judge about one fixed answer. Raises SteerError where it is a model under test, can't be reached, or
    can't be read even when asked twice."""
    from steer_tasks.grading import check_judge

    if judge in models:
        raise Refused(f"the judge {judge} is a model under test; name another with --judge PROVIDER/MODEL")
    asyncio.run(check_judge(judge))


def judge_log(log: "EvalLog", judge: str, rubrics: str | None, display: str | None = None) -> "EvalLog":
    """A log with the judge's scores appended and written back; as it is where this judge scored it by this rubric."""
    from inspect_ai import score
    from inspect_ai.log import read_eval_log, write_eval_log
    from inspect_ai.model import get_model

    from steer_tasks.scorers import behavior, coherence
    from steer_tasks.study import rubrics_of

    whole = read_eval_log(log.location) if log.samples is None else log
    if whole.status != "success" or is_judged(whole, judge, rubrics_of(rubrics).coherence.digest):
        return whole
    scored = score(
        whole,
        [behavior(judge, rubrics), coherence(judge, rubrics)],
        action="append",
        model_roles={"grader": get_model(judge)},
        display=display,  # type: ignore[arg-type]
        copy=False,
    )
    write_eval_log(scored, log.location)
    return scored


def is_judged(log: "EvalLog", judge: str, rubric: str) -> bool:
    """Whether every sample has a verdict, or a missing one with its reason, of this judge by this coherence rubric."""
    found = [
        any((about := score.metadata or {}).get("judge") == judge and about.get("rubric") == rubric for score in scores)
        for scores in ((sample.scores or {}).values() for sample in log.samples or [])
    ]
    return bool(found) and all(found)


def dry_run(grid: Grid, tasks: Mapping[str, Sequence[tuple[Cell, "Task"]]], options: RunOptions) -> None:
    """The grid on stand-ins: every sample, message, preparation and score, in a folder that is thrown away.

    Prints what the real run would ask for, in tokens and, where the grid has prices, in dollars.
    """
    print(estimate_text(grid, tasks, options.limit), flush=True)
    stand_ins = {model.name: GridModel(f"stand_in_steered/{model.name}") for model in grid.models}
    limit = options.limit or 28
    with tempfile.TemporaryDirectory() as folder:
        tried = replace(options, log_dir=Path(folder), limit=limit, judge=STAND_IN_JUDGE, retry_attempts=1)
        logs: list[EvalLog] = []
        for name, stand_in in stand_ins.items():
            if made := [_without_dictionary(cell) for cell, _ in tasks[name]]:
                logs += _eval_set(made, stand_in, tried)
        logs = [judge_log(log, STAND_IN_JUDGE, grid.rubrics, options.display) for log in logs]
        done = sum(log.status == "success" for log in logs)
        samples = sum(len(log.samples or []) for log in logs)
    print(f"dry run: {done} of {len(logs)} cells ran on the stand-in, {samples} samples, at most {limit} a cell")
    if done < len(logs):
        failed = next(log for log in logs if log.status != "success")
        reason = failed.error.message.splitlines()[-1] if failed.error else failed.status
        raise SteerError(f"the dry run of {cell_of(failed)!r} failed: {reason}")


def _without_dictionary(cell: Cell) -> "Task":
    """The cell's task as the stand-in runs it: it suggests edits itself, and has no dictionary."""
    from steer_tasks.behavior import behavior

    task = behavior(**{**cell.arguments, "dictionary": None, "reference_model": None})
    return _in_grid(task, "dry run", 0, cell, keeps=False)
