"""The floors of the house, read from the imports with `ast`; and what a plain import brings in."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("model_adapters", "judges", "steer_tasks")
HOSTS = {"lm_eval", "inspect_ai"}

# Floor -> what of ours it may import. A floor is the longest of these names that begins a module's name; a name
# covers what is below it. The four modules of `model_adapters` that stand alone are what everybody may build on.
GROUND = {"model_adapters.errors", "model_adapters.cache"}
VALUES = GROUND | {"model_adapters.values"}
STEERING = VALUES | {"model_adapters.conditions", "model_adapters.interventions", "model_adapters.steering"}
DATA = STEERING | {"model_adapters.steering_file", "model_adapters.behavior"}
SEAM = DATA | {"model_adapters.backend", "model_adapters.identity"}
MAY_IMPORT = {
    "model_adapters.errors": set(),
    "model_adapters.cache": {"model_adapters.errors"},
    "model_adapters.behavior": GROUND,
    "model_adapters.values": GROUND,
    "model_adapters.conditions": VALUES,
    "model_adapters.interventions": VALUES | {"model_adapters.conditions"},
    "model_adapters.steering": STEERING,
    "model_adapters.steering_file": DATA,
    "model_adapters.identity": DATA,
    "model_adapters.backend": SEAM,
    "model_adapters.features": DATA | {"model_adapters.identity", "model_adapters.features"},
    # Other modules at the top of the package serve methods or join them with the seam; they run no model themselves.
    "model_adapters": {"model_adapters"},
    "model_adapters.methods": {"model_adapters"},
    "model_adapters.backends": {"model_adapters"},
    "model_adapters.ember_service": {"model_adapters"},
    "model_adapters.harnesses": {"model_adapters"},
    "judges": {"judges", "model_adapters"},
    "steer_tasks": {"steer_tasks", "judges", "model_adapters"},
}
MUST_NOT_IMPORT = {
    "model_adapters": {"model_adapters.backends", "model_adapters.harnesses", "model_adapters.ember_service"},
    "model_adapters.methods": {
        "model_adapters.backends",
        "model_adapters.harnesses",
        "model_adapters.ember_service",
    },
    "model_adapters.backends": {
        "model_adapters.methods",
        "model_adapters.harnesses",
        "model_adapters.ember_service",
    },
    "model_adapters.ember_service": {"model_adapters.harnesses"},
    "judges": {"model_adapters.harnesses"},
}
KNOWS_A_HOST = ("model_adapters.harnesses", "steer_tasks")


def begins(module: str, name: str) -> bool:
    """Whether `module` is `name` or lies below it."""
    return module == name or module.startswith(name + ".")


def covers(names: set[str], module: str) -> bool:
    return any(begins(module, name) for name in names)


def floor_of(module: str) -> str:
    return max((name for name in MAY_IMPORT if begins(module, name)), key=len)


def module_of(path: Path, root: Path = ROOT) -> tuple[str, bool]:
    """The dotted name of a file, and whether it is a package's own file."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if package else parts), package


def is_module(name: str, root: Path = ROOT) -> bool:
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imported_by(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Every module that a file imports anywhere in it, in functions and under TYPE_CHECKING too, by absolute name."""
    module, package = module_of(path, root)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parts = module.split(".")
                above = parts[: len(parts) - node.level + package]
                source = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import name` imports the module `package.name` where there is one.
            yield from (
                f"{source}.{alias.name}" if is_module(f"{source}.{alias.name}", root) else source
                for alias in node.names
            )


def files(root: Path = ROOT) -> list[Path]:
    return [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]


def wrong_arrows(root: Path = ROOT) -> list[str]:
    """`importer -> imported`, for every import that goes against the floors."""
    found = []
    for path in files(root):
        module, _ = module_of(path, root)
        floor = floor_of(module)
        for target in imported_by(path, root):
            ours = target.split(".")[0] in PACKAGES
            if ours and begins(target, floor) and floor not in PACKAGES:
                continue
            allowed = covers(MAY_IMPORT[floor], target) and not covers(MUST_NOT_IMPORT.get(floor, set()), target)
            host = target.split(".")[0] in HOSTS and not any(begins(module, name) for name in KNOWS_A_HOST)
            if (ours and not allowed) or host:
                found.append(f"{module} -> {target}")
    return found


def test_imports_go_one_way():
    """Tasks build on judges, judges on models, hosts on backends and methods, and nothing looks back."""
    assert wrong_arrows() == []


@pytest.mark.parametrize(
    ("importer", "line", "arrow"),
    [
        ("model_adapters/methods/caa.py", "from model_adapters.backends import local", "model_adapters.backends.local"),
        ("model_adapters/methods/caa.py", "from ..backends.local import x", "model_adapters.backends.local"),
        ("model_adapters/backends/local/x.py", "def f():\n    import model_adapters.methods", "model_adapters.methods"),
        ("model_adapters/backends/wrapped.py", "from .. import ember_service", "model_adapters.ember_service"),
        ("model_adapters/features/sae.py", "from model_adapters import backend", "model_adapters.backend"),
        ("model_adapters/backend.py", "from model_adapters.methods import caa", "model_adapters.methods"),
        ("model_adapters/steering.py", "from model_adapters.backend import x", "model_adapters.backend"),
        ("model_adapters/ember_service/app.py", "import model_adapters.harnesses", "model_adapters.harnesses"),
        ("model_adapters/anything.py", "import model_adapters.backends.local", "model_adapters.backends.local"),
        ("model_adapters/cache.py", "import judges", "judges"),
        ("judges/judge.py", "from inspect_ai.model import get_model", "inspect_ai.model"),
        ("judges/judge.py", "import steer_tasks.questions", "steer_tasks.questions"),
        ("model_adapters/backends/wrapped.py", "import lm_eval", "lm_eval"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path, importer, line, arrow):
    """An import against the floors is seen whether absolute or relative, at the top or inside a function."""
    for package in ("methods", "backends/local", "features", "ember_service", "harnesses"):
        (tmp_path / "model_adapters" / package).mkdir(parents=True)
    for package in ("judges", "steer_tasks"):
        (tmp_path / package).mkdir()
    for module in ("backend.py", "methods/caa.py"):
        (tmp_path / "model_adapters" / module).write_text("")
    (tmp_path / importer).write_text(line + "\n")
    name, _ = module_of(tmp_path / importer, tmp_path)
    found = wrong_arrows(tmp_path)
    assert [one for one in found if one.startswith(f"{name} -> {arrow}")] == found != []


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("model_adapters/methods/caa.py", "from model_adapters.backend import ReadsActivations"),
        ("model_adapters/methods/caa.py", "from ..features import sae"),
        ("model_adapters/ember_service/app.py", "from model_adapters import backends, methods, features"),
        ("model_adapters/harnesses/lm_eval.py", "import lm_eval, torch\nfrom model_adapters import backends, methods"),
        ("model_adapters/features/sae.py", "from model_adapters.steering import AddVector\nfrom . import labels"),
        ("judges/judge.py", "from model_adapters.backend import Completion"),
        ("steer_tasks/scorers.py", "import judges.judge\nfrom inspect_ai.scorer import scorer"),
    ],
)
def test_a_right_arrow_passes(tmp_path, importer, line):
    """What the floors allow is not complained about."""
    for package in ("methods", "backends/local", "features", "ember_service", "harnesses"):
        (tmp_path / "model_adapters" / package).mkdir(parents=True)
    for package in ("judges", "steer_tasks"):
        (tmp_path / package).mkdir()
    (tmp_path / importer).write_text(line + "\n")
    assert wrong_arrows(tmp_path) == []


def test_steering_is_data():
    """Behaviors, interventions and steerings need the standard library, numpy and a YAML reader, nothing more."""
    for name in ("steering", "steering_file", "behavior", "errors"):
        tops = {target.split(".")[0] for target in imported_by(ROOT / "model_adapters" / f"{name}.py")}
        assert tops - set(sys.stdlib_module_names) - {"numpy", "yaml", "safetensors", "model_adapters"} == set(), name


def test_nothing_that_runs_code_is_loaded():
    """No module imports a pickle reader, and every torch.load says weights_only=True."""
    for path in files():
        tops = {target.split(".")[0] for target in imported_by(path)}
        assert tops & {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"} == set(), path
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
                assert "True" in (keywords.get("weights_only"), str(keywords.get("allow_pickle") == "False")), path


def test_every_dependency_is_declared():
    """Each third-party package that the code imports is a core dependency, or an extra's that says what it is for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    offering = ("goodfire", "saelens", "vllm", "vllm-server")
    names = [*project["dependencies"], *(name for extra in offering for name in extras[extra])]
    declared = {re.split(r"[\[<>=!~; ]", name, maxsplit=1)[0].lower() for name in names}
    homes = importlib.metadata.packages_distributions()
    for path in files():
        for top in {target.split(".")[0] for target in imported_by(path)}:
            if top in sys.stdlib_module_names or top in (*PACKAGES, "_steer_autoload"):
                continue
            offered = {home.lower().replace("_", "-") for home in homes.get(top, [top.replace("_", "-")])}
            assert offered & declared, f"{path.relative_to(ROOT)} imports {top}"


def imported_with(*modules: str) -> set[str]:
    """The top-level names in `sys.modules` of a fresh interpreter that imported `modules`."""
    names = "sorted({name.split('.')[0] for name in sys.modules})"
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps({names}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT / "docs",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_a_plain_import_is_light():
    """`import model_adapters, judges, steer_tasks` brings in neither torch nor a host."""
    assert imported_with(*PACKAGES) & {"torch", "transformers", *HOSTS} == set()


def test_inspects_entry_point_is_light():
    """What Inspect imports to find us brings in neither torch, nor scipy, nor the other host."""
    found = imported_with("steer_tasks._registry")
    assert "inspect_ai" in found
    assert found & {"torch", "scipy", "matplotlib", "transformers", "lm_eval", "openai", "goodfire"} == set()


def test_judges_is_ours():
    """The package that imports as `judges` lies beside ours, though the registry has another project of that name."""
    import judges
    import steer_tasks

    assert judges.__file__ is not None
    assert steer_tasks.__file__ is not None
    assert Path(judges.__file__).parents[1] == Path(steer_tasks.__file__).parents[1]
