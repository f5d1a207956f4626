"""A vLLM server behind our lm-eval model: the tokenizer is read here, the weights never are."""

from typing import Any

from model_adapters.backends.local.loading import model_tokenizer
from model_adapters.backends.vllm import CONCURRENCY, open_vllm
from model_adapters.errors import SteerError
from model_adapters.harnesses.lm_eval_arguments import HookArguments, truth, whole
from model_adapters.harnesses.lm_eval_host import Host
from model_adapters.harnesses.lm_eval_runner import Server, identity_arguments
from model_adapters.harnesses.served import known_shape


async def open_served(given: HookArguments, server: Server) -> Host:
    """A probed backend on the server, with the tokenizer of `pretrained`.

    Raises SteerError where the tokenizer or the server isn't there, or they don't fit the steering.
    """
    hf = dict(given.hf)
    name = hf["pretrained"]
    if not isinstance(name, str):
        raise SteerError("runner=vllm takes no model object; pretrained=… names the model, the server runs it")
    thinking = None if hf.get("enable_thinking") is None else truth("enable_thinking", hf["enable_thinking"])
    end = _end_of_thinking(hf.get("think_end_token"))
    if thinking and end is None:
        raise SteerError("enable_thinking=True needs think_end_token=…, the token after which the answer begins")
    template = dict(hf.get("chat_template_args") or {})
    if thinking is not None:
        template["enable_thinking"] = thinking
    add_bos = None if hf.get("add_bos_token") is None else truth("add_bos_token", hf["add_bos_token"])
    tokenizer = _tokenizer(hf, add_bos)
    engine = await open_vllm(
        name,
        tokenizer,
        server.base_url,
        served_as=server.served_as,
        add_bos_token=add_bos,
        prefix_token_id=_number(hf, "prefix_token_id", 0),
        max_length=_number(hf, "max_length", 1),
        template_arguments=template,
        template_mode=given.chat_template,
        revision=hf.get("revision"),
        arguments=identity_arguments(given.hf, given.own_seed),
        config_shape=known_shape(name, hf.get("revision")),
        concurrency=given.rows or CONCURRENCY,
    )
    try:
        given.choice.check_shape(name, engine.n_layers, engine.d_model)
    except SteerError:
        await engine.aclose()
        raise
    described = {"model_num_parameters": None, "model_revision": hf.get("revision")}
    return Host(engine, tokenizer, template, end, bool(thinking), described=described)


def _tokenizer(hf: dict[str, Any], add_bos: bool | None) -> Any:
    """The tokenizer, with the options that `hf` hands on to it."""
    asked = {name: hf[name] for name in ("subfolder", "trust_remote_code") if hf.get(name)}
    if hf.get("use_fast_tokenizer") is not None:
        asked["use_fast"] = hf["use_fast_tokenizer"]
    if add_bos is not None:
        asked["add_bos_token"] = add_bos
    given = hf.get("tokenizer")
    if given is not None and not isinstance(given, str):
        return given
    return model_tokenizer(given or hf["pretrained"], hf.get("revision"), asked)


def _end_of_thinking(given: object) -> str | int | None:
    if given is None or isinstance(given, int):
        return given
    return int(str(given)) if str(given).isdigit() else str(given)


def _number(hf: dict[str, Any], name: str, least: int) -> int | None:
    return None if hf.get(name) is None else whole(name, hf[name], least)
