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
from model_adapters.harnesses.lm_eval_arguments import HookArguments
from model_adapters.harnesses.lm_eval_host import Host
from model_adapters.harnesses.lm_eval_runner import identity_arguments

ROWS = 32
"""Rows of one forward pass where nothing is asked for."""


def open_hf(given: HookArguments) -> Host:
    """lm-eval's `hf` and a backend on its model. Raises SteerError where the model is not there or doesn't fit."""
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
    lm = apart(lambda: HFLM(**hf))
    if lm.backend != "causal":
        raise SteerError(f"{model}: an encoder-decoder model; only decoder-only models can be steered")
    revision = hf.get("revision")
    opening = partial(
        LocalBackend,
        lm.model,
        lm.tokenizer,
        name=model if is_named else str(getattr(lm.config, "name_or_path", "") or type(model).__name__),
        model_digest=_digest(hf) if is_named else state_digest(model),
        revision=revision or getattr(lm.config, "_commit_hash", None),
        max_length=lm.max_length,
        add_bos_token=hf.get("add_bos_token"),
        prefix_token_id=hf.get("prefix_token_id"),
        template_arguments=lm.chat_template_args,
        template_mode=given.chat_template,
        rows=given.rows or ROWS,
        kv_memory_mb=given.kv_memory_mb,
        arguments=identity_arguments(given.hf, given.own_seed),
    )
    return Host(
        apart(opening),
        lm.tokenizer,
        lm.chat_template_args,
        lm.think_end_token,
        bool(lm.enable_thinking),
        lm.device,
        {
            "model_num_parameters": lm.model.num_parameters() if hasattr(lm.model, "num_parameters") else None,
            "model_revision": lm.revision,
        },
    )


def _device(asked: object) -> str:
    """The device that is asked for where it is there: lm-eval's command line asks for a GPU on every machine."""
    import torch

    is_missing = str(asked).startswith("cuda") and not torch.cuda.is_available()
    return default_device() if asked is None or is_missing else str(asked)


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
    given.choice.check_shape(name, *model_shape(name, given.hf.get("revision")))
