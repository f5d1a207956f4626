"""The README's code runs as printed."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig


@task
def mine():
    return Task(dataset=[Sample(input="Say hello.")], config=GenerateConfig(max_tokens=4))
"""


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language, in order."""
    return [text for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if kind == language]


def commands() -> list[str]:
    """Every command of ours or of a harness in the README's shell blocks."""
    lines = [line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.split(" ")[0] in ("lm_eval", "inspect", "steer")]


def run(words: list[str], folder: Path) -> str:
    """Run in `folder` with this environment's commands first on the path; gives what was printed."""
    bin_folder = str(Path(sys.executable).parent)
    path = os.pathsep.join([bin_folder, os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "INSPECT_LOG_DIR": str(folder / "logs")}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.embedded
@pytest.mark.slow
def test_ten_lines_steer_the_embedded_model(tmp_path: Path) -> None:
    """The ten lines print an answer and a measured proof that the first response token was steered."""
    first = next(block for block in blocks("python") if "asyncio.run" in block)
    printed = run([sys.executable, "-c", first], tmp_path)
    assert "level='measured'" in printed
    assert "first_response_token=True" in printed


@pytest.mark.embedded
@pytest.mark.slow
def test_every_command_runs_in_order(tmp_path: Path, mmlu: Path) -> None:
    """Every lm_eval, inspect and steer command of the README exits with 0, in the order of the README."""
    (tmp_path / "my_task.py").write_text(TASK)
    ran = commands()
    assert len(ran) >= 8
    for line in ran:
        script = f"set -e; {line}"
        run(["bash", "-c", script], tmp_path)
        if line.startswith("inspect"):
            assert list((tmp_path / "logs").rglob("*.eval")), line


def test_own_method_is_one_complete_file(tmp_path: Path) -> None:
    """The README's method, saved as one more file of the methods folder, is found and prepares."""
    source = next(block for block in blocks("python") if "MeanOfPrompts" in block)
    (tmp_path / "mean_of_prompts.py").write_text(source)
    code = f"""
import asyncio, sys
sys.path.insert(0, {str(ROOT)!r})
import model_adapters.methods as methods
methods.__path__.append({str(tmp_path)!r})
from pathlib import Path
from model_adapters import build_method, find_behavior, prepare
from model_adapters.backends.local import open_local
from tests.tiny_model import tiny_model
model = open_local(str(tiny_model(Path({str(tmp_path)!r}) / "tiny")))
method = build_method("mean_of_prompts", {{"layer": "2", "dose": "0.5"}})
prepared = asyncio.run(prepare(method, find_behavior("funny"), model))
print(prepared.steering.layers, prepared.steering.provenance["method"])
model.close()
"""
    assert run([sys.executable, "-c", code], tmp_path).splitlines()[-1] == "(2,) mean_of_prompts"


def test_every_relative_link_leads_somewhere() -> None:
    """Every link of the README to a file of the project has its file."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_shell_blocks_parse() -> None:
    """Every command in the README splits as a shell would split it."""
    assert all(shlex.split(line) for line in commands())
