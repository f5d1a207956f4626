"""Residuals of the conversations at one block: what the dictionary learns from. Imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from examples.dictionary.conversations import Conversation
from model_adapters.backend import Message
from model_adapters.backends.local.backend import LocalBackend

TOKENS_PER_PASS = 4096
"""Padding included; keeps a pass within half a gigabyte."""


@dataclass(frozen=True)
class Residuals:
    """Outputs of one block at many tokens.

    `values` `(tokens, d_model)`, float16; `tokens` their ids `(tokens,)`; `places` which conversation each is of;
    `said` whether the model wrote the token itself.
    """

    values: np.ndarray
    tokens: np.ndarray
    places: np.ndarray
    said: np.ndarray

    def only(self, kept: np.ndarray) -> "Residuals":
        """The tokens that `kept` `(tokens,)` marks."""
        return Residuals(self.values[kept], self.tokens[kept], self.places[kept], self.said[kept])


def token_ids(backend: LocalBackend, conversation: Conversation) -> tuple[list[int], int, int]:
    """The conversation's token ids, how many of them to leave out, and how many come before the answer.

    Left out is all up to the user's turn: system messages are few and would be seen hundreds of times, and the first
    position of a text is unlike every other.
    """
    encoding = backend.encoding
    whole = encoding.render(conversation.messages)
    turn = encoding.render((Message("system", ""), Message("user", ""))).split("<|im_end|>\n")[1].split("\n")[0]
    before = encoding.encode_bare(whole[: whole.index(turn)])
    prompt = encoding.encode_bare(whole)
    return [*prompt, *encoding.encode_bare(conversation.answer)], len(before), len(prompt)


def read(backend: LocalBackend, conversations: Sequence[Conversation], layer: int) -> Residuals:
    """Outputs of block `layer` from the user's turn on, in the order of the conversations."""
    rows = [token_ids(backend, one) for one in conversations]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place][0]))
    parts: dict[int, np.ndarray] = {}
    batch: list[int] = []
    for place in order:
        if batch and (len(batch) + 1) * len(rows[place][0]) > TOKENS_PER_PASS:
            parts |= _pass(backend.model, rows, batch, layer)
            batch = []
        batch.append(place)
    parts |= _pass(backend.model, rows, batch, layer)
    values = np.concatenate([parts[place] for place in range(len(rows))])
    tokens = np.concatenate([np.array(ids[left_out:]) for ids, left_out, _ in rows])
    places = np.concatenate([np.full(len(ids) - left_out, place) for place, (ids, left_out, _) in enumerate(rows)])
    said = np.concatenate([np.arange(left_out, len(ids)) >= prompt for ids, left_out, prompt in rows])
    return Residuals(values, tokens, places, said)


def _pass(model: Any, rows: Sequence[tuple[list[int], int, int]], batch: Sequence[int], layer: int) -> Any:
    """Padded on the right: no token of a causal model sees what comes after it, so nothing needs masking."""
    width = max(len(rows[place][0]) for place in batch)
    tokens = torch.tensor([rows[place][0] + [0] * (width - len(rows[place][0])) for place in batch])
    with torch.inference_mode():
        # Hidden states begin with the embeddings, so block 14's output is number 15.
        hidden = model.get_decoder()(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
    output = hidden[layer + 1].to(torch.float16).numpy()
    return {place: output[row, rows[place][1] : len(rows[place][0])].copy() for row, place in enumerate(batch)}
