"""What our lm-eval model needs of whoever opened it: a backend, and the tokenizer's part of lm-eval's contract."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from model_adapters.backend import Backend, Messages, ScoresText
from model_adapters.backends.encoding import Encoding
from model_adapters.errors import Refused

_log = logging.getLogger(__name__)


class Engine(Backend, ScoresText, Protocol):
    """A backend that answers and scores, with what prompts are rendered, counted and cut by."""

    encoding: Encoding
    max_length: int

    @property
    def has_template(self) -> bool:
        """Whether messages can be rendered."""
        ...

    def render(self, messages: Messages) -> str:
        """The conversation as text, ending where the assistant's turn begins."""
        ...


@dataclass(frozen=True)
class Host:
    """A model that lm-eval asks: `engine` runs it, `tokenizer` and template arguments are what lm-eval renders with.

    `think_end_token` and `is_thinking` are `hf`'s arguments; `described` is what the results say of the model.
    """

    engine: Engine
    tokenizer: Any
    template_arguments: Mapping[str, object] = field(default_factory=dict)
    think_end_token: str | int | None = None
    is_thinking: bool = False
    device: Any = None
    described: Mapping[str, Any] = field(default_factory=dict)

    @property
    def end_of_turn(self) -> str:
        """The text of the token that ends an answer; empty without one."""
        token = self.tokenizer.eos_token_id
        return "" if token is None else str(self.tokenizer.decode(token, skip_special_tokens=False))

    @property
    def tokenizer_name(self) -> str:
        """As `hf` names it in lm-eval's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chosen: bool | str | None) -> str | None:
        """The template's source: the chosen one of several, else the default one; None where none is asked for."""
        held = getattr(self.tokenizer, "chat_template", None)
        if chosen is None or chosen is False or not held:
            return None
        if isinstance(held, str):
            return held
        name = chosen if isinstance(chosen, str) else "default"
        if name not in held:
            raise Refused(f"the tokenizer has no chat template {name!r}; it has {', '.join(sorted(held))}")
        return str(held[name])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without a generation prompt it ends inside its last message, as in `hf`."""
        from jinja2 import TemplateError

        try:
            return self._rendered(chat_history, add_generation_prompt)
        except TemplateError:
            _log.warning("the chat template refuses these messages; rendered again without the system message")
            return self._rendered([one for one in chat_history if one["role"] != "system"], add_generation_prompt)

    def _rendered(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> str:
        rendered = self.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self.template_arguments,
        )
        return str(rendered)
