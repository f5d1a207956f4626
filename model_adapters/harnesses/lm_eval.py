"""The models `hook_steered` and `prompt_steered` of lm-evaluation-harness. Imports lm-eval; torch with the model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lm_eval import utils
from lm_eval.api.model import LM
from tqdm import tqdm  # type: ignore[import-untyped]

from model_adapters.backend import (
    Completion,
    Likelihood,
    Message,
    Prompt,
    Request,
    Text,
    check_applied,
    with_system_prompts,
)
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.documents import as_chat
from model_adapters.harnesses.lm_eval_arguments import hook_arguments, merged, refuse_parallel_launch
from model_adapters.harnesses.lm_eval_prompt import PromptSteered
from model_adapters.harnesses.lm_eval_record import ProofFile, guard_cache, run_described, run_info
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

__all__ = ["HookSteered", "PromptSteered"]


class HookSteered(LM):
    """A local model with any steering, for lm-eval: `--model hook_steered`.

    lm-eval's `hf` loads the weights and the tokenizer; the local backend runs them. Arguments are those of `hf`
    (docs/lm_eval.md says which are refused), the steering (`steering=FILE`, or `method=`, `behavior=` and the method's
    parameters, `draw=`, `redraw=`), and `chat_template=auto|always|never`, `max_rows=`, `seed=`, `proof=`, `runner=`.
    Raises SteerError before any weight is read where an argument is wrong.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        given = hook_arguments(arguments)
        refuse_parallel_launch()
        from model_adapters.harnesses.lm_eval_hf import open_hf

        self._loop = LoopThread()
        self._host, self.backend = open_hf(given)
        self._device = self._host.device
        self._seed = given.seed
        self.steering = self._loop.run(given.choice.resolve(self.backend))
        self._run = self.backend.identity.run(self.steering.fingerprint)
        self._proof = ProofFile(self._run, given.proof)
        opening = template_opening(self.backend)
        self._rule = PromptRule(given.chat_template, self.steering, self.backend, opening)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "HookSteered":
        """Open with model arguments; one that the command line gives too (`device`) is the user's."""
        return cls(**merged(arg_dict, additional_config))

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> "HookSteered":
        """The same from `name=value,…`."""
        return cls(**merged(utils.simple_parse_args_string(arg_string), additional_config))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer per request, in order; each is stored and proved as it finishes."""
        indices = sample_indices(requests)
        prepared = [self._generation(request, index) for request, index in zip(requests, indices, strict=True)]

        def read(place: int, completion: Completion) -> tuple[str, dict[str, Any]]:
            asked, cut = prepared[place]
            thinking = self._host.think_end_token
            text = after_thinking(completion.text, thinking, completion.token_ids, self.backend.encoding)
            return cut_at(text, asked.sampling.stop), {
                "completion": completion.text,
                "tokens_in": completion.tokens_in,
                "tokens_out": completion.tokens_out,
                "tokens_cut": cut,
                "stop_reason": completion.stop_reason,
                "seed": completion.seed,
            }

        asked = [one for one, _ in prepared]
        calls: list[Call[Any]] = [partial(self.backend.complete, one) for one in asked]
        answers: list[str] = self._answers(requests, [one.prompt for one in asked], calls, read, disable_tqdm)
        return answers

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each (context, continuation) its log-probability and whether greedy decoding would give it."""
        if self._host.enable_thinking:
            raise Refused("enable_thinking=True and log-likelihoods exclude each other; leave enable_thinking out")
        prompts = [self._rule.prompt(request) for request in requests]
        calls: list[Call[Any]] = [
            partial(self.backend.score, prompt, self._rule.continuation(request, prompt), self.steering)
            for request, prompt in zip(requests, prompts, strict=True)
        ]

        def read(_: int, scored: Likelihood) -> tuple[tuple[float, bool], dict[str, Any]]:
            return (scored.total, scored.is_greedy), _summary(scored)

        answers: list[tuple[float, bool]] = self._answers(requests, prompts, calls, read, disable_tqdm)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """For each text its log-probability, in disjoint windows; every token is steered as response."""
        texts = [self._rule.whole_text(request) for request in requests]
        calls: list[Call[Any]] = [partial(self.backend.score_rolling, one.text, self.steering) for one in texts]

        def read(_: int, scored: Likelihood) -> tuple[float, dict[str, Any]]:
            return scored.total, _summary(scored)

        answers: list[float] = self._answers(requests, texts, calls, read, disable_tqdm)
        return answers

    def _generation(self, request: Any, sample_index: int) -> tuple[Request, int]:
        """Our request, and how many tokens of its prompt were cut."""
        sampling = sampling_of(request.args[1], self._seed)
        stored = getattr(self.cache_hook, "dbdict", None) is not None
        if stored and not sampling.is_greedy and (request.repeats or 1) > 1 and not request.args[1].get("do_sample"):
            raise Refused(f"{named(request)}: repeated samples would share one cached answer; add do_sample=true")
        room = self.backend.max_length - sampling.max_tokens
        if room < 1:
            raise Refused(
                f"{named(request)}: max_gen_toks={sampling.max_tokens} leaves no room for a prompt in the model's "
                f"{self.backend.max_length} tokens; lower it with --gen_kwargs max_gen_toks=…"
            )
        end = self._host.tok_decode(self._host.eot_token_id, skip_special_tokens=False)
        stop = sampling.stop if not end or end in sampling.stop else (*sampling.stop, end)
        prompt, cut = self._rule.prompt(request), 0
        if isinstance(prompt, Text):
            text, cut = cut_from_left(prompt.text, room, self.backend.encoding)
            prompt = Text(text, prompt.entered)
        else:
            length = len(self.backend.encoding.prompt(prompt, self.steering)[0])
            if length >= self.backend.max_length:
                raise Refused(
                    f"{named(request)}: the prompt has {length} tokens, the model takes {self.backend.max_length} with "
                    "the answer; leave this document out (--limit, --samples), or use a model that takes more"
                )
        return Request(prompt, self.steering, replace(sampling, stop=stop), sample_index), cut

    def _answers(
        self,
        requests: Sequence[Any],
        prompts: Sequence[Prompt],
        calls: Sequence[Call[Any]],
        read: Callable[[int, Any], tuple[Any, dict[str, Any]]],
        disable_tqdm: bool,
    ) -> list[Any]:
        """Run all calls at once; prove, store and give each answer.

        Raises SteerError when one failed, after the others were stored.
        """
        kind = requests[0].request_type if requests else ""
        indices = sample_indices(requests)
        answers: list[Any] = [None] * len(requests)
        failures: list[tuple[int, BaseException]] = []
        with tqdm(total=len(calls), disable=disable_tqdm, desc=f"Running {kind} requests") as bar:
            for place, outcome in self._loop.as_finished(calls):
                bar.update()
                try:
                    if isinstance(outcome, BaseException):
                        raise outcome
                    check_applied(self.steering, outcome.proof, self.backend.identity)
                except Exception as problem:
                    failures.append((place, problem))
                    continue
                answer, shown = read(place, outcome)
                prompt = prompts[place]
                sent = None if isinstance(prompt, Text) else with_system_prompts(prompt, self.steering)
                self._proof.write(requests[place], indices[place], outcome.proof, sent, **shown)
                self.cache_hook.add_partial(kind, requests[place].args, answer)
                answers[place] = answer
        if failures:
            place, first = failures[0]
            raise SteerError(
                f"{len(failures)} of {len(requests)} requests failed, the first is {named(requests[place])}: "
                f"{type(first).__name__}: {first}; --use_cache keeps the answers of the others"
            ) from first
        return answers

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text, the steering's system prompts in it."""
        if not self.steering.system_prompts:
            plain: str = self._host.apply_chat_template(chat_history, add_generation_prompt=add_generation_prompt)
            return plain
        messages = tuple(Message(turn["role"], turn["content"]) for turn in chat_history)  # type: ignore[arg-type]
        sent = with_system_prompts(messages, self.steering)
        if add_generation_prompt:
            return self.backend.render(sent)
        rendered: str = self._host.apply_chat_template(as_chat(sent), add_generation_prompt=False)
        return rendered

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, for the results."""
        template: str | None = self._host.chat_template(chat_template)
        return template

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in lm-eval's cache of requests; a steering that enters them is named too."""
        name: str = self._host.tokenizer_name
        return f"{name}-steering-{self.steering.fingerprint}" if self.steering.system_prompts else name

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Use a response cache. Raises SteerError where it holds another run's answers."""
        guard_cache(cache_hook, self._run, run_described(self.backend.identity, self.steering))
        super().set_cache_hook(cache_hook)

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model and the steering."""
        model = self.backend.model
        return {
            "model_num_parameters": model.num_parameters() if hasattr(model, "num_parameters") else None,
            "model_dtype": self.backend.identity.dtype,
            "model_revision": self._host.revision,
            "steer": run_info(self.backend.identity, self.steering, self._proof),
        }

    def close(self) -> None:
        """End the threads and take the hooks off the model."""
        self.backend.close()
        self._loop.close()


def _summary(scored: Likelihood) -> dict[str, Any]:
    return {"logprob": scored.total, "tokens_scored": len(scored.logprobs), "is_greedy": scored.is_greedy}
