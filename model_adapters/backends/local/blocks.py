"""The model's decoder blocks with our hooks: where plans meet the residual stream. Imports torch."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from model_adapters.backends.local.layers import decoder_blocks
from model_adapters.backends.local.plan import BatchPlan
from model_adapters.backends.local.span import Span
from model_adapters.steering import Steering


@dataclass
class SteeredBlocks:
    """The model's blocks with their hooks, installed once. Between batches there is no plan and they do nothing.

    Only passes of the thread that planned the batch are steered: whoever else calls the model meanwhile gets it bare.
    """

    model: nn.Module
    plan: BatchPlan = field(default_factory=BatchPlan)
    span: Span | None = None
    captured: list[Tensor] | None = None
    _thread: int | None = None
    _handles: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.blocks = decoder_blocks(self.model)
        for layer, block in enumerate(self.blocks):
            self._handles.append(block.register_forward_hook(self._hook(layer)))

    def _hook(self, layer: int) -> Callable[..., Any]:
        def hook(_block: nn.Module, _inputs: object, output: Any) -> Any:
            plan, gates = self.plan.layers.get(layer), self.plan.gates
            bare = plan is None and self.captured is None and not gates
            if bare or threading.get_ident() != self._thread:
                return None
            hidden = output[0] if isinstance(output, tuple) else output
            if self.span is not None:
                span = self.span.on(hidden.device)
                if gates:
                    gates.look(layer, hidden, span)
                if plan is not None:
                    hidden = plan.apply(hidden, span, gates)
            if self.captured is not None:
                self.captured.append(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    def planned(self, steerings: Sequence[Steering], d_model: int) -> BatchPlan:
        """A plan for rows with these steerings, not in use yet."""
        return BatchPlan.of(steerings, self.blocks, d_model)

    def use(self, plan: BatchPlan) -> None:
        """Steer the coming passes of this thread by a plan."""
        self.plan, self._thread = plan, threading.get_ident()

    def take(self, rows: Tensor) -> None:
        """Keep only these rows of the batch, by index."""
        self.plan = self.plan.take(rows)

    def clear(self) -> None:
        """Forget the batch: the next pass is unsteered."""
        self.plan, self.span, self.captured, self._thread = BatchPlan(), None, None, None

    def remove(self) -> None:
        """Take the hooks off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
