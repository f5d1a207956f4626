"""`goodfire_steered`: an Ember service as a model of lm-eval. Imports lm-eval; torch only for a service in here."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from model_adapters.backend import Completion, Message, Messages, Proof, Request
from model_adapters.backends.local import open_local
from model_adapters.backends.stored import stored
from model_adapters.errors import Refused, SteerError
from model_adapters.harnesses.answer_store import opened_store
from model_adapters.harnesses.documents import messages_of, plain_form
from model_adapters.harnesses.goodfire import CLIENT, SERVICE, open_service, service_choice
from model_adapters.harnesses.lm_eval_answers import SteeredLM
from model_adapters.harnesses.lm_eval_arguments import (
    CHAT_TEMPLATE_MODES,
    DEFAULT_SEED,
    STEERING_ARGUMENTS,
    SteeringChoice,
    refuse_keys,
    steering_choice,
    text,
    whole,
)
from model_adapters.harnesses.lm_eval_record import ProofFile, run_info
from model_adapters.harnesses.lm_eval_requests import check_unaltered, cut_at, named, sampling_of
from model_adapters.harnesses.lm_eval_requests import sample_indices as indices_of
from model_adapters.harnesses.loop import Call, LoopThread

METHOD, BEHAVIOR = "auto_steer", "funny"
"""What is run where nothing else is asked for."""

OWN = (
    *(*STEERING_ARGUMENTS, *SERVICE, *CLIENT),
    *("model", "chat_template", "seed", "proof", "store", "batch_size", "device"),
)

LETTERS = ("A", "B", "C", "D")
"""What is scored after a chat turn that asks for a letter."""

NOT_SCORED = (
    "a service scores single letters after a chat turn and nothing else: use mmlu_171_mc, or hook_steered for this task"
)


@dataclass(frozen=True)
class Lettered:
    """What a service's logits say of one letter: `logit` ranks it among the question's letters."""

    logit: float
    is_largest: bool
    proof: Proof


class GoodfireSteered(SteeredLM):
    """A model steered by an Ember service, for lm-eval: `--model goodfire_steered`.

    The service is the hosted one where GOODFIRE_API_KEY is set, the one at GOODFIRE_BASE_URL, or else one inside this
    process on the embedded model. Arguments (docs/lm_eval.md): `model=`, the steering (`method=auto_steer`,
    `behavior=funny` by default, or `steering=FILE`), those of the client, and those of a service inside the process.
    Raises SteerError before anything is loaded or asked where an argument is wrong.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        given = {name: value for name, value in arguments.items() if value is not None}
        refuse_keys(given)
        steered, rest = _steered(given)
        self._mode = _mode(rest)
        self._seed = whole("seed", rest.get("seed", DEFAULT_SEED), 0)
        self.choice = service_choice(_of_service(rest))
        proof = rest.get("proof")
        self._store = opened_store(rest.get("store"))
        self.loop = LoopThread()
        self.service = self.loop.run(open_service(self.choice, open_local))
        self.client = self.service.client
        self.backend = self.client
        self._kept = stored(self.client, self._store)
        self.steering = self.loop.run(steered.resolve(self.backend))
        self.proof = ProofFile(self.run_identity, None if proof is None else text("proof", proof))

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """One answer per request, in order; each is stored and proved as it finishes."""
        indices = indices_of(requests)
        asked = [
            Request(self._messages(request), self.steering, sampling_of(request.args[1], self._seed), index)
            for request, index in zip(requests, indices, strict=True)
        ]
        for request, one in zip(requests, asked, strict=True):
            self._refuse_shared_sample(request, one)

        def read(place: int, completion: Completion) -> tuple[str, dict[str, Any]]:
            return cut_at(completion.text, asked[place].sampling.stop), {
                "completion": completion.text,
                "tokens_in": completion.tokens_in,
                "tokens_out": completion.tokens_out,
                "stop_reason": completion.stop_reason,
                "events": list(completion.events),
                "seed": completion.seed,
                "stored": completion.stored,
            }

        calls: list[Call[Any]] = [partial(self._kept.complete, one) for one in asked]
        answers: list[str] = self.answers(requests, [one.prompt for one in asked], calls, read, disable_tqdm)
        return answers

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """For each letter its logit after the chat turn, which ranks it, and whether it is the question's largest.

        A question's letters share one call. Raises Refused for everything but single letters after a chat turn.
        """
        prompts = [self._messages(request) for request in requests]
        for request in requests:
            if request.args[1] not in LETTERS:
                raise Refused(f"{named(request)}: continuation {request.args[1][:20]!r}: {NOT_SCORED}")
        asked: dict[Messages, asyncio.Future[Mapping[str, float]]] = {}

        async def logits(messages: Messages) -> Mapping[str, float]:
            if messages not in asked:
                asked[messages] = asyncio.ensure_future(self.client.logits(messages, LETTERS, self.steering))
            return await asyncio.shield(asked[messages])

        async def one(messages: Messages, letter: str) -> Lettered:
            found = await logits(messages)
            missing = [name for name in LETTERS if name not in found]
            if missing:
                raise SteerError(f"the service's logits lack {', '.join(missing)}; it doesn't filter as the SDK asks")
            largest = max(LETTERS, key=lambda name: found[name])
            return Lettered(found[letter], letter == largest, self.client.acknowledged(self.steering))

        calls: list[Call[Any]] = [
            partial(one, messages, request.args[1]) for messages, request in zip(prompts, requests, strict=True)
        ]

        def read(_: int, scored: Lettered) -> tuple[tuple[float, bool], dict[str, Any]]:
            return (scored.logit, scored.is_largest), {"logit": scored.logit, "is_largest": scored.is_largest}

        answers: list[tuple[float, bool]] = self.answers(requests, prompts, calls, read, disable_tqdm)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Refused: a service scores no texts."""
        raise Refused(f"{named(requests[0])}: {NOT_SCORED}" if requests else NOT_SCORED)

    def _messages(self, request: Any) -> Messages:
        """The conversation of a request: our document's own, or what lm-eval's flag made of a foreign one."""
        given, messages = request.args[0], messages_of(request.doc)
        templated = _chat(given)
        if messages is not None:
            check_unaltered(request, messages, (plain_form(messages), *([given] if templated == messages else [])))
            return messages
        if templated is not None:
            return templated
        if self._mode == "always":
            return (Message("user", str(given)),)
        raise Refused(f"{named(request)}: a service takes messages; add --apply_chat_template, or chat_template=always")

    def _refuse_shared_sample(self, request: Any, one: Request) -> None:
        stored = getattr(self.cache_hook, "dbdict", None) is not None
        repeats = (request.repeats or 1) > 1
        if stored and repeats and not one.sampling.is_greedy and not request.args[1].get("do_sample"):
            raise Refused(f"{named(request)}: repeated samples would share one cached answer; add do_sample=true")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as JSON: services render it themselves. System prompts of the steering enter on sending."""
        return json.dumps(chat_history, ensure_ascii=False)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Empty: the service has the template."""
        return ""

    @property
    def tokenizer_name(self) -> str:
        """Names the form of our prompts in lm-eval's cache of requests; no tokenizer is known here."""
        return "ember-messages"

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the service and the steering."""
        info = run_info(self.backend.identity, self.steering, self.proof)
        return {"steer": {**info, **self.choice.described()}}

    def close(self) -> None:
        """Close the connections, unload the model of a service in here, and end the thread."""
        self.loop.run(self.service.aclose())
        self.loop.close()
        if self._store is not None:
            self._store.close()


def _chat(given: object) -> Messages | None:
    """The messages that `apply_chat_template` made this text of; None for another text."""
    try:
        turns = json.loads(given) if isinstance(given, str) and given.startswith("[{") else None
        return tuple(Message(turn["role"], turn["content"]) for turn in turns) if turns else None
    except (ValueError, TypeError, KeyError):
        return None


def _steered(given: Mapping[str, Any]) -> tuple[SteeringChoice, dict[str, Any]]:
    """The steering that is asked for, and the other arguments; by default what the study ran."""
    asked = dict(given)
    if "steering" not in asked:
        asked.setdefault("method", METHOD)
        if asked["method"] == METHOD:
            asked.setdefault("behavior", BEHAVIOR)
    choice, rest = steering_choice(asked, default_method=METHOD)
    if unknown := sorted(set(rest) - set(OWN)):
        raise SteerError(
            f"goodfire_steered has no argument {unknown[0]!r} (method {choice.method.name if choice.method else '–'} "
            "neither); docs/lm_eval.md lists them"
        )
    return choice, rest


def _of_service(rest: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that concern the service. `batch_size` and `device` come from lm-eval itself, asked or not."""
    kept = {name: value for name, value in rest.items() if name in ("model", *SERVICE, *CLIENT)}
    if str(kept.get("device", "")).startswith("cuda"):
        del kept["device"]  # lm-eval's command line asks for a GPU on every machine
    return kept


def _mode(rest: Mapping[str, Any]) -> str:
    mode = rest.get("chat_template") or "auto"
    if mode not in CHAT_TEMPLATE_MODES or mode == "never":
        raise SteerError(f"chat_template is {mode!r}; a service takes messages: it is auto or always")
    return str(mode)
