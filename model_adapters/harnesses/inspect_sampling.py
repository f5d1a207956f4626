"""What becomes of each field of Inspect's GenerateConfig under `hook_steered`. Imports inspect_ai, no torch."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from inspect_ai.model import GenerateConfig

from model_adapters.backend import Sampling
from model_adapters.errors import Refused

HONOURED = frozenset({"max_tokens", "temperature", "top_p", "top_k", "seed", "stop_seqs", "extra_body"})
"""Fields that reach the model."""

LEFT_TO_INSPECT = frozenset(
    {
        "max_retries",
        "timeout",
        "attempt_timeout",
        "stream_idle_timeout",
        "max_connections",
        "adaptive_connections",
        "system_message",
        "max_tool_output",
        "parallel_tool_calls",
        "internal_tools",
        "reasoning_history",
        "fail_on_refusal",
        "cache_prompt",
        "cache",
    }
)
"""Fields that Inspect carries out before or after the request, or that change no answer of a model without tools."""

REFUSED: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "best_of": (1,),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "logit_bias": ({},),
        "num_choices": (1,),
        "logprobs": (False,),
        "top_logprobs": (0,),
        "prompt_logprobs": (),
        "fallback_models": ([],),
        "verbosity": (),
        "effort": (),
        "reasoning_effort": ("none",),
        "reasoning_mode": (),
        "reasoning_tokens": (0,),
        "reasoning_summary": ("none",),
        "response_schema": (),
        "extra_headers": ({},),
        "modalities": ([],),
        "batch": (False,),
    }
)
"""Fields that would change an answer in a way we can't, each with the values that ask for nothing."""

MAX_TOKENS = 2048
"""Where no `max_tokens` is given; the number of the 171 questions' protocol."""


def refused_fields(config: GenerateConfig) -> list[str]:
    """`name=value` of every field that is set and can't be honoured."""
    found = []
    for name, neutral in REFUSED.items():
        value = getattr(config, name, None)
        if value is not None and not any(value == one for one in neutral):
            found.append(f"{name}={value!r}")
    return found


def sampling_of(config: GenerateConfig, provider: str = "hook_steered") -> Sampling:
    """How tokens are chosen: greedy unless a temperature is given.

    Raises Refused for a field that can't be honoured, and for `top_p` or `top_k` without a temperature, which would
    otherwise be without effect.
    """
    refused = refused_fields(config)
    if not config.temperature:
        narrowed = {"top_p": config.top_p not in (None, 1.0), "top_k": config.top_k is not None}
        if set_ := [name for name, is_set in narrowed.items() if is_set]:
            raise Refused(f"{' and '.join(set_)} without temperature: this model is greedy then; set temperature too")
    if refused:
        raise Refused(f"{provider} can't honour {', '.join(refused)}; leave that out of the generate config")
    return Sampling(
        max_tokens=MAX_TOKENS if config.max_tokens is None else config.max_tokens,
        temperature=config.temperature or 0.0,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=config.top_k,
        seed=config.seed,
        stop=_stops(config.stop_seqs),
    )


def _stops(given: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(given or ())
