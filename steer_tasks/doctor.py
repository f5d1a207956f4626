"""What is installed, what is registered, where model and questions come from, and what is missing. No torch here."""

import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, entry_points, version

from model_adapters.backends.local.embedded import embedded_model_status
from model_adapters.cache import cache_folder
from model_adapters.errors import SteerError
from model_adapters.identity import package_version
from model_adapters.methods import method_names
from steer_tasks.questions import load_questions

PACKAGES = ("torch", "transformers", "lm-eval", "inspect-ai", "safetensors", "gguf", "numpy", "httpx", "fastapi")
PROVIDERS = ("hook_steered", "goodfire_steered", "prompt_steered")
OPTIONAL = {"goodfire": "pip install 'steer-tasks[goodfire]' (its SDK pins an old httpx)"}
VARIABLES = (
    "STEER_TASKS_CACHE",
    "STEER_TASKS_MMLU",
    "STEER_TASKS_STUDY",
    "STEER_TASKS_JUDGE",
    "STEER_TASKS_AUTOLOAD",
    "GOODFIRE_BASE_URL",
)
SECRETS = ("GOODFIRE_API_KEY",)


def report() -> str:
    """One line per fact; a line that starts with `!` names something missing and how to get it."""
    sections: tuple[Callable[[], list[str]], ...] = (_versions, _registered, _model, _questions, _environment)
    return "\n".join(line for section in sections for line in section())


def _line(name: str, said: str, missing: bool = False) -> str:
    return f"{'!' if missing else ' '} {name:<22} {said}"


def _versions() -> list[str]:
    lines = [_line("steer-tasks", package_version()), _line("python", sys.version.split()[0])]
    for name in PACKAGES:
        try:
            lines.append(_line(name, version(name)))
        except PackageNotFoundError:
            lines.append(_line(name, f"not installed; pip install {name}", missing=True))
    for name, remedy in OPTIONAL.items():
        found = importlib.util.find_spec(name) is not None
        absent = f"not installed, and only its own models need it: {remedy}"
        lines.append(_line(name, version(name) if found else absent))
    return lines


def _registered() -> list[str]:
    hook = sys.modules.get("_steer_autoload")
    active = hook is not None and any(finder is getattr(hook, "Finder", None) for finder in sys.meta_path)
    said = "active: `lm_eval --model hook_steered` works as typed"
    remedy = "not active here; use `steer lm_eval …`, or install with pip (not --target) and unset STEER_TASKS_AUTOLOAD"
    inspect_point = [point for point in entry_points(group="inspect_ai") if point.name == "steer_tasks"]
    return [
        _line("lm-eval start-up hook", said if active else remedy, missing=not active),
        _line(
            "inspect entry point",
            f"registered: {', '.join(PROVIDERS)}" if inspect_point else "not registered; pip install steer-tasks",
            missing=not inspect_point,
        ),
        _line("goodfire_steered", _service()),
        _line("methods", ", ".join(method_names())),
    ]


def _service() -> str:
    """Who would answer `goodfire_steered` as typed; nothing is asked."""
    if address := os.environ.get("GOODFIRE_BASE_URL"):
        return f"asks the service at {address}"
    if os.environ.get("GOODFIRE_API_KEY"):
        return "asks the hosted service, as a key is set"
    return "serves `embedded` in its own process, as neither GOODFIRE_API_KEY nor GOODFIRE_BASE_URL is set"


def _model() -> list[str]:
    ready, said = embedded_model_status()
    return [_line("model `embedded`", said, missing=not ready)]


def _questions() -> list[str]:
    lines = []
    for name in ("mmlu_171", "mmlu_114"):
        try:
            found = load_questions(name)
        except SteerError as problem:
            lines.append(_line(name, str(problem), missing=True))
            continue
        said = f"{len(found.questions)} questions, digest {found.digest}, from {found.source}"
        if found.missing:
            said += f"; missing {', '.join(found.missing)}: give all with STEER_TASKS_MMLU=<file or folder>"
        lines.append(_line(name, said, missing=bool(found.missing)))
    return lines


def _environment() -> list[str]:
    lines = [_line("cache", str(cache_folder()))]
    lines += [_line(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    lines += [_line(name, "set (not shown)" if name in os.environ else "not set") for name in SECRETS]
    return lines
