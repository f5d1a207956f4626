"""A whole grid in one run against the same grid as separate runs of lm-eval, whole processes both."""

import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from model_adapters.backends.local import open_local
from model_adapters.backends.local.embedded import embedded_model_path
from model_adapters.behavior import behavior_slugs, find_behavior
from model_adapters.methods import build_method
from model_adapters.preparation import prepare
from model_adapters.steering import AddVector
from steer_tasks import protocols
from steer_tasks.protocols import load_protocol
from tests.benchmarks.bars import Bar, Line
from tests.benchmarks.pairs import timed
from tests.benchmarks.questions import SEED, drawn_numbers

QUESTIONS, TOKENS, TIMED, LAYER, DOSE = 12, 256, 6, 14, 0.3
ARMS = ("control", "prompting", "caa", "combined")

GRID = """\
name: benchmark
models: [{{name: hook_steered/embedded, args: {{dtype: bfloat16}}}}]
protocols: [{protocol}]
behaviors: all
questions: mmlu_171
questions_per_behavior: {questions}
arms:
  - {{name: control, method: control}}
  - {{name: prompting, method: prompt}}
  - {{name: caa, method: caa, layer: {layer}, dose: {dose}}}
  - {{name: combined, method: caa, layer: {layer}, dose: {dose}, prompting: true}}
"""


def vectors() -> dict[str, np.ndarray]:
    """Each behavior's vector, prepared beforehand for both sides: the searches are no part of the comparison."""

    async def made() -> dict[str, np.ndarray]:
        backend, found = open_local("embedded", dtype="bfloat16"), {}
        for slug in behavior_slugs():
            method = build_method("caa", {"layer": LAYER, "dose": DOSE})
            (one,) = (await prepare(method, find_behavior(slug), backend)).steering.interventions
            assert isinstance(one, AddVector)
            found[slug] = (one.vector * np.float32(one.coefficient)).astype(np.float32)
        await backend.aclose()
        return found

    return asyncio.run(made())


def lm_eval_command(folder: Path, behavior: str, arm: str, vector: np.ndarray) -> list[str]:
    """One of the 56 runs as a user types it."""
    arguments = f"pretrained={embedded_model_path()},dtype=bfloat16"
    model = "steered" if arm in ("caa", "combined") else "hf"
    if model == "steered":
        file = folder / f"{behavior}.pt"
        plain = {"steering_vector": torch.tensor(vector), "steering_coefficient": 1.0, "action": "add", "bias": None}
        torch.save({f"layers.{LAYER}": plain}, file)
        arguments += f",steer_path={file}"
    sentence = load_protocol("isolated").prompting.format(behavior=find_behavior(behavior).text)
    asked = sentence if arm in ("prompting", "combined") else None
    return [
        *(sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", arguments),
        *("--tasks", "mmlu_171", "--batch_size", "16", "--apply_chat_template", "--device", "cpu"),
        *("--gen_kwargs", f"max_gen_toks={TOKENS}", "--samples", json.dumps({"mmlu_171": drawn_numbers(QUESTIONS)})),
        *(("--system_instruction", asked) if asked else ()),
    ]


def run(command: Sequence[str], more: Mapping[str, str] | None = None) -> float:
    """Seconds of a whole process. Raises CalledProcessError where it fails."""
    environment = {**os.environ, **(more or {})}
    return timed(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))


def grid_lines() -> list[Line]:
    """Our run over the sum of the separate ones."""
    found = vectors()
    runs = list(itertools.product(found, ARMS))
    drawn = random.Random(SEED).sample(runs, TIMED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        protocol, grid = folder / "short.yaml", folder / "grid.yaml"
        text = (Path(protocols.__file__).parent / "protocols" / "isolated.yaml").read_text(encoding="utf-8")
        protocol.write_text(text.replace("max_tokens: 2048", f"max_tokens: {TOKENS}"), encoding="utf-8")
        grid.write_text(GRID.format(protocol=protocol, questions=QUESTIONS, layer=LAYER, dose=DOSE), encoding="utf-8")
        separate = [run(lm_eval_command(folder, slug, arm, found[slug])) for slug, arm in drawn[: TIMED // 2]]
        command = [
            sys.executable,
            "-m",
            "steer_tasks.cli",
            "run",
            str(grid),
            "--no-store",
            "--log-dir",
            str(folder / "logs"),
        ]
        mine = run([*command, "--display", "none"], {"INSPECT_CACHE_DIR": str(folder / "cache")})
        separate += [run(lm_eval_command(folder, slug, arm, found[slug])) for slug, arm in drawn[TIMED // 2 :]]
    whole = sum(separate) / TIMED * len(runs)
    sampled = (
        f"{len(found)} behaviors × {len(ARMS)} arms × {QUESTIONS} questions, {TOKENS} tokens, whole processes: "
        f"{mine:.0f} s ours; {TIMED} of the {len(runs)} drawn and scaled to {whole:.0f} s"
    )
    return [Line("one run / separate lm-eval runs", mine / whole, Bar(0.2, 0.1), sampled)]
