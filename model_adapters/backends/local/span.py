"""Which positions of a forward pass are what. Imports torch."""

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from model_adapters.values import Positions


@dataclass(frozen=True)
class Span:
    """Which positions of the current forward pass are what; the masks are `(batch, tokens)`, bool, padding False.

    All but `response` are None in a pass that holds none of theirs: `prompt`; `starts_text`, the first position of
    each row's text; `last_prompt` `(batch,)`, the column of the last prompt token, -1 in rows that hold none.
    In a tentative pass some of the last tokens may yet be taken back.
    """

    response: Tensor
    prompt: Tensor | None = None
    starts_text: Tensor | None = None
    last_prompt: Tensor | None = None
    is_tentative: bool = False

    def at(self, positions: Positions) -> Tensor | None:
        """The mask of these positions; None where this pass holds none."""
        if positions == "response":
            return self.response
        return self.prompt if positions == "prompt" else self.every

    @property
    def every(self) -> Tensor:
        """All but padding."""
        return self.response if self.prompt is None else self.prompt | self.response

    def on(self, device: torch.device) -> "Span":
        """The same on the device of a block: a model may be spread over several."""
        if self.response.device == device:
            return self
        parts: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        parts.update({name: part.to(device) for name, part in parts.items() if part is not None})
        return Span(**parts)

    def own(self, row: int) -> Tensor:
        """The row's generated or scored tokens, `(tokens,)`: response without the last prompt token."""
        mask = self.response[row]
        if self.last_prompt is None:
            return mask
        return mask & (torch.arange(mask.shape[0], device=mask.device) != self.last_prompt[row])

    def column(self, number: int) -> "Span":
        """One column of every row, as a pass of its own. For rows of one length: none is padded."""
        one = slice(number, number + 1)
        is_last = self.last_prompt is not None and bool((self.last_prompt == number).all())
        return Span(
            self.response[:, one],
            None if self.prompt is None else self.prompt[:, one],
            None if self.starts_text is None else self.starts_text[:, one],
            torch.zeros_like(self.last_prompt) if is_last and self.last_prompt is not None else None,
        )
