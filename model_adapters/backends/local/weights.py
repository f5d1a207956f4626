"""Which weights these are: a digest of a model's files, remembered so that large files are read once."""

import hashlib
import json
import re
import time
from pathlib import Path
from typing import Any

from model_adapters.cache import cache_folder
from model_adapters.steering_file import write_whole

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
SETTLED_S = 2.0
"""A file changed less long ago is not remembered: clocks of file systems are too coarse to tell the next change."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def weights_folder(name: str, revision: str | None = None) -> Path | None:
    """The local folder that holds a model's files: a folder itself, or the hub cache's snapshot; None if unknown."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    from transformers.utils import cached_file

    found = cached_file(
        name,
        "config.json",
        revision=revision,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return Path(found).parent if found else None


def model_digest(name: str, revision: str | None = None) -> str | None:
    """First 16 hexadecimal digits of SHA-256 over the names and contents of a model's weights and config.json.

    None where no local files are known. Reads each file once; later calls compare size and times of change.
    """
    folder = weights_folder(name, revision)
    if folder is None:
        return None
    files = sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS or path.name == "config.json")
    if not files:
        return None
    parts = [(path.name, _file_digest(path)) for path in files]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def state_digest(model: Any) -> str:
    """The same for a model that exists only in memory: over its parameters and buffers, by name."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain = tensor.to_dense() if tensor.is_mkldnn else tensor  # as `packed` lays out the weights of an open backend
        whole.update(plain.detach().cpu().contiguous().view(-1).view(dtype=_byte()).numpy().tobytes())
    return whole.hexdigest()[:16]


def _byte() -> Any:
    import torch

    return torch.uint8


def _file_digest(path: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs" and SHA256.fullmatch(real.name):
        return real.name  # the hub's cache names large files by their SHA-256
    stat = real.stat()
    told = f"{real} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    key = hashlib.sha256(told.encode()).hexdigest()
    memo = cache_folder("digests") / key
    if memo.is_file():
        return memo.read_text()
    with real.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED_S:
        write_whole(memo, found.encode())
    return found
