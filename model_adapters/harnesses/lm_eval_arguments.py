"""lm-eval's model arguments, sorted and checked before anything is loaded. No torch here."""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from model_adapters.backend import Backend
from model_adapters.behavior import Behavior, find_behavior
from model_adapters.errors import SteerError
from model_adapters.features import Dictionary, resolve
from model_adapters.harnesses.lm_eval_runner import SERVER_ARGUMENTS, Server, refuse_loading, server_of
from model_adapters.method import SteeringMethod
from model_adapters.methods import build_method, method_class, parameter_fields
from model_adapters.preparation import prepare
from model_adapters.secret import looks_secret
from model_adapters.steering import Steering
from model_adapters.steering_file import load_steering


@dataclass(frozen=True)
class HfArgument:
    """What becomes of an argument of lm-eval's `hf`. A refused one passes where its value is `harmless`."""

    honoured: bool
    says: str
    harmless: tuple[object, ...] = (None,)


def _honoured(says: str) -> HfArgument:
    return HfArgument(True, says)


HF_ARGUMENTS: Mapping[str, HfArgument] = {
    "pretrained": _honoured("`embedded`, a Hugging Face id, or a folder"),
    "backend": HfArgument(False, "only decoder-only models can be steered", (None, "default", "causal")),
    "revision": _honoured("as in `hf`"),
    "subfolder": _honoured("as in `hf`"),
    "tokenizer": _honoured("as in `hf`"),
    "truncation": HfArgument(False, "long prompts are cut from the left, as in `hf` without it", (None, False)),
    "logits_cache": _honoured("accepted; rows with equal contexts are always shared, which changes no answer"),
    "max_length": _honoured("as in `hf`"),
    "device": _honoured("as in `hf`; a GPU asked for where there is none becomes what there is"),
    "dtype": _honoured("as in `hf`; when it is not given, `embedded` runs in bfloat16 where that is native"),
    "softmax_dtype": HfArgument(False, "log-probabilities are always taken in float32", (None, "float32")),
    "mixed_precision_dtype": HfArgument(False, "set `dtype` instead"),
    "batch_size": _honoured("1 or `auto` lets the engine choose its rows, a larger number is a ceiling"),
    "max_batch_size": HfArgument(False, "goes with `batch_size=auto`; set `max_rows` instead"),
    "trust_remote_code": _honoured("as in `hf`"),
    "use_fast_tokenizer": _honoured("as in `hf`"),
    "add_bos_token": _honoured("as in `hf`"),
    "prefix_token_id": _honoured("as in `hf`"),
    "parallelize": _honoured("as in `hf`: layers over several devices, vectors follow them"),
    "max_memory_per_gpu": _honoured("as in `hf`"),
    "max_cpu_memory": _honoured("as in `hf`"),
    "offload_folder": _honoured("as in `hf`"),
    "tp_plan": HfArgument(False, "one process owns the model; use `parallelize=True`"),
    "peft": _honoured("as in `hf`"),
    "delta": _honoured("as in `hf`"),
    "autogptq": HfArgument(False, "give the GPTQ checkpoint as `pretrained`; transformers reads it", (None, False)),
    "gptqmodel": HfArgument(False, "give the GPTQ checkpoint as `pretrained`; transformers reads it", (None, False)),
    "gguf_file": _honoured("as in `hf`"),
    "think_end_token": _honoured("as in `hf`"),
    "enable_thinking": _honoured("as in `hf`"),
    "chat_template_args": _honoured("as in `hf`; a mapping, so give `--model_args` as JSON"),
}
"""Every argument of lm-eval's `hf`. The documentation holds the same table; a test compares both with `hf` itself."""

LOADER_ARGUMENTS = (
    *("attn_implementation", "device_map", "low_cpu_mem_usage", "use_safetensors", "variant", "cache_dir"),
    *("local_files_only", "load_in_8bit", "load_in_4bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_type"),
    *("bnb_4bit_use_double_quant", "max_memory", "quantization_config"),
)
"""Further arguments that `hf` hands on to transformers' `from_pretrained`, and so do we."""

STEERING_ARGUMENTS = ("steering", "method", "behavior", "draw", "redraw")
HOOK_ARGUMENTS = (
    *STEERING_ARGUMENTS,
    *("dictionary", "chat_template", "max_rows", "kv_memory_mb", "seed", "proof", "runner", "store", *SERVER_ARGUMENTS),
)
DEFAULT_SEED = 1234
"""What sampled answers are seeded by where no `seed` is given; lm-eval's own seed of torch."""

CHAT_TEMPLATE_MODES = ("auto", "always", "never")

_TEXTS = ("pretrained", "revision", "subfolder", "tokenizer", "peft", "delta", "gguf_file")


def refuse_keys(arguments: Mapping[str, object]) -> None:
    """Raise SteerError, by name, for an argument that looks like a key: lm-eval writes arguments into its results."""
    for name, value in arguments.items():
        # `hf` has arguments that a word of these is part of (`add_bos_token`).
        if (name not in HF_ARGUMENTS and looks_secret(name, value)) or looks_secret("", value):
            raise SteerError(
                f"model argument {name!r} looks like a key, and model arguments are written into the results; "
                "set it in the environment instead (HF_TOKEN, OPENAI_API_KEY, …)"
            )


def merged(arguments: Mapping[str, Any], more: Mapping[str, Any] | None) -> dict[str, Any]:
    """Model arguments over those that lm-eval's command line adds (`device`, `batch_size`); the user's win."""
    return {**{name: value for name, value in (more or {}).items() if value is not None}, **arguments}


def text(name: str, value: object) -> str:
    """A text argument. Raises SteerError where lm-eval made a number of it."""
    if not isinstance(value, str) or not value:
        raise SteerError(f"{name} is {value!r}, not a text; put it in quotes: {name}='\"…\"'")
    return value


def whole(name: str, value: object, least: int) -> int:
    """A whole number of at least `least`, from what command lines make of it (3, 3.0, "3")."""
    try:
        number = float(value)  # type: ignore[arg-type]
        if isinstance(value, bool) or not math.isfinite(number) or number != int(number) or number < least:
            raise ValueError
    except (TypeError, ValueError):
        raise SteerError(f"{name} is {value!r}; give a whole number from {least}") from None
    return int(number)


def truth(name: str, value: object) -> bool:
    """True or false, from what command lines make of it."""
    known = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() not in known:
        raise SteerError(f"{name} is {value!r}; give true or false")
    return known[str(value).lower()]


@dataclass(frozen=True)
class SteeringChoice:
    """Which steering a run asks for: a frozen one, or a method's for a behavior. Names are checked when it is made."""

    frozen: Steering | None = None
    method: SteeringMethod | None = None
    behavior: Behavior | None = None
    draw: int = 0
    redraw: bool = False

    async def resolve(self, backend: Backend, dictionary: Dictionary | None = None) -> Steering:
        """The steering, prepared on the backend's model unless it was; features by index become vectors where there is
        a `dictionary`. Raises SteerError where it can't run."""
        if self.frozen is None and self.method is not None:
            prepared = await prepare(
                self.method, self.behavior, backend, draw=self.draw, redraw=self.redraw, dictionary=dictionary
            )
            return prepared.steering
        steering = self.frozen or Steering()
        if steering.needs_dictionary and dictionary is not None:
            steering = resolve(steering, dictionary)
        if reasons := backend.refusals(steering):
            raise SteerError("; ".join(reasons))
        return steering

    def check_shape(self, name: str, n_layers: int, d_model: int) -> None:
        """Raise SteerError for layers and widths that model `name` doesn't have."""
        wanted = getattr(self.method, "layer", None)
        layers = [wanted] if wanted is not None else list(self.frozen.layers) if self.frozen else []
        for layer in layers:
            if not 0 <= layer < n_layers:
                raise SteerError(f"layer {layer} is out of range; {name} has layers 0 to {n_layers - 1}")
        for one in self.frozen.on_residuals if self.frozen else ():
            vector = getattr(one, "vector", getattr(one, "direction", getattr(one, "encoder", None)))
            if vector is not None and vector.size != d_model:
                kind = type(one).__name__
                raise SteerError(f"{kind} has width {vector.size}, {name} has {d_model}; prepare it on this model")


def steering_choice(arguments: Mapping[str, Any], default_method: str | None) -> tuple[SteeringChoice, dict[str, Any]]:
    """The choice, and the arguments that are none of its own.

    The method's parameters are those of its dataclass. Raises SteerError for contradictions and unknown names.
    """
    rest = {name: value for name, value in arguments.items() if name not in STEERING_ARGUMENTS}
    given = {name: value for name, value in arguments.items() if name in STEERING_ARGUMENTS and value is not None}
    if "steering" in given:
        if others := sorted(given.keys() - {"steering"}):
            raise SteerError(f"steering=FILE is a frozen steering; leave {', '.join(others)} out")
        return SteeringChoice(frozen=load_steering(text("steering", given["steering"]))), rest
    if "method" not in given and default_method is None:
        raise SteerError("no steering is named; give steering=FILE, or method=… (method=control runs unsteered)")
    name = text("method", given.get("method", default_method))
    known = {item.name for item in parameter_fields(method_class(name))}
    parameters = {key: rest.pop(key) for key in list(rest) if key in known}
    named = given.get("behavior")
    if named is not None and (not isinstance(named, str) or named.strip().casefold() == "all"):
        raise SteerError(f"behavior is {named!r}; one run of lm-eval has one steering: name one behavior")
    choice = SteeringChoice(
        method=build_method(name, parameters),
        behavior=None if named is None else find_behavior(named),
        draw=whole("draw", given.get("draw", 0), 0),
        redraw=truth("redraw", given.get("redraw", False)),
    )
    if choice.behavior is None and getattr(choice.method, "needs_behavior", True):
        raise SteerError(f"method {name} needs behavior=…; `steer behaviors` lists them")
    return choice, rest


@dataclass(frozen=True)
class HookArguments:
    """The arguments of `hook_steered`, checked. `hf` is what lm-eval's `hf` is opened with."""

    choice: SteeringChoice
    hf: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str = "auto"
    rows: int | None = None
    kv_memory_mb: int | None = None
    seed: int = DEFAULT_SEED
    proof: str | None = None
    dictionary: str | None = None
    store: object = None
    server: Server | None = None

    @property
    def own_seed(self) -> int | None:
        """The seed, where it isn't the one that stands for none given."""
        return None if self.seed == DEFAULT_SEED else self.seed


def hook_arguments(arguments: Mapping[str, Any]) -> HookArguments:
    """Sort and check all arguments of `hook_steered`. Raises SteerError by name, before anything is loaded."""
    refuse_keys(arguments)
    if arguments.get("pretrained") is None:
        raise SteerError("hook_steered needs pretrained=…: `embedded`, a Hugging Face id, or a folder")
    choice, rest = steering_choice(arguments, default_method=None)
    own = {name: rest.pop(name) for name in list(rest) if name in HOOK_ARGUMENTS}
    _refuse_unknown(rest, choice)
    hf = {name: value for name, value in rest.items() if _is_passed_on(name, value)}
    mode = own.get("chat_template") or "auto"
    if mode not in CHAT_TEMPLATE_MODES:
        raise SteerError(f"chat_template is {mode!r}; it is one of {', '.join(CHAT_TEMPLATE_MODES)}")
    server = server_of(own)
    if server is not None:
        refuse_loading({**hf, **own}, LOADER_ARGUMENTS)
    proof, dictionary, memory = (own.get(name) for name in ("proof", "dictionary", "kv_memory_mb"))
    return HookArguments(
        choice=choice,
        hf=hf,
        chat_template=mode,
        rows=_rows(hf.pop("batch_size", None), own.get("max_rows")),
        kv_memory_mb=None if memory is None else whole("kv_memory_mb", memory, 1),
        seed=whole("seed", own.get("seed", DEFAULT_SEED), 0),
        proof=None if proof is None else text("proof", proof),
        dictionary=None if dictionary is None else text("dictionary", dictionary),
        store=own.get("store"),
        server=server,
    )


def _refuse_unknown(rest: Mapping[str, Any], choice: SteeringChoice) -> None:
    for name in rest:
        if name in HF_ARGUMENTS or name in LOADER_ARGUMENTS:
            continue
        taken = () if choice.method is None else tuple(item.name for item in parameter_fields(type(choice.method)))
        known: Iterable[str] = (*HF_ARGUMENTS, *LOADER_ARGUMENTS, *HOOK_ARGUMENTS, *taken)
        close = get_close_matches(name, known, n=1)
        guess = f"did you mean {close[0]!r}?" if close else "docs/lm_eval.md lists them"
        whose = f"method {choice.method.name} neither" if choice.method else "a frozen steering has no parameters"
        raise SteerError(f"hook_steered has no argument {name!r} ({whose}); {guess}")


def _is_passed_on(name: str, value: object) -> bool:
    """Whether `hf` is given this argument. Raises SteerError where it is refused or of the wrong type."""
    if value is None:
        return False
    rule = HF_ARGUMENTS.get(name)
    if rule is not None and not rule.honoured:
        if value not in rule.harmless:
            raise SteerError(f"hook_steered refuses {name}={value!r}: {rule.says}")
        return False
    if name in _TEXTS and isinstance(value, (int, float)):
        text(name, value)
    return True


def _rows(batch_size: object, max_rows: object) -> int | None:
    """The ceiling on rows of one forward pass; None lets the engine choose. An exact `max_rows` goes before."""
    if max_rows is not None:
        return whole("max_rows", max_rows, 1)
    if isinstance(batch_size, str) and batch_size.partition(":")[0] == "auto":
        return None
    number = whole("batch_size", 1 if batch_size is None else batch_size, 1)
    return None if number == 1 else number


def refuse_parallel_launch() -> None:
    """Raise SteerError under a data-parallel launch (`accelerate launch`, `torchrun`)."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count != "1":
        raise SteerError(
            f"hook_steered runs in one process, this is one of {count} (data-parallel launch); "
            "start plain lm_eval, and spread a large model with parallelize=True"
        )
