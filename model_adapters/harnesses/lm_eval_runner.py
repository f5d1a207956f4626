"""Who runs `hook_steered`: a model in this process, or a vLLM server; and what is asked of either. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_adapters.backends.vllm.address import checked_address, server_address
from model_adapters.errors import SteerError

RUNNERS = ("local", "vllm")
SERVER_ARGUMENTS = ("base_url", "served_as")

CHANGES_ANSWERS = (
    *("subfolder", "tokenizer", "peft", "delta", "gguf_file", "think_end_token", "use_fast_tokenizer"),
    *("load_in_8bit", "load_in_4bit", "quantization_config", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type"),
    *("bnb_4bit_use_double_quant", "attn_implementation"),
)
"""Arguments of `hf` that enter the run identity by what was given; the others enter through what they do."""

_SERVED = "the server has the weights"
REFUSED_SERVED: Mapping[str, str] = {
    "dtype": f"{_SERVED}; start it with --dtype",
    "parallelize": f"{_SERVED}; start it with --tensor-parallel-size",
    "max_memory_per_gpu": f"{_SERVED}; start it with --gpu-memory-utilization",
    "max_cpu_memory": f"{_SERVED}; start it with --cpu-offload-gb",
    "offload_folder": f"{_SERVED}; start it with --cpu-offload-gb",
    "peft": f"{_SERVED}; serve the adapter and name it with served_as=…",
    "delta": f"{_SERVED}; serve the merged model",
    "gguf_file": f"{_SERVED}; serve the file, and let pretrained=… name a folder or an id with the tokenizer",
    "kv_memory_mb": f"{_SERVED}; start it with --gpu-memory-utilization",
}
"""Arguments that `runner=vllm` refuses although `runner=local` takes them; those of transformers' loader are too."""


@dataclass(frozen=True)
class Server:
    """Where a vLLM server is, and its name of the model where it serves several."""

    base_url: str
    served_as: str | None = None


def server_of(own: Mapping[str, Any]) -> Server | None:
    """The server that `runner=vllm` names, or the environment does; None for `runner=local`.

    Raises SteerError where they don't go together.
    """
    runner = own.get("runner") or "local"
    if runner not in RUNNERS:
        raise SteerError(f"runner={runner} is not there; hook_steered has runner={' and runner='.join(RUNNERS)}")
    given = {name: own[name] for name in SERVER_ARGUMENTS if own.get(name) is not None}
    if runner == "local":
        if given:
            raise SteerError(f"{next(iter(given))}=… names a vLLM server; add runner=vllm, or leave it out")
        return None
    if "base_url" not in given and (address := server_address(None)) is not None:
        given["base_url"] = address
    if "base_url" not in given:
        raise SteerError("runner=vllm needs base_url=http://HOST:PORT, the address of a vLLM server, or VLLM_BASE_URL")
    for name, value in given.items():
        if not isinstance(value, str) or not value:
            raise SteerError(f"{name} is {value!r}, not a text; put it in quotes: {name}='\"…\"'")
    return Server(checked_address(given["base_url"]), given.get("served_as"))


def refuse_loading(given: Mapping[str, Any], loader: tuple[str, ...]) -> None:
    """Raise SteerError, by name, for an argument that says how weights are loaded: a server loaded them already."""
    for name, value in given.items():
        if name in (*REFUSED_SERVED, *loader) and value not in (None, False, "", "auto"):
            raise SteerError(f"runner=vllm refuses {name}={value!r}: {REFUSED_SERVED.get(name, _SERVED)}")


def identity_arguments(hf: Mapping[str, Any], seed: int | None) -> dict[str, str]:
    """What enters the run identity as it was given; `seed` is one that was asked for."""
    named = {name: str(hf[name]) for name in CHANGES_ANSWERS if hf.get(name) not in (None, "", False)}
    return named if seed is None else {**named, "seed": str(seed)}
