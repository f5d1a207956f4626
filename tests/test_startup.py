"""The start-up hook: what a Python start costs, what lm-eval sees, and that nothing of it can break lm-eval."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from steer_tasks import _lm_eval_patch

ROOT = Path(__file__).resolve().parent.parent
STARTUP = ROOT / "startup"
OURS = {"goodfire_steered", "hook_steered", "prompt_steered"}


@pytest.fixture
def python(tmp_path):
    """Run code in a fresh interpreter that has our three files in a folder of start-up files, as after an install.

    `-S` keeps the environment's own start-up files out (ours may be installed there), so the folders of the path are
    given by hand; `site.addsitedir` reads the `.pth` file as Python itself does.
    """
    site = tmp_path / "site"
    shutil.copytree(STARTUP, site)
    places = [path for path in sys.path if path and Path(path).resolve() not in (ROOT, ROOT / "tests")]

    def run(code, *, first=(ROOT,), switch=None, start_up=True):
        begin = f"import site; site.addsitedir({str(site)!r})\n" if start_up else f"sys.path.append({str(site)!r})\n"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*first, *places]))}
        environment.pop("STEER_TASKS_AUTOLOAD", None)
        if switch is not None:
            environment["STEER_TASKS_AUTOLOAD"] = switch
        done = subprocess.run(
            [sys.executable, "-S", "-c", f"import json, os, sys\n{begin}{code}"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done

    return run


def answer(done):
    return json.loads(done.stdout.splitlines()[-1])


MODELS = (
    "import lm_eval.models; from lm_eval.api.registry import model_registry\n"
    "print(json.dumps(sorted(model_registry.keys())))"
)


def test_a_python_start_imports_one_module_of_ours(python):
    """At the start of Python the hook imports itself and nothing else: no package of ours, no host, no torch."""
    code = (
        "before = set(sys.modules); import _steer_autoload; _steer_autoload.install()\n"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert answer(python(code, start_up=False)) == ["_steer_autoload"]
    loaded = answer(python("print(json.dumps(sorted(sys.modules)))"))
    assert "_steer_autoload" in loaded
    assert {name.split(".")[0] for name in loaded} & {
        "steer_tasks", "model_adapters", "judges", "lm_eval", "inspect_ai", "torch", "importlib.metadata",
    } == set()  # fmt: skip


def test_the_start_up_file_is_one_plain_line():
    """The `.pth` file is one readable import line, and the `.start` file names the same function."""
    assert (STARTUP / "steer_autoload.pth").read_text() == "import _steer_autoload; _steer_autoload.install()\n"
    assert (STARTUP / "steer_autoload.start").read_text() == "_steer_autoload:install\n"


def test_lm_eval_knows_our_models_beside_its_own(python):
    """After a plain start, lm-eval's registry holds our models and every model of its own."""
    with_us, without = set(answer(python(MODELS))), set(answer(python(MODELS, start_up=False)))
    assert with_us == without | OURS
    assert {"hf", "dummy", "local-chat-completions"} <= without
    assert OURS & without == set()


def test_listing_models_imports_no_model(python):
    """Being registered costs lm-eval no import of torch, transformers or our adapter."""
    loaded = answer(python("import lm_eval.models; print(json.dumps(sorted(sys.modules)))"))
    assert "steer_tasks._lm_eval_patch" in loaded
    assert set(loaded) & {"torch", "transformers", "model_adapters.harnesses.lm_eval"} == set()


def test_task_manager_sees_our_folder(python):
    """lm-eval's own TaskManager, made without an argument, holds the tasks of our folder and its own."""
    code = (
        "from lm_eval.tasks import TaskManager; m = TaskManager()\n"
        "print(json.dumps([m.include_path, 'hellaswag' in m.all_tasks, 'mmlu_171' in m.all_tasks]))"
    )
    assert answer(python(code)) == [None, True, True]


def test_the_switch_turns_it_off(python):
    """With `STEER_TASKS_AUTOLOAD=0` lm-eval is left as it is; any other value leaves the hook on."""
    assert OURS & set(answer(python(MODELS, switch="0"))) == set()
    assert set(answer(python(MODELS, switch="1"))) >= OURS


def test_who_asks_by_name_is_served_whatever_the_switch_says(python):
    """`install(always=True)`, which our own command calls, registers even with the switch at 0, and only once."""
    again = "import _steer_autoload as h; h.install(always=True); h.install(always=True); h.install()\n"
    count = "; print(json.dumps(sum(f is h.Finder for f in sys.meta_path)))"
    assert set(answer(python(again + MODELS, switch="0", start_up=False))) >= OURS
    assert answer(python(again + "pass" + count, switch="0", start_up=False)) == 1


def test_it_serves_an_lm_eval_that_was_imported_before(python):
    """In a notebook that imported lm-eval first, `install()` registers at once."""
    code = "import lm_eval.models, lm_eval.tasks\nimport _steer_autoload; _steer_autoload.install()\n" + MODELS
    done = python(code + "\nprint(json.dumps(lm_eval.tasks.TaskManager.__init__._steer_tasks))", start_up=False)
    assert answer(done) is True
    assert set(json.loads(done.stdout.splitlines()[-2])) >= OURS


def test_a_broken_package_of_ours_does_not_break_lm_eval(python, tmp_path):
    """If our package can't be imported, lm-eval works as without us, and one warning says why and how to silence it."""
    broken = tmp_path / "broken" / "steer_tasks"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('half an upgrade')\n")
    done = python(MODELS, first=(broken.parent,))
    assert "hf" in answer(done)
    assert OURS & set(answer(done)) == set()
    assert "RuntimeError: half an upgrade" in done.stderr
    assert "STEER_TASKS_AUTOLOAD=0" in done.stderr


def test_a_missing_lm_eval_stays_missing(python):
    """Without lm-eval an import of it fails as always: the hook invents nothing."""
    code = (
        "import _steer_autoload as h\n"
        "sys.path[:] = []; sys.path_importer_cache.clear()\n"
        "print(json.dumps([h.Finder.find_spec('lm_eval.models'), h.Finder.find_spec('json')]))"
    )
    assert answer(python(code)) == [None, None]


def test_a_model_name_of_somebody_else_stays_theirs(monkeypatch):
    """A model name that another package holds isn't taken or renamed; a warning names the holder."""
    import lm_eval.api.registry as registry

    other = registry.Registry("model")
    other.register("hook_steered", target="somebody.else:Model")
    monkeypatch.setattr(registry, "model_registry", other)
    with pytest.warns(UserWarning, match=r"'hook_steered' is held by somebody\.else:Model"):
        _lm_eval_patch.lm_eval_models(ModuleType("lm_eval.models"))
    assert dict(other.items()) == {
        "hook_steered": "somebody.else:Model",
        "goodfire_steered": _lm_eval_patch.MODELS["goodfire_steered"],
        "prompt_steered": _lm_eval_patch.MODELS["prompt_steered"],
    }


def test_registering_twice_is_silent(monkeypatch):
    """Our own registration, as a string or already replaced by its class, is no clash."""
    import lm_eval.api.registry as registry

    ours = registry.Registry("model")
    monkeypatch.setattr(registry, "model_registry", ours)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _lm_eval_patch.lm_eval_models(ModuleType("lm_eval.models"))
        _lm_eval_patch.lm_eval_models(ModuleType("lm_eval.models"))
        loaded = type("HookSteered", (), {"__module__": "model_adapters.harnesses.lm_eval"})
        ours._objs["hook_steered"] = loaded
        _lm_eval_patch.lm_eval_models(ModuleType("lm_eval.models"))
    assert dict(ours.items()) == {**_lm_eval_patch.MODELS, "hook_steered": loaded}


class Recorder:
    """Stands for lm-eval's TaskManager: keeps what it was made with."""

    def __init__(self, verbosity=None, include_path=None, include_defaults=True, metadata=None):
        self.include_path = include_path
        self.made_with = (verbosity, include_path, include_defaults, metadata)


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        ({}, [str(_lm_eval_patch.TASKS)]),
        ({"include_path": "mine"}, [str(_lm_eval_patch.TASKS), "mine"]),
        ({"include_path": Path("mine")}, [str(_lm_eval_patch.TASKS), Path("mine")]),
        ({"include_path": ["a", "b"]}, [str(_lm_eval_patch.TASKS), "a", "b"]),
        ({"include_path": "mine", "include_defaults": False}, ["mine"]),
        ({"include_defaults": False}, None),
    ],
)
def test_the_users_folder_comes_after_ours(asked, paths):
    """lm-eval reads its own tasks, then ours, then the user's, which win; without defaults it reads theirs only."""
    module: Any = ModuleType("lm_eval.tasks")
    module.TaskManager = type("TaskManager", (Recorder,), {"__init__": Recorder.__init__})
    _lm_eval_patch.lm_eval_tasks(module)
    _lm_eval_patch.lm_eval_tasks(module)
    made = module.TaskManager(metadata={"n": 1}, **asked)
    assert made.made_with == (None, paths, asked.get("include_defaults", True), {"n": 1})
    assert made.include_path == asked.get("include_path")


def test_hook_and_entry_points_name_the_same_models():
    """What the hook registers today is what lm-eval's next release reads from our entry points."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["lm_eval.models"] == _lm_eval_patch.MODELS
    assert set(_lm_eval_patch.MODELS) == OURS


def test_our_task_folder_holds_tasks_only():
    """Each YAML file is a task or group named like the file, or a part (`_name.yaml`) that is neither to lm-eval."""
    found = sorted(path for path in _lm_eval_patch.TASKS.rglob("*") if path.suffix in (".yaml", ".yml"))
    assert {path.stem for path in found} >= {"mmlu_171"}
    for path in found:
        lines = path.read_text(encoding="utf-8").splitlines()
        named = [line for line in lines if line.startswith(("task:", "group:", "class:"))]
        names = {f"task: {path.stem}", f"group: {path.stem}"}
        assert names & set(named) if not path.name.startswith("_") else named == []
        assert all("!function steer_tasks." in line for line in lines if "!function" in line)
