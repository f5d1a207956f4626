"""From messages and texts to token ids. The tokenizer is any of transformers'; nothing heavy is imported here."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from model_adapters.backend import Messages, Prompt, Text, with_system_prompts
from model_adapters.errors import Refused
from model_adapters.steering import Steering


@dataclass(frozen=True)
class Pair:
    """A context and its continuation as token ids.

    The first `prompt_tokens` tokens of the two together are the prompt in the frame of `steering.Positions`.
    `sent` are the messages as sent; None for a rendered text.
    """

    context: list[int]
    continuation: list[int]
    prompt_tokens: int
    sent: Messages | None


@dataclass(frozen=True)
class Encoding:
    """How texts become tokens for one model.

    `add_bos_token` None leaves special tokens to the tokenizer, as lm-eval's `hf` does; a text that already starts
    with the prefix token gets none. Rendered messages never get any: their template holds what is wanted.
    """

    tokenizer: Any
    add_bos_token: bool | None = None
    prefix_token_id: int | None = None
    template_arguments: Mapping[str, object] = field(default_factory=dict)

    @cached_property
    def prefix(self) -> int:
        """The token that stands before a text without a context: the given one, else BOS, else EOS."""
        for candidate in (self.prefix_token_id, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        raise Refused("the tokenizer has neither BOS nor EOS; give prefix_token_id")

    @property
    def has_template(self) -> bool:
        """Whether messages can be rendered."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def template_digest(self) -> str | None:
        """Short hash of the chat template's source; None without one."""
        template = getattr(self.tokenizer, "chat_template", None)
        if not template:
            return None
        source = template if isinstance(template, str) else repr(sorted(template.items()))
        return hashlib.sha256(source.encode()).hexdigest()[:16]

    def render(self, messages: Messages) -> str:
        """The conversation as text, ending where the assistant's turn begins."""
        if not self.has_template:
            raise Refused(f"{self.tokenizer.name_or_path}: the tokenizer has no chat template; send rendered text")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            rendered = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **self.template_arguments
            )
        except Exception as problem:  # jinja2's own and whatever a template raises
            raise Refused(f"the model's chat template refuses these messages: {problem}") from problem
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text by the rule of `add_bos_token`."""
        options: dict[str, bool] = {}
        if text.startswith(self.tokenizer.decode(self.prefix)):
            options = {"add_special_tokens": False}
        elif self.add_bos_token is not None:
            options = {"add_special_tokens": self.add_bos_token}
        return list(self.tokenizer.encode(text, **options))

    def prompt(self, prompt: Prompt, steering: Steering) -> tuple[list[int], Messages | None]:
        """Token ids of a prompt with `steering`'s SystemPrompts in it, and the messages as sent (None for a Text)."""
        text, sent = self._text(prompt, steering)
        return (self.encode(text) if sent is None else self.encode_bare(text)), sent

    def pair(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Pair:
        """Token ids of a context and what follows it.

        As lm-eval's `hf`, rendered messages included: both are encoded as one text, white space that ends the context
        goes to the continuation, and an empty context is the prefix token. So the scored tokens may begin inside the
        prompt (a newline after the assistant's header); `Pair.prompt_tokens` still counts the whole prompt.
        """
        text, sent = self._text(prompt, steering)
        encode = self.encode if sent is None else self.encode_bare
        if not isinstance(continuation, str):
            context = encode(text) if text else [self.prefix]
            return Pair(context, list(continuation), len(context), sent)
        if not text:
            tokens = self.encode_bare(continuation)
            if len(tokens) > 1 and tokens[0] == self.prefix:
                return Pair(tokens[:1], tokens[1:], 1, sent)
            return Pair([self.prefix], tokens, 1, sent)
        bare = text.rstrip()
        if not bare:
            return Pair([self.prefix], self.encode_bare(text + continuation), 1, sent)
        context, whole = encode(bare), encode(text + continuation)
        alone = encode(text)
        shared = next((i for i, (x, y) in enumerate(zip(alone, whole, strict=False)) if x != y), len(alone))
        return Pair(context, whole[len(context) :], max(1, min(shared, len(whole) - 1)), sent)

    def _text(self, prompt: Prompt, steering: Steering) -> tuple[str, Messages | None]:
        if isinstance(prompt, Text):
            return prompt.text, None
        sent = with_system_prompts(prompt, steering)
        return self.render(sent), sent

    def encode_bare(self, text: str) -> list[int]:
        """Tokens of a text that gets no special ones."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """Text of generated tokens, without special ones unless asked for."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=not special))
