"""Weights of linear layers, laid out as the processor's kernels read them. Imports torch.

A step of few rows reads every weight once and computes little, so its time is that of reading. oneDNN's blocked layout
is read in order; from the plain one its kernels gather, or copy it first, in every step. Results are the same bits: the
kernel is the same, and a probe at the start leaves a layer alone where they aren't.
"""

from functools import partial

import torch
from torch import Tensor, nn

from model_adapters.backends.local.memory import give_back

ROWS_HINT = 16
"""oneDNN chooses the layout for a product of so many rows; it serves every other number too."""


class PackedWeights:
    """Packs a model's linear layers in place and, with `remove`, lays them out plainly again.

    Only bfloat16 on a processor that computes in it: there it pays, and float32 stays as transformers runs it. A weight
    that another module has too (tied embeddings) is kept beside its packed copy; of every other there is only one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[tuple[nn.Linear, Tensor | None]] = []
        if not _is_native():
            return
        shared = _shared(model)
        for layer in model.modules():
            if _is_plain(layer):
                assert isinstance(layer, nn.Linear)
                self._pack(layer, id(layer.weight) in shared)
        give_back()

    def __len__(self) -> int:
        return len(self._layers)

    def remove(self) -> None:
        """Give every layer its own weight and its own way of computing back."""
        for layer, kept in self._layers:
            del layer.forward
            if kept is None:
                layer.weight = nn.Parameter(layer.weight.to_dense(), requires_grad=layer.weight.requires_grad)
        self._layers.clear()

    @torch.no_grad()
    def _pack(self, layer: nn.Linear, is_shared: bool) -> None:
        weight = layer.weight
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS_HINT)
        probe = torch.linspace(-1, 1, 2 * layer.in_features).to(weight.dtype).view(2, -1)
        if not torch.equal(_product(packed, layer.bias, probe), layer(probe)):
            return
        if not is_shared:
            layer.weight = nn.Parameter(packed, requires_grad=False)
        layer.forward = partial(_product, packed, layer.bias)  # type: ignore[method-assign]
        self._layers.append((layer, weight if is_shared else None))


def _product(packed: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


def _is_native() -> bool:
    """Whether this processor and this torch have bfloat16 kernels and the packing for them."""
    has_packing = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and torch.backends.mkldnn.is_available()
    return has_packing and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is torch's own linear layer in bfloat16 on the processor, computed by nobody else."""
    if type(layer) is not nn.Linear or "forward" in vars(layer):
        return False
    return (
        layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.bfloat16
        and layer.weight.layout == torch.strided
    )


def _shared(model: nn.Module) -> set[int]:
    """Ids of weights that several modules have."""
    seen: set[int] = set()
    shared: set[int] = set()
    for module in model.modules():
        for weight in module._parameters.values():
            if weight is not None:
                (shared if id(weight) in seen else seen).add(id(weight))
    return shared
