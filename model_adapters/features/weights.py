"""A sparse autoencoder's four tensors in the files they are published in, feature by feature. numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_adapters.errors import SteerError
from model_adapters.features.tensors import Stored, open_tensors


@dataclass(frozen=True)
class Layout:
    """Where a family of files keeps its tensors. `encoder_by_row` and `decoder_by_row`: one row is one feature."""

    encoder: str
    bias: str
    decoder: str
    decoder_bias: str
    encoder_by_row: bool
    decoder_by_row: bool


GOODFIRE = Layout(
    "encoder_linear.weight",
    "encoder_linear.bias",
    "decoder_linear.weight",
    "decoder_linear.bias",
    encoder_by_row=True,
    decoder_by_row=False,
)
SAELENS = Layout("W_enc", "b_enc", "W_dec", "b_dec", encoder_by_row=False, decoder_by_row=True)
SPARSIFY = Layout("encoder.weight", "encoder.bias", "W_dec", "b_dec", encoder_by_row=True, decoder_by_row=True)
LAYOUTS = (GOODFIRE, SPARSIFY, SAELENS)
"""Goodfire's own (also that of our folders), EleutherAI's sparsify, SAELens."""

INPUT_BIAS = "input_bias"
"""In our own folders: what is subtracted from the residual before it is encoded, `(d_model,)`."""


@dataclass(frozen=True)
class Weights:
    """The tensors of one autoencoder: f = activation(W_enc · (h - input bias) + b_enc), h ≈ W_dec · f + b_dec.

    `subtracts` says whether the decoder's bias is subtracted from the input (SAELens' `apply_b_dec_to_input`,
    sparsify always); Goodfire's autoencoders don't.
    """

    tensors: Mapping[str, Stored]
    layout: Layout
    n_features: int
    d_model: int
    subtracts: bool = False

    @property
    def input_bias(self) -> np.ndarray | None:
        """What is subtracted from the residual before it is encoded, `(d_model,)`; None for nothing."""
        if self.subtracts:
            return self.decoder_bias
        return self.tensors[INPUT_BIAS].read() if INPUT_BIAS in self.tensors else None

    @property
    def decoder_bias(self) -> np.ndarray:
        """b_dec, `(d_model,)`; zeros where there is none."""
        if self.layout.decoder_bias not in self.tensors:
            return np.zeros(self.d_model, dtype=np.float32)
        return self.tensors[self.layout.decoder_bias].read()

    def encoder(self, which: Sequence[int] | slice) -> np.ndarray:
        """Encoder directions of some features, `(features, d_model)`, float32."""
        if self.layout.encoder_by_row:
            return self.tensors[self.layout.encoder].rows(which)
        return self.tensors[self.layout.encoder].columns(which).T

    def decoder(self, which: Sequence[int] | slice) -> np.ndarray:
        """Decoder directions of some features, `(features, d_model)`, float32."""
        if self.layout.decoder_by_row:
            return self.tensors[self.layout.decoder].rows(which)
        return self.tensors[self.layout.decoder].columns(which).T

    def bias(self) -> np.ndarray:
        """b_enc of all features, `(features,)`, float32; without the input bias."""
        return self.tensors[self.layout.bias].read()


def weights_of(path: Path, subtracts: bool | None = None) -> Weights:
    """The autoencoder in a file; which layout it has is told by the names of its tensors.

    `subtracts` None is what the layout's family does. Raises SteerError for missing tensors and shapes that don't fit.
    """
    tensors = open_tensors(path)
    layout = next((one for one in LAYOUTS if one.encoder in tensors and one.decoder in tensors), None)
    if layout is None:
        wanted = " or ".join(f"{one.encoder}, {one.bias}, {one.decoder}, {one.decoder_bias}" for one in LAYOUTS)
        raise SteerError(f"{path}: not a sparse autoencoder; its tensors are called {wanted}")
    encoder, decoder = (_two(path, tensors, name) for name in (layout.encoder, layout.decoder))
    n_features, d_model = encoder if layout.encoder_by_row else encoder[::-1]
    expected = (n_features, d_model) if layout.decoder_by_row else (d_model, n_features)
    if decoder != expected:
        raise SteerError(f"{path}: {layout.decoder} is {decoder}, {layout.encoder} asks for {expected}")
    for name, length in ((layout.bias, n_features), (layout.decoder_bias, d_model), (INPUT_BIAS, d_model)):
        shape = tensors[name].shape if name in tensors else None
        if shape is None and name == layout.bias:
            raise SteerError(f"{path}: {name} is missing; fetch the dictionary again")
        if shape is not None and shape != (length,):
            raise SteerError(f"{path}: {name} is {shape}, not ({length},)")
    return Weights(tensors, layout, n_features, d_model, layout is SPARSIFY if subtracts is None else subtracts)


def _two(path: Path, tensors: Mapping[str, Stored], name: str) -> tuple[int, int]:
    shape = tensors[name].shape
    if len(shape) != 2 or 0 in shape:
        raise SteerError(f"{path}: {name} is {shape}; it has a row or column for each feature")
    return shape[0], shape[1]
