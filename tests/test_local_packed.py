"""Packed weights: the same bits from every layer, and the model as it was when the backend is closed."""

import numpy as np
import pytest
import torch

from model_adapters.backends.local import packed
from model_adapters.backends.local.packed import PackedWeights
from model_adapters.backends.local.weights import state_digest
from model_adapters.steering import CONTROL
from tests.tiny_backend import another_model, opened, run, user

native = pytest.mark.skipif(not packed._is_native(), reason="this processor has no bfloat16 kernels to pack for")


def logits(model, rows, tokens):
    """What the model says to fixed tokens, `(rows, tokens, vocabulary)`."""
    asked = torch.arange(rows * tokens).reshape(rows, tokens) % 200
    with torch.inference_mode():
        return model(input_ids=asked).logits


@native
@pytest.mark.parametrize(("rows", "tokens"), [(1, 1), (1, 7), (5, 1), (16, 1), (3, 40)])
def test_packed_layers_give_the_same_bits(rows, tokens):
    """Logits of a model are equal before it is opened, while it is open, and after it was closed."""
    model = another_model(torch.bfloat16)
    plain = logits(model, rows, tokens)
    with opened(model) as backend:
        assert len(backend._packed) == 4 * 7 + 1
        assert torch.equal(logits(model, rows, tokens), plain)
    assert torch.equal(logits(model, rows, tokens), plain)


@native
def test_a_closed_model_is_as_it_was():
    """Weights, their layout, what is tied and how layers compute; and while it is open its digest is the same."""
    model = another_model(torch.bfloat16)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.model.layers[0].mlp.up_proj.bias = torch.nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    before, digest = {name: one.clone() for name, one in model.state_dict().items()}, state_digest(model)
    plain = logits(model, 2, 5)
    with opened(model):
        assert torch.equal(logits(model, 2, 5), plain)
        assert state_digest(model) == digest
        assert sum(one.numel() for one in model.parameters()) == sum(one.numel() for one in before.values()) - 259 * 32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, one in model.state_dict().items():
        assert one.layout == torch.strided
        assert torch.equal(one, before[name])
    assert not any("forward" in vars(layer) for layer in model.modules())


@native
def test_two_backends_on_one_model_do_not_disturb_each_other():
    """The second packs nothing, and goes on when the first has given the weights back."""
    model = another_model(torch.bfloat16)
    plain = logits(model, 3, 7)
    with opened(model) as first, opened(model) as second:
        assert len(second._packed) == 0
        first.close()
        assert torch.equal(logits(model, 3, 7), plain)
        assert np.isfinite(run(second.distributions(user(), "abc", CONTROL))).all()


@native
def test_a_layer_whose_packed_product_differs_is_left_alone(monkeypatch):
    """Where the probe isn't equal to the bit, the layer keeps its own way of computing."""
    product = packed._product
    monkeypatch.setattr(packed, "_product", lambda weight, bias, x: product(weight, bias, x) + (weight.shape[0] == 64))
    model = another_model(torch.bfloat16)
    assert len(PackedWeights(model)) == 4 * 5 + 1  # all but gate_proj and up_proj of every block
    assert all("forward" not in vars(block.mlp.up_proj) for block in model.model.layers)


def test_other_dtypes_and_other_processors_are_left_alone(monkeypatch):
    """float32 is never packed, and nothing is where the processor has no bfloat16 kernels."""
    assert len(PackedWeights(another_model())) == 0
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert len(PackedWeights(another_model(torch.bfloat16))) == 0
