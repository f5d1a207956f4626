"""A grid's models before anything is generated: where their servers are, and whether they can run the grid's arms.

Imports inspect_ai inside functions.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from model_adapters.errors import Refused, SteerError
from steer_tasks.grid import Cell, Grid, GridModel
from steer_tasks.grid_results import cell_of

HOOK = "hook_steered/"
ANYWHERE = "http://127.0.0.1"
"""For a dry run, which asks no server and needs none to be named."""


def is_served(model: GridModel) -> bool:
    """Whether a vLLM server runs it."""
    return model.name.startswith(HOOK) and model.args.get("runner") == "vllm"


def addressed(grid: Grid, base_url: str | None, is_dry: bool = False) -> Grid:
    """The grid with an address for each model on a vLLM server: the option's, else the entry's, else the environment's.

    Raises SteerError for arguments that a model's runner doesn't take, for a server without an address unless the run
    `is_dry`, and for an option that no model takes.
    """
    if base_url is not None and not any(map(is_served, grid.models)):
        raise SteerError(f"grid {grid.name} has no model with args: {{runner: vllm}}; add it, or leave --base-url out")
    return replace(grid, models=tuple(_addressed(grid.name, model, base_url, is_dry) for model in grid.models))


def _addressed(grid: str, model: GridModel, base_url: str | None, is_dry: bool) -> GridModel:
    from model_adapters.backends.vllm.address import ADDRESS, server_address
    from model_adapters.harnesses.inspect_arguments import hook_opening

    where = f"grid {grid}, model {model.name}"
    if "base_url" in model.args:
        raise SteerError(f"{where}: base_url is a key beside name and args, not one of args; move it there")
    if is_served(model):
        address = server_address(base_url or model.base_url) or (ANYWHERE if is_dry else None)
        if address is None:
            raise SteerError(f"{where} runs on a vLLM server; give --base-url http://HOST:PORT, base_url, or {ADDRESS}")
        model = replace(model, base_url=address)
    if model.name.startswith(HOOK):
        try:
            hook_opening({name: value for name, value in model.args.items() if name != "store"}, model.base_url)
        except SteerError as problem:
            raise SteerError(f"{where}: {problem}") from None
    return model


def check_servers(grid: Grid, log_dir: Path) -> None:
    """Open and probe every vLLM server whose cells are not all finished in `log_dir`, and ask it what it refuses.

    Raises SteerError, naming model and arm, for what can't run there.
    """
    for model in filter(is_served, grid.models):
        cells = [cell for cell in grid.cells() if cell.model.name == model.name]
        if {cell.name for cell in cells} - finished_cells(model_folder(log_dir, model)):
            try:
                asyncio.run(_check_server(model, cells))
            except SteerError as problem:
                raise SteerError(f"grid {grid.name}, model {model.name}: {problem}") from problem


def model_folder(log_dir: Path, model: GridModel) -> Path:
    """Where a model's logs are."""
    return log_dir / model.name.replace("/", "_")


def finished_cells(folder: Path) -> set[str]:
    """The names of the cells that have a log of success in a folder."""
    from inspect_ai.log import list_eval_logs, read_eval_log

    if not folder.is_dir():
        return set()
    logs = [read_eval_log(info, header_only=True) for info in list_eval_logs(str(folder))]
    return {cell_of(log) for log in logs if log.status == "success"}


async def _check_server(model: GridModel, cells: Sequence[Cell]) -> None:
    from inspect_ai.model import get_model

    from steer_tasks.solvers import steered_api

    # The server stays open for the evaluation, which finds it probed.
    api = steered_api(get_model(model.name, base_url=model.base_url, memoize=False, **model.args))
    backend: Any = await api.backend()
    try:
        for cell in cells:
            try:
                _check_cell(cell.arguments, backend)
            except SteerError as problem:
                raise Refused(f"arm {cell.name!r}: {problem}") from problem
    finally:
        await backend.aclose()  # the connections of this loop


def _check_cell(arguments: Mapping[str, Any], backend: Any) -> None:
    """Raise SteerError for layers, widths and a frozen steering's interventions that the server doesn't take."""
    from steer_tasks.arm_parameters import ArmRequest
    from steer_tasks.protocols import load_protocol

    request = ArmRequest(**{one.name: arguments[one.name] for one in fields(ArmRequest)})
    arm = request.arm(load_protocol(arguments["protocol"]))
    arm.check_shape(lambda: (backend.n_layers, backend.d_model))
    frozen = arm.frozen()
    if frozen is None or frozen.needs_dictionary:
        return
    if reasons := backend.refusals(frozen):
        raise Refused("; ".join(reasons))
