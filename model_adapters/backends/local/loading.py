"""Opening a model by name: `embedded`, a hub id, or a folder. torch and transformers are imported when called."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_adapters.backends.local.apart import apart
from model_adapters.backends.local.embedded import EMBEDDED, model_path
from model_adapters.backends.local.weights import model_digest, weights_folder
from model_adapters.errors import SteerError

if TYPE_CHECKING:
    from model_adapters.backends.local.backend import LocalBackend

DTYPES = ("auto", "float32", "bfloat16", "float16")
PROBE_S = 5.0
"""How long the hub may take to answer before a model that isn't in its cache counts as not to be had."""


def default_dtype(name: str) -> str:
    """The dtype when none is given: for `embedded` bfloat16 where the processor has it, as it runs about twice as fast
    there, else float32; for every other model what its files say (`auto`), as lm-eval's `hf`."""
    if name != EMBEDDED:
        return "auto"
    import torch

    if torch.cuda.is_available():
        return "bfloat16"
    return "bfloat16" if torch.cpu.get_capabilities().get("avx512_bf16") else "float32"


def default_device() -> str:
    """The first GPU, else Apple's, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def model_config(name: str, revision: str | None = None) -> Any:
    """The model's transformers config, without its weights. Raises SteerError where there is no such model."""
    from transformers import AutoConfig

    try:
        path = _path(name)
        if weights_folder(path, revision) is None:
            _ask_hub(name)
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as problem:
        raise _not_found(name, problem) from problem


def model_shape(name: str, revision: str | None = None) -> tuple[int, int]:
    """`(n_layers, d_model)` of a model, read from its config alone."""
    text = model_config(name, revision).get_text_config()
    return int(text.num_hidden_layers), int(text.hidden_size)


def model_tokenizer(name: str, revision: str | None = None, options: Mapping[str, object] | None = None) -> Any:
    """The model's tokenizer, without its weights; `options` are transformers' own. Raises SteerError without one."""
    from transformers import AutoTokenizer

    try:
        path = _path(name)
        if not Path(path).exists() and weights_folder(path, revision) is None:
            _ask_hub(name)
        return AutoTokenizer.from_pretrained(path, revision=revision, **{"trust_remote_code": False, **(options or {})})
    except (OSError, ValueError) as problem:
        raise _not_found(name, problem) from problem


def open_local(
    name: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    revision: str | None = None,
    rows: int = 32,
    max_length: int | None = None,
    template_arguments: Mapping[str, object] | None = None,
    interrupts: bool = False,
    kv_memory_mb: int | None = None,
) -> "LocalBackend":
    """Load a model and make it a backend. `dtype` None is `default_dtype`, `device` None `default_device`.

    Raises SteerError for an unknown name, dtype or device, before any weight is read.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from model_adapters.backends.local.backend import LocalBackend

    dtype = dtype or default_dtype(name)
    if dtype not in DTYPES:
        raise SteerError(f"dtype={dtype} is unknown; it is one of {', '.join(DTYPES)}")
    place = device or default_device()
    try:
        torch.zeros(1, device=place).item()
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise SteerError(f"device={place} is unknown or not here; it is cpu, cuda, cuda:1, mps, …") from problem
    model_config(name, revision)
    path = _path(name)
    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
        model: Any = apart(
            lambda: AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=wanted, trust_remote_code=False)
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as problem:
        raise _not_found(name, problem) from problem
    return apart(
        lambda: LocalBackend(
            model.to(place),
            tokenizer,
            name=name,
            model_digest=model_digest(path, revision),
            revision=revision or getattr(model.config, "_commit_hash", None),
            max_length=max_length,
            template_arguments=template_arguments,
            rows=rows,
            interrupts=interrupts,
            kv_memory_mb=kv_memory_mb,
        )
    )


def _path(name: str) -> str:
    """What transformers is given: a folder's path without `~`, else the name."""
    path = model_path(name)
    folder = Path(path).expanduser()
    return str(folder) if folder.exists() else path


def _ask_hub(name: str) -> None:
    """Raise SteerError unless the hub can be reached; its own client would try again for half a minute, every time."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return  # its client knows, and says so at once
    reached: list[bool] = []

    def ask() -> None:
        import httpx

        try:
            httpx.head(constants.ENDPOINT, timeout=PROBE_S)
        except (httpx.HTTPError, httpx.InvalidURL):
            return
        reached.append(True)

    # In a thread, because no time limit of a client covers the look-up of a host's name.
    probe = threading.Thread(target=ask, daemon=True)
    probe.start()
    probe.join(PROBE_S)
    if not reached:
        raise SteerError(
            f"model {name!r} is not on this machine, and {constants.ENDPOINT} can't be reached; "
            f"give a folder, or `{EMBEDDED}`"
        )


def _not_found(name: str, problem: Exception) -> SteerError:
    reason = str(problem).strip().partition("\n")[0]
    if Path(name).expanduser().exists():
        return SteerError(f"{name}: not a folder that transformers can load ({reason})")
    if not isinstance(problem, OSError):
        return SteerError(f"{name}: transformers can't load it ({reason})")
    return SteerError(f"model {name!r} is neither `{EMBEDDED}`, nor a folder, nor found on the hub or in its cache")
