"""From lm-eval's requests to ours: which prompt is sent, how tokens are chosen, how answers are read. No torch here."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from model_adapters.backend import Message, Messages, Prompt, Sampling, Text, with_system_prompts
from model_adapters.errors import Refused
from model_adapters.harnesses.documents import messages_of, plain_form
from model_adapters.steering import Steering, SystemPrompt

DEFAULT_MAX_TOKENS = 256
"""lm-eval's own default where a task doesn't say."""

_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""lm-eval's names for the number of tokens to generate, the first given one counts."""

_KNOWN = (*_LENGTHS, "until", "do_sample", "temperature", "top_p", "top_k")
_HARMLESS: Mapping[str, object] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "use_cache": True,
}

NO_ENTRY = "the steering's system prompt can't enter a rendered text; add --apply_chat_template"


class Renders(Protocol):
    """What this module needs of a model's chat template."""

    @property
    def has_template(self) -> bool:
        """Whether messages can be rendered."""
        ...

    def render(self, messages: Messages) -> str:
        """The conversation as text, ending where the assistant's turn begins."""
        ...


@dataclass(frozen=True)
class PromptRule:
    """Which prompt a request is sent as, by `chat_template=auto|always|never`, under one steering."""

    mode: str
    steering: Steering
    renders: Renders
    opening: str

    def prompt(self, instance: Any) -> Prompt:
        """The prompt of an lm-eval request. Raises Refused with the remedy where it can't be sent as it must be."""
        given = instance.args[0]
        if not isinstance(given, str):
            raise Refused(f"{named(instance)}: the prompt is {type(given).__name__}; hook_steered takes text only")
        messages = messages_of(instance.doc)
        if messages is None:
            return self._foreign(instance, given)
        if self.mode == "never":
            return self._text(instance, given)
        if not self.renders.has_template:
            raise Refused(f"{named(instance)}: the tokenizer has no chat template; use chat_template=never")
        check_unaltered(instance, messages, self._forms(messages))
        return messages

    def whole_text(self, instance: Any) -> Text:
        """The text of a rolling request. Raises Refused where the steering holds a system prompt."""
        if self.steering.system_prompts:
            raise Refused(f"{named(instance)}: a system prompt can't enter a text scored whole; steer otherwise")
        return Text(instance.args[0])

    def continuation(self, instance: Any, prompt: Prompt) -> str:
        """What is scored after the prompt: lm-eval's continuation, without the space that joins it to a plain prompt
        where we made a chat turn of one (as lm-eval does under its own flag)."""
        given: str = instance.args[1]
        is_wrapped = not isinstance(prompt, Text) and messages_of(instance.doc) is None
        return given.removeprefix(" ") if is_wrapped else given

    def _forms(self, messages: Messages) -> tuple[str, ...]:
        sent = with_system_prompts(messages, self.steering)
        return plain_form(messages), self.renders.render(messages), self.renders.render(sent)

    def _foreign(self, instance: Any, given: str) -> Prompt:
        templated = self._is_templated(given)
        if self.mode == "always" and not templated:
            return (Message("user", given),)
        return self._text(instance, given)

    def _text(self, instance: Any, given: str) -> Text:
        asked = self.steering.system_prompts
        if asked and not (self._is_templated(given) and holds(given, asked)):
            raise Refused(f"{named(instance)}: {NO_ENTRY}")
        return Text(given, asked)

    def _is_templated(self, given: str) -> bool:
        return bool(self.opening) and given.startswith(self.opening)


def check_unaltered(instance: Any, messages: Messages, forms: Sequence[Any]) -> None:
    """Raise Refused unless the request's prompt is one of the forms of its document's messages."""
    if instance.args[0] not in forms:
        raise Refused(
            f"{named(instance)}: the prompt is not the document's own messages; "
            "leave --num_fewshot and --system_instruction out, or use chat_template=never to send it as it is"
        )


def holds(text: str, prompts: Sequence[SystemPrompt]) -> bool:
    """Whether a rendered text holds every one of the system prompts; templates may strip white space around them."""
    return all(one.text.strip() in text for one in prompts)


def template_opening(renders: Renders) -> str:
    """The text that every rendered conversation starts with, whether it has a system message or not; may be empty."""
    if not renders.has_template:
        return ""
    conversations: list[Messages] = [(Message("user", "a"),), (Message("user", "b"),)]
    conversations += [(Message("system", mark), Message("user", "c")) for mark in ("d", "e")]
    rendered = []
    for messages in conversations:
        try:
            rendered.append(renders.render(messages))
        except Refused:  # templates without a system role
            continue
    whole = rendered[0] if rendered else ""
    length = next((i for i, column in enumerate(zip(*rendered, strict=False)) if len(set(column)) > 1), len(whole))
    return whole[:length]


def sampling_of(given: Mapping[str, Any], seed: int) -> Sampling:
    """lm-eval's generation arguments as ours. Raises Refused by name for what we don't know, so nothing is ignored."""
    for name, value in given.items():
        if name not in _KNOWN and (name not in _HARMLESS or value not in (None, _HARMLESS[name])):
            raise Refused(f"generation argument {name}={value!r} is not supported; there are {', '.join(_KNOWN)}")
    wanted = {name: value for name, value in given.items() if value is not None}
    until = wanted.get("until", [])
    stop = tuple(dict.fromkeys(text for text in ([until] if isinstance(until, str) else until) if text))
    temperature = float(wanted.get("temperature", 0.0))
    samples = wanted.get("do_sample", temperature > 0.0)
    if samples and temperature == 0.0:
        raise Refused("do_sample=true with temperature 0; give temperature above 0, or leave do_sample out")
    length = next((wanted[name] for name in _LENGTHS if name in wanted), DEFAULT_MAX_TOKENS)
    top_k = int(wanted.get("top_k", 0))
    return Sampling(
        max_tokens=int(length),
        temperature=temperature if samples else 0.0,
        top_p=float(wanted.get("top_p", 1.0)) if samples else 1.0,
        top_k=top_k if samples and top_k > 0 else None,
        seed=seed if samples else None,
        stop=stop,
    )


def sample_indices(instances: Sequence[Any]) -> list[int]:
    """For each request, how often the same one came before it: lm-eval repeats a request to sample it again."""
    seen: Counter[tuple[object, ...]] = Counter()
    indices = []
    for instance in instances:
        key = (instance.task_name, instance.doc_id, instance.idx, str(instance.args))
        indices.append(seen[key])
        seen[key] += 1
    return indices


def cut_from_left(text: str, room: int, encoding: Any) -> tuple[str, int]:
    """The end of a text that fits `room` tokens, and how many tokens were cut, as lm-eval's `hf` cuts long prompts.

    Where the cut would fall inside a character or a word that then reads as other tokens, a few more go. A start
    token that the tokenizer adds is kept. Raises Refused where no exact cut is found.
    """
    if len(text.encode()) + 2 <= room:  # a token holds at least one byte
        return text, 0
    tokens = encoding.encode(text)
    if len(tokens) <= room:
        return text, 0
    for kept in range(room, max(0, room - 16), -1):
        end = encoding.tokenizer.decode(tokens[-kept:], skip_special_tokens=False)
        again = encoding.encode(end)
        added = len(again) - kept
        if end and text.endswith(end) and added in (0, 1) and again[added:] == tokens[-kept:] and len(again) <= room:
            return end, len(tokens) - kept
    raise Refused(f"a prompt of {len(tokens)} tokens can't be cut to {room}; shorten it, or lower max_gen_toks")


def after_thinking(text: str, end_token: str | int | None, token_ids: Sequence[int] | None, encoding: Any) -> str:
    """What follows the last `think_end_token`, as lm-eval's `hf` takes it; the whole text where there is none."""
    if isinstance(end_token, str):
        return text.split(end_token)[-1].lstrip() if end_token else text
    if end_token is None:
        return text
    ids = list(token_ids or ())
    if end_token not in ids:
        return text.lstrip()
    last = len(ids) - 1 - ids[::-1].index(end_token)
    return str(encoding.decode(ids[last + 1 :])).lstrip()


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of each stop string."""
    for stop in stops:
        text = text.split(stop, 1)[0]
    return text


def chat_of(prompt: Any) -> list[dict[str, Any]] | None:
    """The messages in a prompt that a host rendered for a chat service; None where it is plain text."""
    held = getattr(prompt, "prompt", prompt)
    if isinstance(held, list):
        return held
    if held is prompt:
        return None
    try:
        turns = json.loads(held)
    except (TypeError, ValueError):
        return None
    return turns if isinstance(turns, list) else None


def named(instance: Any) -> str:
    """A request's task and document, for an error."""
    return f"task {instance.task_name}, document {instance.doc_id}"
