"""Grids: what a YAML file becomes, and what is refused by name."""

from pathlib import Path

import pytest
import yaml

from model_adapters.behavior import behavior_slugs
from model_adapters.errors import SteerError
from steer_tasks.arm_parameters import ArmRequest
from steer_tasks.cli import main
from steer_tasks.grid import load_grid
from steer_tasks.run import tasks_of

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.yaml"))
SMALL = {
    "name": "small",
    "models": ["stand_in_steered/a", {"name": "stand_in_steered/b", "arm": {"dictionary": "demo"}}],
    "protocols": ["isolated", "as_run"],
    "behaviors": ["funny", "concise"],
    "questions_per_behavior": 2,
    "arms": [
        {"name": "control", "method": "control"},
        {"name": "auto", "method": "auto_steer", "draws": [0, 1]},
        {"name": "caa", "method": "caa", "sweep": {"dose": [0.1, 0.2]}, "protocols": ["isolated"]},
        {"name": "b only", "method": "prompt", "models": ["stand_in_steered/b"]},
    ],
}


@pytest.fixture
def written(tmp_path):
    """Writes a grid with changes made to `SMALL`; gives its path."""

    def write(**changes):
        path = tmp_path / "grid.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}))
        return path

    return write


def test_cells_are_models_protocols_arms_draws_and_values(written):
    """Every combination is one cell with a name of its own; arms may be kept to some models and protocols."""
    cells = load_grid(written()).cells()
    assert [cell.name for cell in cells if cell.model.name.endswith("a")] == [
        "control isolated",
        "auto draw=0 isolated",
        "auto draw=1 isolated",
        "caa dose=0.1 isolated",
        "caa dose=0.2 isolated",
        "control as_run",
        "auto draw=0 as_run",
        "auto draw=1 as_run",
    ]
    assert sum(cell.arm == "b only" for cell in cells) == 2


def test_a_cell_has_every_argument_of_its_task(written):
    """Defaults are written out, so that Inspect knows a cell again whatever a later default is."""
    cells = load_grid(written()).cells()
    names = set(ArmRequest.__dataclass_fields__)
    for cell in cells:
        others = {"questions", "questions_per_behavior", "protocol", "judge", "rubrics", "reference_model"}
        assert set(cell.arguments) == names | others
        assert cell.arguments["behavior"] == ["funny", "concise"]
        assert cell.arguments["judge"] is None


def test_a_models_arguments_reach_the_arms_that_take_them(written):
    """A dictionary named with a model goes to methods that choose features, and to no other."""
    cells = [cell for cell in load_grid(written()).cells() if cell.model.name.endswith("b")]
    with_dictionary = {cell.arm for cell in cells if cell.arguments["dictionary"] == "demo"}
    assert with_dictionary == {"auto"}


def test_all_means_the_studys_behaviors(written):
    """`all` is written out as the 14 slugs."""
    assert load_grid(written(behaviors="all")).behaviors == behavior_slugs()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": []}, "arms are empty"),
        ({"models": []}, "models are empty"),
        ({"arms": [{"method": "prompt"}]}, "has no name"),
        ({"arms": [{"name": "a", "metod": "prompt"}]}, "unknown key 'metod'"),
        ({"arms": [{"name": "a", "draws": [-1]}]}, "draws is -1"),
        ({"arms": [{"name": "a", "draw": 1, "draws": [0]}]}, "both draw and draws"),
        ({"arms": [{"name": "a", "method": "caa", "sweep": {"dose": 0.1}}]}, "give a list of values"),
        ({"arms": [{"name": "a", "method": "caa", "sweep": {"size": [1]}}]}, "unknown key 'size'"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "two arms are called 'a isolated'"),
        ({"arms": [{"name": "a", "models": ["x"]}]}, "has 'x' among its models"),
        ({"behaviors": ["fuzzy"]}, "fuzzy"),
        ({"questions": "gsm8k"}, "give mmlu_171, mmlu_114, open_ended"),
        ({"questions_per_behavior": -1}, "whole number from 0"),
        ({"judges": "x"}, "unknown key 'judges'"),
        ({"estimate": {"judge_price": [1]}}, r"give \[input, output\]"),
        ({"estimate": {"tokens": 3}}, "unknown key 'tokens'"),
        ({"name": 3}, "'name' is missing or not a str"),
        ({"models": [{"nom": "x"}]}, "unknown key 'nom'"),
    ],
)
def test_a_faulty_grid_is_refused_by_name(written, changes, said):
    """A missing, unknown or mistyped key is one line with the file's name and the key's."""
    with pytest.raises(SteerError, match=said) as caught:
        load_grid(written(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("mmlu")
def test_what_a_method_refuses_names_the_arm(written):
    """A cell whose method has no such parameter is refused before anything runs, the arm named."""
    grid = load_grid(written(arms=[{"name": "bad", "method": "prompt", "layer": 3}]))
    with pytest.raises(SteerError, match=r"arm 'bad isolated': .*no parameter 'layer'"):
        tasks_of(grid)


@pytest.mark.usefixtures("mmlu")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_ready_grids_are_whole(path):
    """Every grid in `examples/` makes tasks, and all arms of one grid have the same samples in the same order."""
    grid = load_grid(path)
    assert grid.name == path.stem
    made = [task for tasks in tasks_of(grid).values() for _, task in tasks]
    ids = [[sample.id for sample in task.dataset] for task in made]
    assert ids[0]
    assert all(one == ids[0] for one in ids)


@pytest.mark.usefixtures("mmlu")
@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_ready_grids_run_dry(path, capsys, tmp_path, monkeypatch):
    """Every grid in `examples/` runs whole on the stand-in, judged, and prints requests and tokens."""
    monkeypatch.setenv("STEER_TASKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INSPECT_CACHE_DIR", str(tmp_path / "inspect"))
    assert main(["run", str(path), "--dry-run", "--limit", "4", "--display", "none"]) == 0
    printed = capsys.readouterr().out
    cells = len(load_grid(path).cells())
    assert f"{cells} cells" in printed
    assert f"dry run: {cells} of {cells} cells ran on the stand-in, {4 * cells} samples" in " ".join(printed.split())
    assert "M tokens in" in printed


def test_the_command_refuses_in_one_line(tmp_path, capsys, written):
    """A missing grid, a broken one and a senseless limit end with exit code 2 and one line."""
    for changes, words, said in (
        ({"arms": []}, [], "arms are empty"),
        ({}, ["--limit", "0"], "give at least 1"),
        ({"judged": True}, [], "names no judge; add --judge"),
    ):
        assert main(["run", str(written(**changes)), *words]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert printed.count("\n") == 1
