"""What a user has after `pip install`, from a wheel and from an editable install, through the hosts' own commands.

The fresh environments see this environment's other packages through a path file, so nothing is downloaded.
Start-up files of this environment are not read there: only what was installed there can be at work.
"""

import importlib.metadata
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("model_adapters", "judges", "steer_tasks")
STARTUP = ("steer_autoload.pth", "steer_autoload.start", "_steer_autoload.py")
FOREIGN_SCRIPTS = ("lm_eval", "inspect")

pytestmark = pytest.mark.slow


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "NO_COLOR": "1", "COLUMNS": "200", **changes}


def build(kind, folder):
    """Build the `wheel` or `sdist` into `folder` with what this environment holds, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@dataclass(frozen=True)
class Place:
    """A fresh environment: its folder, and where commands run there (nowhere near the source tree)."""

    folder: Path
    here: Path

    @property
    def packages(self):
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages"

    def run(self, *command, cwd=None, **changes):
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd or self.here,
            env=environment(**changes),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def pip(self, *arguments):
        command = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python"), *arguments]
        done = subprocess.run(command, cwd=self.here, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def fresh(folder):
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    place = Place(folder / "venv", folder / "here")
    place.here.mkdir()
    (place.packages / "zz_other_packages.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    # The hosts' commands, as pip writes them from their own entry points.
    for entry in importlib.metadata.entry_points(group="console_scripts"):
        if entry.name in FOREIGN_SCRIPTS:
            script = place.folder / "bin" / entry.name
            script.write_text(
                f"#!{place.folder}/bin/python\nimport sys\nfrom {entry.module} import {entry.attr}\n"
                f"sys.exit({entry.attr}())\n"
            )
            script.chmod(0o755)
    return place


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def place(request, wheel, tmp_path_factory):
    """A fresh environment with steer-tasks in it, installed in one of the two ways."""
    place = fresh(tmp_path_factory.mktemp(request.param))
    what = [str(wheel)] if request.param == "wheel" else ["--no-build-isolation", "-e", str(ROOT)]
    place.pip("install", "-q", "--no-deps", "--no-index", *what)
    return place


def tasks_listed(output):
    """The names in the first column of lm-eval's table of tasks."""
    rows = [line.split("|") for line in output.splitlines() if line.startswith("|")]
    return {row[1].strip() for row in rows if len(row) > 2}


def test_the_wheel_holds_the_packages_the_start_up_files_and_nothing_else(wheel):
    """A wheel has our three packages with their data files, and the three start-up files at its root."""
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    expected = set(STARTUP)
    for package in PACKAGES:
        for parent, _, names in os.walk(ROOT / package):
            if "__pycache__" not in Path(parent).parts:
                kept = set(names) - ignored(parent, names)
                expected |= {str((Path(parent) / name).relative_to(ROOT)) for name in kept}
    assert inside == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert any(name.startswith("steer_tasks/lm_eval_tasks/") and name.endswith(".yaml") for name in inside)
    assert any(name.startswith("model_adapters/behaviors/") and name.endswith(".yaml") for name in inside)
    assert {"steer_tasks/analysis/templates/report.html.j2", "steer_tasks/analysis/paper_2602_04903.yaml"} <= inside


def test_a_source_archive_builds_the_same_wheel(wheel, tmp_path):
    """The source archive holds all that a build needs: its wheel has the same files."""
    archive = build("sdist", tmp_path / "sdist")
    shutil.unpack_archive(archive, tmp_path)
    source = next(path for path in tmp_path.glob("steer_tasks-*") if path.is_dir())
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    subprocess.run(command, cwd=source, env=environment(), check=True, capture_output=True)
    again = next((tmp_path / "again").glob("*.whl"))
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(wheel).namelist()


def test_the_start_up_files_lie_where_python_looks(place):
    """After an install the three files lie at the root of site-packages, as they are in the source."""
    for name in STARTUP:
        assert (place.packages / name).read_bytes() == (ROOT / "startup" / name).read_bytes()


def test_a_python_start_loads_only_the_hook(place):
    """A Python that doesn't touch lm-eval has loaded one module of ours."""
    code = "import sys; print(sorted(m for m in sys.modules if m.split('.')[0] in sys.argv[1:]))"
    status, output = place.run("python", "-c", code, "_steer_autoload", *PACKAGES, "lm_eval", "torch")
    assert (status, output) == (0, "['_steer_autoload']\n")


def test_judges_belongs_to_us(place):
    """In an installed environment the import package `judges` comes from our distribution, beside steer_tasks."""
    code = "import judges, steer_tasks, os; d = lambda m: os.path.dirname(os.path.dirname(m.__file__)); "
    status, output = place.run("python", "-c", code + "print(d(judges) == d(steer_tasks), d(judges))")
    same, where = output.split()
    assert (status, same) == (0, "True")
    assert Path(where) in (place.packages, ROOT)


def test_the_unmodified_lm_eval_lists_our_tasks(place):
    """`lm_eval ls tasks`, the host's own command, lists our tasks beside its own; with the switch at 0 it doesn't."""
    status, output = place.run("lm_eval", "ls", "tasks")
    assert status == 0, output
    assert {"mmlu_171", "hellaswag"} <= tasks_listed(output)
    status, output = place.run("lm_eval", "ls", "tasks", STEER_TASKS_AUTOLOAD="0")
    assert status == 0, output
    assert "hellaswag" in tasks_listed(output)
    assert "mmlu_171" not in tasks_listed(output)


def test_our_own_command_serves_where_the_hook_is_off(place):
    """`steer lm_eval ls tasks` lists our tasks even with the start-up hook switched off."""
    status, output = place.run("steer", "lm_eval", "ls", "tasks", STEER_TASKS_AUTOLOAD="0")
    assert status == 0, output
    assert "mmlu_171" in tasks_listed(output)


@pytest.mark.parametrize("command", [("lm_eval",), ("python", "-m", "lm_eval")], ids=["script", "module"])
def test_the_unmodified_lm_eval_resolves_our_model(place, command):
    """`--model hook_steered` reaches our adapter: an unknown method is refused by us, last line, before any weights."""
    arguments = ["--model", "hook_steered", "--model_args", "pretrained=embedded,method=no_such_method"]
    status, output = place.run(*command, *arguments, "--tasks", "mmlu_171", "--limit", "1")
    assert status != 0
    assert "no_such_method" in output.strip().splitlines()[-1], output


def test_inspect_finds_our_task_by_name(place):
    """`inspect eval steer_tasks/mmlu_171` reaches our task from any folder: it refuses an unknown method by name."""
    status, output = place.run("inspect", "eval", "steer_tasks/mmlu_171", "-T", "method=no_such_method")
    assert status == 1, output
    assert "No inspect tasks were found" not in output
    assert "no_such_method" in output.strip().splitlines()[-1]


def test_inspect_lists_and_runs_our_task_file(place):
    """In the checkout, `inspect list tasks` names our task file, and `inspect eval` of that file reaches the task."""
    status, output = place.run("inspect", "list", "tasks", "steer_tasks", cwd=ROOT)
    assert status == 0, output
    assert "steer_tasks/mmlu_171.py@mmlu_171" in output
    status, output = place.run("inspect", "eval", "steer_tasks/mmlu_171.py", "-T", "method=no_such_method", cwd=ROOT)
    assert status == 1, output
    assert "no_such_method" in output.strip().splitlines()[-1]


def test_uninstalling_leaves_nothing(wheel, tmp_path):
    """`pip uninstall steer-tasks` removes the packages, the command and the three start-up files."""
    place = fresh(tmp_path)
    before = {path.name for path in place.packages.iterdir()}
    place.pip("install", "-q", "--no-deps", "--no-index", str(wheel))
    assert {path.name for path in place.packages.iterdir()} >= before | {*STARTUP, *PACKAGES}
    assert (place.folder / "bin" / "steer").exists()
    place.pip("uninstall", "-q", "-y", "steer-tasks")
    assert {path.name for path in place.packages.iterdir()} - {"__pycache__"} == before
    assert not (place.folder / "bin" / "steer").exists()
