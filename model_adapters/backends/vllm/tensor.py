"""Arrays as vllm-lens sends and takes them: base64 of zstd-compressed bytes. numpy; zstandard is the extra `vllm`."""

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from model_adapters.errors import SteerError

LARGEST = 2**32
"""Most bytes that an array from a server may unpack to."""


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise SteerError('runner=vllm needs zstandard; pip install "steer-tasks[vllm]"') from None
    return zstandard


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array, float32, as JSON. A vector repeated over thousands of positions packs to a few kilobytes."""
    whole = np.ascontiguousarray(array, dtype="<f4")
    data = base64.b64encode(_zstd().ZstdCompressor(level=1).compress(whole.tobytes())).decode("ascii")
    shape = list(whole.shape)
    return {"data": data, "dtype": "float32", "original_dtype": "torch.float32", "shape": shape, "compression": "zstd"}


def unpacked(held: Mapping[str, Any]) -> np.ndarray:
    """An array from JSON, as float32; bfloat16 comes as the 16 bits it has. Raises SteerError for anything else."""
    try:
        raw = base64.b64decode(held["data"], validate=True)
        shape, dtype = tuple(int(size) for size in held["shape"]), np.dtype(str(held["dtype"])).newbyteorder("<")
        if dtype.kind not in "fi" or math.prod(shape) * dtype.itemsize > LARGEST:
            raise ValueError(f"{dtype} of shape {shape}")
        if held.get("compression") == "zstd":
            raw = _zstd().ZstdDecompressor().decompress(raw, max_output_size=math.prod(shape) * dtype.itemsize)
        array = np.frombuffer(raw, dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, binascii.Error) as problem:
        raise SteerError(f"the server's activations can't be read: {problem}") from problem
    if held.get("original_dtype") == "torch.bfloat16":
        return (array.astype("<u2").astype("<u4") << 16).view("<f4")
    return array.astype(np.float32)
