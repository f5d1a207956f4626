"""Tensors where they lie in a file: read by rows and columns, with plain reads. No pickle is run; torch only for .pth.

Not mapped into memory: reading a column touches every row of a large matrix, and each touch of a mapping brings many
pages along, which then count as the process's own.
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model_adapters.errors import SteerError

FEW = 64
"""Columns that are read one by one; more are read in blocks of neighbours."""

BLOCK = 4096
"""Columns of such a block."""

WIDTHS: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of the number types that weights are stored in, by their names in safetensors."""


@dataclass(frozen=True)
class Stored:
    """A tensor of one or two dimensions in a file, from byte `offset` on. `is_transposed`: its columns are contiguous.

    Everything is given as float32; float16 and bfloat16 are widened exactly.
    """

    path: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    is_transposed: bool = False

    def read(self) -> np.ndarray:
        """All of it."""
        with self._open() as file:
            flat = self._at(file, 0, int(np.prod(self.shape)))
        return flat.reshape(self.shape[::-1]).T if self.is_transposed else flat.reshape(self.shape)

    def rows(self, which: Sequence[int] | slice) -> np.ndarray:
        """Some rows of a matrix, `(rows, columns)`."""
        return self._across(which).T if self.is_transposed else self._along(which)

    def columns(self, which: Sequence[int] | slice) -> np.ndarray:
        """Some columns of a matrix, `(rows, columns)`."""
        return self._along(which).T if self.is_transposed else self._across(which)

    @property
    def _stored_shape(self) -> tuple[int, int]:
        first, second = self.shape
        return (second, first) if self.is_transposed else (first, second)

    def _along(self, which: Sequence[int] | slice) -> np.ndarray:
        """Whole stored rows, `(rows, width)`."""
        count, width = self._stored_shape
        with self._open() as file:
            if isinstance(which, slice):
                start, stop, _ = which.indices(count)
                return self._at(file, start * width, (stop - start) * width).reshape(-1, width)
            return np.stack([self._at(file, row * width, width) for row in which])

    def _across(self, which: Sequence[int] | slice) -> np.ndarray:
        """Some numbers of every stored row, `(rows, numbers)`."""
        count, width = self._stored_shape
        if isinstance(which, slice):
            start, stop, _ = which.indices(width)
            with self._open() as file:
                return np.stack([self._at(file, row * width + start, stop - start) for row in range(count)])
        if len(which) > FEW:
            return self._in_blocks(list(which))
        with self._open() as file:
            found = [[self._at(file, row * width + column, 1)[0] for column in which] for row in range(count)]
        return np.array(found, dtype=np.float32)

    def _in_blocks(self, which: list[int]) -> np.ndarray:
        found = np.empty((self._stored_shape[0], len(which)), dtype=np.float32)
        wanted = np.array(which)
        for start in range(0, self._stored_shape[1], BLOCK):
            here = np.flatnonzero((wanted >= start) & (wanted < start + BLOCK))
            if len(here):
                block = self._across(slice(start, start + BLOCK))
                found[:, here] = block[:, wanted[here] - start]
        return found

    def _open(self) -> Any:
        return self.path.open("rb", buffering=0)

    def _at(self, file: Any, first: int, count: int) -> np.ndarray:
        width = WIDTHS[self.dtype]
        raw = os.pread(file.fileno(), count * width, self.offset + first * width)
        if len(raw) != count * width:
            raise SteerError(f"{self.path}: is shorter than its header says; fetch the dictionary again")
        return widened(raw, self.dtype)


def widened(raw: bytes, dtype: str) -> np.ndarray:
    """Little-endian bytes of a number type as float32."""
    if dtype == "BF16":
        return (np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]
    return np.frombuffer(raw, dtype=kind).astype(np.float32)


def open_tensors(path: Path) -> Mapping[str, Stored]:
    """Where a file's tensors lie, by name. Raises SteerError for what isn't there, or is neither kind of file."""
    if not path.is_file():
        raise SteerError(f"{path}: no such dictionary file; docs/features.md says where dictionaries come from")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in (".pth", ".pt", ".bin"):
        return _state_dict(path)
    raise SteerError(f"{path}: dictionaries are .safetensors, .pth or .pt files, or folders")


def _safetensors(path: Path) -> Mapping[str, Stored]:
    """A header's length in 8 bytes, the header as JSON, then the tensors, each in row-major order."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):  # checks the header against the file
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError, struct.error) as problem:
        raise SteerError(f"{path}: not a whole safetensors file ({problem}); fetch it again") from problem
    return {
        name: _stored(path, 8 + length + held["data_offsets"][0], held["dtype"], tuple(held["shape"]), name)
        for name, held in header.items()
        if name != "__metadata__"
    }


def _state_dict(path: Path) -> Mapping[str, Stored]:
    """A torch state dict: `weights_only`, and of the tensors only their places in the file."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
    try:
        # Under this mode torch reads the structure and notes where each tensor's bytes are, but not the bytes.
        with FakeTensorMode():
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # of many kinds, and the unpickler's own among them
        reason = str(problem).strip().partition("\n")[0]
        raise SteerError(
            f"{path}: not a plain torch state dict ({reason}); files that hold code are never loaded"
        ) from problem
    if not isinstance(loaded, Mapping) or not all(isinstance(one, torch.Tensor) for one in loaded.values()):
        raise SteerError(f"{path}: not a plain torch state dict; give one of tensors by name")
    found = {}
    for name, held in loaded.items():
        begin = getattr(held.untyped_storage(), "_checkpoint_offset", None)
        if begin is None:
            raise SteerError(f"{path}: written by a torch older than 1.6; load and save it again, or use safetensors")
        is_plain = held.is_contiguous()
        if not is_plain and not (held.ndim == 2 and held.T.is_contiguous()):
            raise SteerError(f"{path}: {name} is a strided view; save it again with .contiguous()")
        offset = begin + held.storage_offset() * held.element_size()
        dtype = names.get(held.dtype, str(held.dtype))
        found[name] = _stored(path, offset, dtype, tuple(held.shape), name, not is_plain)
    return found


def _stored(
    path: Path, offset: int, dtype: str, shape: tuple[int, ...], name: str, is_transposed: bool = False
) -> Stored:
    if dtype not in WIDTHS:
        raise SteerError(f"{path}: {name} holds {dtype}; weights are float64, float32, float16 or bfloat16")
    return Stored(path, offset, dtype, shape, is_transposed)
