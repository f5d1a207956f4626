"""What a batch's rows are steered by: one plan per changed block, and the gates. Imports torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from model_adapters.backends.local.gates import Gates
from model_adapters.backends.local.layers import LayerPlan, layer_plan
from model_adapters.steering import Steering


@dataclass
class BatchPlan:
    """The plans of a batch by block, and its gates. Rows can leave and others join between passes."""

    rows: int = 0
    layers: dict[int, LayerPlan] = field(default_factory=dict)
    gates: Gates = field(default_factory=Gates)

    @classmethod
    def of(cls, steerings: Sequence[Steering], blocks: nn.ModuleList, d_model: int) -> "BatchPlan":
        """For rows with these steerings; nothing is measured yet."""
        places = [next(block.parameters()).device for block in blocks]
        plan = cls(len(steerings), {}, Gates.of(steerings, places[0]))
        for layer in sorted({layer for steering in steerings for layer in steering.layers}):
            made = layer_plan(layer, steerings, d_model, places[layer])
            if made is not None:
                plan.layers[layer] = made
        return plan

    def take(self, rows: Tensor) -> "BatchPlan":
        """The plan of some rows, by index, measurements included; a row may be taken several times."""
        layers = {layer: plan.take(rows.to(plan.prompt.device)) for layer, plan in self.layers.items()}
        return BatchPlan(len(rows), layers, self.gates.take(rows.tolist()))

    def take_back(self, kept: int) -> None:
        """Forget what the latest tentative pass measured behind its first `kept` tokens."""
        for plan in self.layers.values():
            plan.touch.take_back(kept)

    def put(self, row: int, one: "BatchPlan") -> None:
        """Take over the measurements of a plan of only this row."""
        for layer, plan in self.layers.items():
            plan.touch.put(row, one.layers[layer].touch)

    def joined(self, other: "BatchPlan") -> "BatchPlan":
        """The rows of both, `other`'s behind; measurements included."""
        layers = {}
        for layer in sorted(self.layers.keys() | other.layers.keys()):
            mine, theirs = self.layers.get(layer), other.layers.get(layer)
            known = mine or theirs
            assert known is not None
            mine = mine or known.idle(self.rows)
            layers[layer] = mine.joined(theirs or known.idle(other.rows), self.rows)
        return BatchPlan(self.rows + other.rows, layers, self.gates.joined(other.gates, self.rows, other.rows))
