"""Loading through lm-eval's `hf`, and handing model and tokenizer to the local backend. Imports torch."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from model_adapters.backends.local.apart import apart
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.backends.local.embedded import model_path
from model_adapters.backends.local.loading import default_device, default_dtype, model_shape
from model_adapters.backends.local.weights import model_digest, state_digest
from model_adapters.errors import SteerError
from model_adapters.harnesses.lm_eval_arguments import DEFAULT_SEED, HookArguments

CHANGES_ANSWERS = (
    *("subfolder", "tokenizer", "peft", "delta", "gguf_file", "think_end_token", "use_fast_tokenizer"),
    *("load_in_8bit", "load_in_4bit", "quantization_config", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type"),
    *("bnb_4bit_use_double_quant", "attn_implementation"),
)
"""Arguments of `hf` that enter the run identity by what was given; the others enter through what they do."""

ROWS = 32
"""Rows of one forward pass where nothing is asked for."""


def open_hf(given: HookArguments) -> tuple[HFLM, LocalBackend]:
    """The opened `hf` and a backend on its model. Raises SteerError where the model is not there or doesn't fit."""
    hf = dict(given.hf)
    model = hf["pretrained"]
    is_named = isinstance(model, str)
    if is_named:
        _check_shape(given, model)
        hf["pretrained"] = model_path(model)
        hf.setdefault("dtype", default_dtype(model))
        hf["device"] = _device(hf.get("device"))
        if isinstance(hf.get("tokenizer"), str):
            hf["tokenizer"] = model_path(hf["tokenizer"])
    host = apart(lambda: HFLM(**hf))
    if host.backend != "causal":
        raise SteerError(f"{model}: an encoder-decoder model; only decoder-only models can be steered")
    revision = hf.get("revision")
    opening = partial(
        LocalBackend,
        host.model,
        host.tokenizer,
        name=model if is_named else str(getattr(host.config, "name_or_path", "") or type(model).__name__),
        model_digest=_digest(hf) if is_named else state_digest(model),
        revision=revision or getattr(host.config, "_commit_hash", None),
        max_length=host.max_length,
        add_bos_token=hf.get("add_bos_token"),
        prefix_token_id=hf.get("prefix_token_id"),
        template_arguments=host.chat_template_args,
        template_mode=given.chat_template,
        rows=given.rows or ROWS,
        kv_memory_mb=given.kv_memory_mb,
        arguments=_arguments(given, hf),
    )
    return host, apart(opening)


def _device(asked: object) -> str:
    """The device that is asked for where it is there: lm-eval's command line asks for a GPU on every machine."""
    import torch

    is_missing = str(asked).startswith("cuda") and not torch.cuda.is_available()
    return default_device() if asked is None or is_missing else str(asked)


def _arguments(given: HookArguments, hf: Mapping[str, Any]) -> dict[str, str]:
    named = {name: str(hf[name]) for name in CHANGES_ANSWERS if hf.get(name) not in (None, "", False)}
    return named if given.seed == DEFAULT_SEED else {**named, "seed": str(given.seed)}


def _digest(hf: Mapping[str, Any]) -> str | None:
    folder = Path(hf["pretrained"]).expanduser()
    if hf.get("subfolder") and folder.is_dir():
        return model_digest(str(folder / hf["subfolder"]), hf.get("revision"))
    return model_digest(hf["pretrained"], hf.get("revision"))


def _check_shape(given: HookArguments, name: str) -> None:
    """Raise SteerError for layers and widths that the model's config already rules out, before weights are read."""
    unusual = ("gguf_file", "subfolder", "trust_remote_code")
    if any(given.hf.get(key) for key in unusual):
        return
    n_layers, d_model = model_shape(name, given.hf.get("revision"))
    wanted = getattr(given.choice.method, "layer", None)
    steering = given.choice.frozen
    layers = [wanted] if wanted is not None else list(steering.layers) if steering else []
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise SteerError(f"layer {layer} is out of range; {name} has layers 0 to {n_layers - 1}")
    for one in steering.on_residuals if steering else ():
        vector = getattr(one, "vector", getattr(one, "direction", getattr(one, "encoder", None)))
        if vector is not None and vector.size != d_model:
            kind = type(one).__name__
            raise SteerError(f"{kind} has width {vector.size}, {name} has {d_model}; prepare it on this model")
