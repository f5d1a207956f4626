"""A sparse autoencoder's four tensors in the files they are published in, read as little as possible. No pickle.

torch state dicts are opened with `weights_only=True` and mapped into memory, safetensors by slices, so that reading k
features of a large dictionary reads k rows and columns. torch is imported for the former only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from model_adapters.errors import SteerError


@dataclass(frozen=True)
class Layout:
    """Where a family of files keeps its tensors. `encoder_by_row` and `decoder_by_row`: one row is one feature."""

    encoder: str
    bias: str
    decoder: str
    decoder_bias: str
    encoder_by_row: bool
    decoder_by_row: bool


GOODFIRE = Layout("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias",
                  encoder_by_row=True, decoder_by_row=False)
SAELENS = Layout("W_enc", "b_enc", "W_dec", "b_dec", encoder_by_row=False, decoder_by_row=True)
SPARSIFY = Layout("encoder.weight", "encoder.bias", "W_dec", "b_dec", encoder_by_row=True, decoder_by_row=True)
LAYOUTS = (GOODFIRE, SPARSIFY, SAELENS)
"""Goodfire's own (also that of our folders), EleutherAI's sparsify, SAELens."""

INPUT_BIAS = "input_bias"
"""In our own folders: what is subtracted from the residual before it is encoded, `(d_model,)`."""


class Tensors(Protocol):
    """Named tensors of a file."""

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None where there is none of that name."""
        ...

    def read(self, name: str, rows: Any = None, columns: Any = None) -> np.ndarray:
        """A tensor, or some of its rows or columns (indices or a slice), float32."""
        ...


class SafeTensors:
    """A safetensors file; bfloat16 is widened to float32."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self._file = safe_open(path, framework="np")
            self._names = frozenset(self._file.keys())
        except (SafetensorError, OSError) as problem:
            raise SteerError(f"{path}: not a whole safetensors file ({problem}); fetch it again") from problem
        self.path = path

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None where there is none of that name."""
        return tuple(self._file.get_slice(name).get_shape()) if name in self._names else None

    def read(self, name: str, rows: Any = None, columns: Any = None) -> np.ndarray:
        """A tensor, or some of its rows or columns, float32."""
        held = self._file.get_slice(name)
        if held.get_dtype() == "BF16":
            return self._read_bfloat16(name, rows, columns)
        if rows is not None:
            parts = held[rows] if isinstance(rows, slice) else np.stack([held[int(row)] for row in rows])
        elif columns is not None:
            some = columns if isinstance(columns, slice) else None
            # A file is stored row by row; of single columns it gives slices of width one.
            parts = held[:, some] if some else np.concatenate([held[:, int(c) : int(c) + 1] for c in columns], axis=1)
        else:
            parts = held[:]
        return np.asarray(parts, dtype=np.float32)

    def _read_bfloat16(self, name: str, rows: Any, columns: Any) -> np.ndarray:
        from safetensors import safe_open

        with safe_open(self.path, framework="pt") as file:
            held = file.get_slice(name)
            if rows is not None:
                import torch

                parts = held[rows] if isinstance(rows, slice) else torch.stack([held[int(row)] for row in rows])
            elif columns is not None:
                import torch

                single = isinstance(columns, slice)
                parts = held[:, columns] if single else torch.cat([held[:, int(c) : int(c) + 1] for c in columns], 1)
            else:
                parts = held[:]
            return np.asarray(parts.float().numpy())


class StateDict:
    """A torch state dict, mapped into memory: what isn't asked for isn't read."""

    def __init__(self, path: Path) -> None:
        import torch

        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as problem:  # of many kinds, and the unpickler's own among them
            reason = str(problem).strip().partition("\n")[0]
            raise SteerError(
                f"{path}: not a plain torch state dict ({reason}); files that hold code are never loaded"
            ) from problem
        if not isinstance(loaded, Mapping) or not all(isinstance(one, torch.Tensor) for one in loaded.values()):
            raise SteerError(f"{path}: not a plain torch state dict; give one of tensors by name")
        self.path, self._tensors = path, loaded

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape; None where there is none of that name."""
        return tuple(self._tensors[name].shape) if name in self._tensors else None

    def read(self, name: str, rows: Any = None, columns: Any = None) -> np.ndarray:
        """A tensor, or some of its rows or columns, float32."""
        held = self._tensors[name]
        if rows is not None:
            held = held[rows if isinstance(rows, slice) else list(rows)]
        elif columns is not None:
            held = held[:, columns if isinstance(columns, slice) else list(columns)]
        return np.array(held.float().numpy())


def open_tensors(path: Path) -> Tensors:
    """The tensors of a file, by its ending. Raises SteerError for what isn't there, or is none of both kinds."""
    if not path.is_file():
        raise SteerError(f"{path}: no such dictionary file; docs/features.md says where dictionaries come from")
    if path.suffix == ".safetensors":
        return SafeTensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        return StateDict(path)
    raise SteerError(f"{path}: dictionaries are .safetensors, .pth or .pt files, or folders")


@dataclass(frozen=True)
class Weights:
    """The tensors of one autoencoder: f = activation(W_enc · (h - input bias) + b_enc), h ≈ W_dec · f + b_dec.

    `subtracts` says whether the decoder's bias is subtracted from the input (SAELens' `apply_b_dec_to_input`,
    sparsify always); Goodfire's autoencoders don't.
    """

    tensors: Tensors
    layout: Layout
    n_features: int
    d_model: int
    subtracts: bool = False

    @property
    def input_bias(self) -> np.ndarray | None:
        """What is subtracted from the residual before it is encoded, `(d_model,)`; None for nothing."""
        if self.subtracts:
            return self.decoder_bias
        return self.tensors.read(INPUT_BIAS) if self.tensors.shape(INPUT_BIAS) is not None else None

    @property
    def decoder_bias(self) -> np.ndarray:
        """b_dec, `(d_model,)`; zeros where there is none."""
        if self.tensors.shape(self.layout.decoder_bias) is None:
            return np.zeros(self.d_model, dtype=np.float32)
        return self.tensors.read(self.layout.decoder_bias)

    def encoder(self, which: Sequence[int] | slice) -> np.ndarray:
        """Encoder directions of some features, `(features, d_model)`, float32."""
        if self.layout.encoder_by_row:
            return self.tensors.read(self.layout.encoder, rows=which)
        return self.tensors.read(self.layout.encoder, columns=which).T

    def decoder(self, which: Sequence[int] | slice) -> np.ndarray:
        """Decoder directions of some features, `(features, d_model)`, float32."""
        if self.layout.decoder_by_row:
            return self.tensors.read(self.layout.decoder, rows=which)
        return self.tensors.read(self.layout.decoder, columns=which).T

    def bias(self) -> np.ndarray:
        """b_enc of all features, `(features,)`, float32; without the input bias."""
        return self.tensors.read(self.layout.bias)


def weights_of(path: Path, subtracts: bool | None = None) -> Weights:
    """The autoencoder in a file; which layout it has is told by the names of its tensors.

    `subtracts` None is what the layout's family does. Raises SteerError for missing tensors and shapes that don't fit.
    """
    tensors = open_tensors(path)
    layout = next((one for one in LAYOUTS if tensors.shape(one.encoder) and tensors.shape(one.decoder)), None)
    if layout is None:
        wanted = " or ".join(f"{one.encoder}, {one.bias}, {one.decoder}, {one.decoder_bias}" for one in LAYOUTS)
        raise SteerError(f"{path}: not a sparse autoencoder; its tensors are called {wanted}")
    encoder, decoder = (_two(path, tensors, name) for name in (layout.encoder, layout.decoder))
    n_features, d_model = encoder if layout.encoder_by_row else encoder[::-1]
    expected = (n_features, d_model) if layout.decoder_by_row else (d_model, n_features)
    if decoder != expected:
        raise SteerError(f"{path}: {layout.decoder} is {decoder}, {layout.encoder} asks for {expected}")
    for name, length in ((layout.bias, n_features), (layout.decoder_bias, d_model), (INPUT_BIAS, d_model)):
        shape = tensors.shape(name)
        if shape is None and name == layout.bias:
            raise SteerError(f"{path}: {name} is missing; fetch the dictionary again")
        if shape is not None and shape != (length,):
            raise SteerError(f"{path}: {name} is {shape}, not ({length},)")
    return Weights(tensors, layout, n_features, d_model, layout is SPARSIFY if subtracts is None else subtracts)


def _two(path: Path, tensors: Tensors, name: str) -> tuple[int, int]:
    shape = tensors.shape(name)
    if shape is None or len(shape) != 2 or 0 in shape:
        raise SteerError(f"{path}: {name} is {shape}; it has a row or column for each feature")
    return shape[0], shape[1]
