"""What is installed, what is registered, where model and questions come from, and what is missing. No torch here."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, entry_points, packages_distributions, version

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
    "VLLM_BASE_URL",
)
SECRETS = ("GOODFIRE_API_KEY", "VLLM_API_KEY")
APART = "not installed here, and needn't be: a vLLM server has an environment of its own (docs/vllm.md)"


def report(base_url: str | None = None) -> str:
    """One line per fact; a line that starts with `!` names something missing and how to get it.

    `base_url` is a vLLM server to look at, else the environment's.
    """
    sections: tuple[Callable[[], list[str]], ...] = (
        *(_versions, _registered, _model, _questions),
        lambda: [*_vllm_here(), *_vllm_server(base_url)],
        _environment,
    )
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
        return f"asks the service at {shown_value(address)}"
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


def _vllm_here() -> list[str]:
    """What of a server and of its client is installed in this environment."""
    lines, installed = [], packages_distributions()
    for name, module in (("vllm", "vllm"), ("vllm-lens", "vllm_lens")):
        found = installed.get(module)
        lines.append(_line(name, f"{version(found[0])} (a server's own; clients don't need it)" if found else APART))
    try:
        said = f"ready: zstandard {version('zstandard')}"
    except PackageNotFoundError:
        said = "not installed, and only runner=vllm needs it: pip install 'steer-tasks[vllm]'"
    return [*lines, _line("vLLM client", said)]


def _vllm_server(base_url: str | None) -> list[str]:
    """Whether a server answers, what it serves, and whether it steers; nothing is asked where none is named."""
    from model_adapters.backends.vllm.address import server_address
    from model_adapters.backends.vllm.status import server_status

    address = server_address(base_url)
    if address is None:
        return [_line("vLLM server", "none is named; --base-url or VLLM_BASE_URL names one")]
    try:
        found = asyncio.run(server_status(address))
    except SteerError as problem:
        return [_line("vLLM server", str(problem), missing=True)]
    served = ", ".join(found.served) or "nothing"
    answers = f"{found.url} answers: version {found.version or 'unknown'}, serves {served}"
    if found.problem is not None or found.shape is None:
        steers = _line("vLLM steers", f"no: {found.problem}", missing=True)
    else:
        shape = f"{found.shape[0]} layers of width {found.shape[1]}, {found.dtype or 'dtype unknown'}"
        steers = _line("vLLM steers", f"yes, {found.served[0]} was probed, answers too: {shape}")
    return [_line("vLLM server", answers), steers]


def _environment() -> list[str]:
    lines = [_line("cache", str(cache_folder()))]
    lines += [_line(name, shown_value(os.environ[name])) for name in VARIABLES if name in os.environ]
    lines += [_line(name, "set (not shown)" if name in os.environ else "not set") for name in SECRETS]
    return lines


def shown_value(value: str) -> str:
    """A variable's value; of an address neither what stands before its host nor a query, which may be secrets."""
    if "://" not in value:
        return value
    scheme, _, rest = value.partition("://")
    place, query, _ = rest.partition("?")
    shown = f"{scheme}://{'…@' if '@' in place else ''}{place.rpartition('@')[2]}"
    return f"{shown}?…" if query else shown
