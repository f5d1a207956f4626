"""The models `hook_steered`, `goodfire_steered` and `prompt_steered` of lm-eval. Imports it; torch with the model."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from model_adapters.backend import Likelihood, Message, Request, Text, with_system_prompts
from model_adapters.backends.stored import stored
from model_adapters.errors import Refused
from model_adapters.features import open_dictionary
from model_adapters.harnesses.answer_store import opened_store
from model_adapters.harnesses.documents import as_chat
from model_adapters.harnesses.lm_eval_answers import SteeredLM
from model_adapters.harnesses.lm_eval_arguments import HookArguments, hook_arguments, refuse_parallel_launch
from model_adapters.harnesses.lm_eval_goodfire import GoodfireSteered
from model_adapters.harnesses.lm_eval_host import Host
from model_adapters.harnesses.lm_eval_prompt import PromptSteered
from model_adapters.harnesses.lm_eval_record import ProofFile, run_info
from model_adapters.harnesses.lm_eval_reference import Answered, is_ours, with_reference
from model_adapters.harnesses.lm_eval_requests import (
    PromptRule,
    after_thinking,
    cut_at,
    cut_from_left,
    named,
    sample_indices,
    sampling_of,
    template_opening,
)
from model_adapters.harnesses.loop import Call, LoopThread

__all__ = ["GoodfireSteered", "HookSteered", "PromptSteered"]


class HookSteered(SteeredLM):
    """A model with any steering, for lm-eval: `--model hook_steered`.

    lm-eval's `hf` loads the weights and the tokenizer, and the local backend runs them; with `runner=vllm,base_url=`
    a vLLM server does. Arguments are those of `hf` (docs/lm_eval.md and docs/vllm.md say which are refused), the
    steering (`steering=FILE`, or `method=`, `behavior=` and the method's parameters, `draw=`, `redraw=`), and
    `chat_template=auto|always|never`, `max_rows=`, `seed=`, `proof=`, `runner=`, `base_url=`, `served_as=`,
    `store=`.
    Raises SteerError before any weight is read where an argument is wrong.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        given = hook_arguments(arguments)
        dictionary = open_dictionary(given.dictionary) if given.dictionary else None
        refuse_parallel_launch()
        self._store = opened_store(given.store)
        self.loop = LoopThread()
        self._host = _opened(given, self.loop)
        self.backend = self._engine = self._host.engine
        self._kept = stored(self._engine, self._store)
        self._device = self._host.device
        self._seed = given.seed
        self.steering = self.loop.run(given.choice.resolve(self.backend, dictionary))
        self.proof = ProofFile(self.run_identity, given.proof)
        opening = template_opening(self._engine)
        self._rule = PromptRule(given.chat_template, self.steering, self._engine, opening)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer per request, in order; each is stored and proved as it finishes."""
        indices = sample_indices(requests)
        prepared = [self._generation(request, index) for request, index in zip(requests, indices, strict=True)]

        def read(place: int, answered: Answered) -> tuple[str, dict[str, Any]]:
            asked, cut = prepared[place]
            completion = answered.completion
            thinking = self._host.think_end_token
            text = after_thinking(completion.text, thinking, completion.token_ids, self._engine.encoding)
            return cut_at(text, asked.sampling.stop), {
                "completion": completion.text,
                "tokens_in": completion.tokens_in,
                "tokens_out": completion.tokens_out,
                "tokens_cut": cut,
                "stop_reason": completion.stop_reason,
                "seed": completion.seed,
                "stored": completion.stored,
                "reference_nll": answered.reference_nll,
                "reference_reason": answered.reason,
            }

        asked = [one for one, _ in prepared]
        calls: list[Call[Any]] = [
            partial(with_reference, self._kept, one, is_ours(request))
            for one, request in zip(asked, requests, strict=True)
        ]
        answers: list[str] = self.answers(requests, [one.prompt for one in asked], calls, read, disable_tqdm)
        return answers

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) its log-probability and whether greedy decoding would give it."""
        if self._host.is_thinking:
            raise Refused("enable_thinking=True and log-likelihoods exclude each other; leave enable_thinking out")
        prompts = [self._rule.prompt(request) for request in requests]
        calls: list[Call[Any]] = [
            partial(self._kept.score, prompt, self._rule.continuation(request, prompt), self.steering)
            for request, prompt in zip(requests, prompts, strict=True)
        ]

        def read(_: int, scored: Likelihood) -> tuple[tuple[float, bool], dict[str, Any]]:
            return (scored.total, scored.is_greedy), _summary(scored)

        answers: list[tuple[float, bool]] = self.answers(requests, prompts, calls, read, disable_tqdm)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """For each text its log-probability, in disjoint windows; every token is steered as response."""
        texts = [self._rule.whole_text(request) for request in requests]
        calls: list[Call[Any]] = [partial(self._kept.score_rolling, one.text, self.steering) for one in texts]

        def read(_: int, scored: Likelihood) -> tuple[float, dict[str, Any]]:
            return scored.total, _summary(scored)

        answers: list[float] = self.answers(requests, texts, calls, read, disable_tqdm)
        return answers

    def _generation(self, request: Any, sample_index: int) -> tuple[Request, int]:
        """Our request, and how many tokens of its prompt were cut."""
        sampling = sampling_of(request.args[1], self._seed)
        stored = getattr(self.cache_hook, "dbdict", None) is not None
        if stored and not sampling.is_greedy and (request.repeats or 1) > 1 and not request.args[1].get("do_sample"):
            raise Refused(f"{named(request)}: repeated samples would share one cached answer; add do_sample=true")
        room = self._engine.max_length - sampling.max_tokens
        if room < 1:
            raise Refused(
                f"{named(request)}: max_gen_toks={sampling.max_tokens} leaves no room for a prompt in the model's "
                f"{self._engine.max_length} tokens; lower it with --gen_kwargs max_gen_toks=…"
            )
        end = self._host.end_of_turn
        stop = sampling.stop if not end or end in sampling.stop else (*sampling.stop, end)
        prompt, cut = self._rule.prompt(request), 0
        if isinstance(prompt, Text):
            text, cut = cut_from_left(prompt.text, room, self._engine.encoding)
            prompt = Text(text, prompt.entered)
        else:
            length = len(self._engine.encoding.prompt(prompt, self.steering)[0])
            if length >= self._engine.max_length:
                raise Refused(
                    f"{named(request)}: the prompt has {length} tokens, the model takes {self._engine.max_length} with "
                    "the answer; leave this document out (--limit, --samples), or use a model that takes more"
                )
        return Request(prompt, self.steering, replace(sampling, stop=stop), sample_index), cut

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, the steering's system prompts in it."""
        if not self.steering.system_prompts:
            return self._host.apply_chat_template(chat_history, add_generation_prompt)
        messages = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)  # type: ignore[arg-type]
        sent = with_system_prompts(messages, self.steering)
        if add_generation_prompt:
            return self._engine.render(sent)
        return self._host.apply_chat_template(as_chat(sent), add_generation_prompt=False)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the results."""
        return self._host.chat_template(chat_template)

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests; a steering that enters them is named too."""
        name = self._host.tokenizer_name
        return f"{name}-steering-{self.steering.fingerprint}" if self.steering.system_prompts else name

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model and the steering."""
        return {
            **self._host.described,
            "model_dtype": self.backend.identity.dtype,
            "steer": run_info(self.backend.identity, self.steering, self.proof),
        }

    def close(self) -> None:
        """End the threads, take the hooks off a model, close the connections to a server."""
        self.loop.run(self._engine.aclose())
        self.loop.close()
        if self._store is not None:
            self._store.close()


def _opened(given: HookArguments, loop: LoopThread) -> Host:
    """The model that the arguments name, in this process or on a server."""
    if given.server is not None:
        from model_adapters.harnesses.lm_eval_vllm import open_served

        return loop.run(open_served(given, given.server))
    from model_adapters.harnesses.lm_eval_hf import open_hf

    return open_hf(given)


def _summary(scored: Likelihood) -> dict[str, Any]:
    return {
        "logprob": scored.total,
        "tokens_scored": len(scored.logprobs),
        "is_greedy": scored.is_greedy,
        "stored": scored.stored,
    }
