"""A dictionary of five features of a three-wide residual, whose right answers are known by hand."""

import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

from model_adapters.features import Dictionary, open_dictionary

DECODER = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 1], [1, 1, 0], [0, 0, -1]], dtype=np.float32)
"""`(features, d_model)`; 0, 1 and 2 are the axes, 3 lies between 0 and 1, 4 is against 2."""

LABELS = {0: "glad joy", 1: "fun and jokes", 2: "dull grey days", 3: "joy and fun", 4: "bright glad days"}


def write_dictionary(
    folder: Path,
    decoder: np.ndarray = DECODER,
    labels: Mapping[int, str] | None = None,
    layer: int = 1,
    factor: float = 2.0,
) -> Path:
    """In the package's own folder layout; a feature's encoder is its decoder, and no bias."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        "encoder_linear.weight": decoder.copy(),
        "encoder_linear.bias": np.zeros(len(decoder), dtype=np.float32),
        "decoder_linear.weight": np.ascontiguousarray(decoder.T),
        "decoder_linear.bias": np.zeros(decoder.shape[1], dtype=np.float32),
    }
    save_file(weights, folder / "dictionary.safetensors")
    about = {"name": "tiny", "model": "fake/model", "layer": layer, "activation": "relu", "factor": factor}
    (folder / "dictionary.json").write_text(json.dumps(about))
    named = LABELS if labels is None else labels
    (folder / "labels.json").write_text(json.dumps({str(index): label for index, label in named.items()}))
    return folder


@cache
def tiny_dictionary() -> Dictionary:
    """Of layer 1, with 2 units per unit of value."""
    # Kept for as long as the process lives: the weights are read when they are asked for.
    return open_dictionary(write_dictionary(Path(tempfile.mkdtemp(prefix="tiny-dictionary-"))))
