"""`prompt_steered`: a prompt-only steering in front of any model of lm-eval. Imports lm-eval; torch only where the
model behind it does."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lm_eval import utils
from lm_eval.api.model import LM, hash_args
from lm_eval.api.registry import get_model

from model_adapters.backend import Message, Messages, Sampling, with_system_prompts
from model_adapters.backends.local.embedded import EMBEDDED, model_path
from model_adapters.backends.wrapped import Answer, WrappedBackend, sent_proof
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import as_chat, messages_of, plain_form
from model_adapters.harnesses.lm_eval_arguments import merged, refuse_keys, steering_choice, text
from model_adapters.harnesses.lm_eval_record import ProofFile, guard_cache, run_described, run_info
from model_adapters.harnesses.lm_eval_requests import NO_ENTRY, chat_of, check_unaltered, holds, named, sample_indices
from model_adapters.harnesses.loop import LoopThread
from model_adapters.identity import ModelIdentity

OURS = ("hook_steered", "goodfire_steered", "prompt_steered")


@dataclass
class _Forwarding:
    """The cache hook of the model behind: stores its answers under the requests that lm-eval knows, and proves them.

    `waiting` maps the hash of a sent request to the places in `requests` that it answers.
    """

    owner: "PromptSteered"
    requests: Sequence[Any] = ()
    indices: Sequence[int] = ()
    sent: Sequence[Messages | None] = ()
    waiting: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    dbdict: None = None

    def add_partial(self, kind: str, arguments: Any, answer: Any) -> None:
        """Called by the model behind for each finished answer."""
        for place in self.waiting.pop(hash_args(kind, arguments), []):
            self.settle(kind, place, answer)

    def settle(self, kind: str, place: int, answer: Any) -> None:
        """Store and prove one answer."""
        owner, request = self.owner, self.requests[place]
        shown = {"completion": answer} if kind == "generate_until" else {"logprob": _total(answer)}
        owner.proof.write(request, self.indices[place], owner.sent_proof, self.sent[place], **shown)
        owner.cache_hook.add_partial(kind, request.args, answer)


class PromptSteered(LM):
    """Any model of lm-eval with a steering that is a prompt: `--model prompt_steered --model_args base=…`.

    `base` is an lm-eval model's name (or a model object); all arguments that aren't the steering's go to it. The
    steering is `behavior=` (method `prompt`), another method that yields only prompts, or `steering=FILE`. What the
    base model can't do stays undone. Raises SteerError for other steerings before the base model is opened.
    """

    def __init__(self, base: Any = None, proof: str | None = None, **arguments: Any) -> None:
        super().__init__()
        refuse_keys(arguments)
        if base is None:
            raise SteerError("prompt_steered needs base=…, the name of one of lm-eval's models (base=hf, …)")
        choice, rest = steering_choice(arguments, default_method="prompt")
        self._identity = _identity(base, rest)
        loop = LoopThread()
        try:
            self.steering = loop.run(choice.resolve(WrappedBackend(_never, self._identity)))
        finally:
            loop.close()
        self.sent_proof = sent_proof(self.steering, self._identity)
        self._base = base if isinstance(base, LM) else _opened(text("base", base), rest)
        self.proof = ProofFile(self.sent_proof.identity, proof)
        self._rank, self._world_size = self._base.rank, self._base.world_size
        self._device = self._base.device

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "PromptSteered":
        """Open with model arguments; one that the command line gives too (`device`) is the user's."""
        return cls(**merged(arg_dict, additional_config))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "PromptSteered":
        """The same from `name=value,…`."""
        return cls(**merged(utils.simple_parse_args_string(arg_string), additional_config))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The base model's answers to the steered prompts."""
        answers: list[str] = self._forward("generate_until", requests)
        return answers

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The base model's log-probabilities after the steered prompts."""
        answers: list[tuple[float, bool]] = self._forward("loglikelihood", requests)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The base model's log-probabilities of whole texts; refused where the steering is a prompt."""
        if self.steering:
            raise Refused("a system prompt can't enter a text that is scored whole; steer otherwise")
        answers: list[float] = self._forward("loglikelihood_rolling", requests)
        return answers

    def _forward(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        steered = [self._steered(request) for request in requests]
        hook = _Forwarding(self, requests, sample_indices(requests), [sent for _, sent in steered])
        for place, (request, _) in enumerate(steered):
            hook.waiting[hash_args(kind, request.args)].append(place)
        self._base.set_cache_hook(hook)
        answers: list[Any] = list(getattr(self._base, kind)([request for request, _ in steered]))
        for places in hook.waiting.values():
            for place in places:  # models that report nothing before the end
                hook.settle(kind, place, answers[place])
        return answers

    def _steered(self, request: Any) -> tuple[Any, Messages | None]:
        """The request as the base model gets it, and the messages it holds where they are known."""
        messages = messages_of(request.doc)
        if messages is None:
            prompts = self.steering.system_prompts
            if prompts and not self._holds(request.args[0]):
                raise Refused(f"{named(request)}: {NO_ENTRY}")
            chat = chat_of(request.args[0])
            known = chat is not None and all(isinstance(turn.get("content"), str) for turn in chat)
            return request, tuple(Message(turn["role"], turn["content"]) for turn in chat) if chat and known else None
        sent = with_system_prompts(messages, self.steering)
        prompt = self._rendered(sent)
        check_unaltered(request, messages, (plain_form(messages), self._rendered(messages, check=False), prompt))
        arguments = (prompt, *request.args[1:])
        return replace(request, arguments=arguments, resps=[], filtered_resps={}), sent

    def _rendered(self, messages: Messages, check: bool = True) -> Any:
        try:
            rendered = self._base.apply_chat_template(as_chat(messages))
        except (NotImplementedError, ValueError) as problem:
            raise Refused(f"{self._identity.name}: no chat template; use a base model that has one") from problem
        if check and not self._holds(rendered):
            raise Refused(
                f"{self._identity.name}: its chat template drops system messages, so the steering would not be sent; "
                "use another base model"
            )
        return rendered

    def _holds(self, prompt: Any) -> bool:
        chat = chat_of(prompt)
        whole = str(prompt) if chat is None else "\n".join(str(turn.get("content")) for turn in chat)
        return holds(whole, self.steering.system_prompts)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        """The base model's rendering of the conversation, the steering's system prompts in it."""
        if not self.steering:
            return self._base.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)
        messages = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)  # type: ignore[arg-type]
        sent = as_chat(with_system_prompts(messages, self.steering))
        rendered = self._base.apply_chat_template(sent, add_generation_prompt=add_generation_prompt)
        if not self._holds(rendered):
            raise Refused(f"{self._identity.name}: its chat template drops system messages; use another base model")
        return rendered

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The base model's template, for the results."""
        template: str | None = self._base.chat_template(chat_template)
        return template

    @property
    def tokenizer_name(self) -> str:
        """Names the base model's tokenizer and the steering in lm-eval's cache of requests."""
        return f"{self._base.tokenizer_name}-steering-{self.steering.fingerprint}"

    def all_gather(self, tensor: Any) -> Any:
        """The base model's own, for launches on several processes."""
        return self._base.all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        """The base model's own."""
        return self._base.gather_object(obj, dst)

    def barrier(self) -> None:
        """The base model's own."""
        self._base.barrier()

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Use a response cache. Raises SteerError where it holds another run's answers."""
        guard_cache(cache_hook, self.sent_proof.identity, run_described(self._identity, self.steering))
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model and the steering."""
        known = self._base.get_model_info() if hasattr(self._base, "get_model_info") else {}
        return {**known, "steer": run_info(self._identity, self.steering, self.proof)}


def _identity(base: Any, arguments: Mapping[str, Any]) -> ModelIdentity:
    """The base model as far as its arguments tell; what it doesn't disclose is None."""
    kind = base if isinstance(base, str) else type(base).__name__
    name = next((str(arguments[key]) for key in ("pretrained", "model", "path", "engine") if arguments.get(key)), kind)
    left_out = ("pretrained", "model", "base_url", "revision", "dtype", "batch_size", "max_batch_size", "device")
    return ModelIdentity(
        name=name,
        backend=f"lm-eval {kind}",
        revision=arguments.get("revision"),
        dtype=arguments.get("dtype"),
        url=arguments.get("base_url"),
        arguments={key: str(value) for key, value in sorted(arguments.items()) if key not in left_out},
    )


def _opened(base: str, arguments: Mapping[str, Any]) -> Any:
    if base in OURS:
        raise SteerError(f"base={base} is steered already; give one of lm-eval's own models (base=hf, …)")
    try:
        made = get_model(base)
    except (KeyError, ValueError) as problem:
        raise SteerError(
            f"base={base} is none of lm-eval's models; base=hf and base=local-chat-completions are"
        ) from problem
    if arguments.get("pretrained") == EMBEDDED:
        arguments = {**arguments, "pretrained": model_path(EMBEDDED)}
    return made.create_from_arg_obj(dict(arguments), None)


async def _never(messages: Messages, sampling: Sampling) -> Answer:
    raise Refused("the method asks the model while it prepares, which prompt_steered can't; use `steer prepare` first")


def _total(answer: Any) -> float:
    return float(answer[0] if isinstance(answer, (tuple, list)) else answer)
