"""A dictionary of features, read lazily: a sparse autoencoder, its layer, its units and its labels. numpy only here."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from model_adapters.cache import cache_folder
from model_adapters.errors import SteerError
from model_adapters.features.labels import Labels, read_labels
from model_adapters.features.sources import Source, find_source
from model_adapters.features.weights import Weights, weights_of

CHUNK = 4096
"""Features read at a time where all are needed: 64 MB of a 4,096-wide dictionary in float32."""


@dataclass(frozen=True)
class Rows:
    """Some features, in the order they were asked for; all float32.

    `encoder` and `decoder` are `(features, d_model)`; `bias` is `(features,)` with any input bias folded in, so that
    a feature reads relu(encoder · h + bias); `decoder_norms` are ‖decoder‖, `(features,)`.
    """

    encoder: np.ndarray
    bias: np.ndarray
    decoder: np.ndarray
    decoder_norms: np.ndarray


@dataclass(frozen=True)
class Dictionary:
    """Features of one model's residual stream after block `layer` (0-based).

    f = activation(encoder · h + bias) and h ≈ decoder · f + decoder bias. `activation` is `relu` or `topk:K` (the K
    largest after the relu). `factor` is how many of its own units make one unit of an edit's value. `digest` is the
    first 16 hex digits of SHA-256 over the file that holds the weights.
    """

    name: str
    digest: str
    layer: int
    activation: str
    factor: float
    model: str | None
    labels: Labels = field(repr=False)
    weights: Weights = field(repr=False)

    @property
    def n_features(self) -> int:
        """How many features there are; indices run from 0."""
        return self.weights.n_features

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weights.d_model

    @property
    def kept(self) -> int | None:
        """K of `topk:K`; None for `relu`."""
        return int(self.activation.partition(":")[2]) if self.activation.startswith("topk:") else None

    def described(self) -> dict[str, object]:
        """What results and provenance say of it."""
        return {
            "name": self.name,
            "digest": self.digest,
            "layer": self.layer,
            "factor": self.factor,
            "activation": self.activation,
        }

    def check(self, indices: Sequence[int]) -> None:
        """Raise SteerError for an index that isn't there."""
        for index in indices:
            if not 0 <= index < self.n_features:
                last = self.n_features - 1
                raise SteerError(f"feature {index} is out of range; {self.name} has features 0 to {last}")

    def rows(self, indices: Sequence[int]) -> Rows:
        """Encoder, bias and decoder of some features; reads those only. Raises SteerError for an index out of range."""
        self.check(indices)
        which = [int(index) for index in indices]
        encoder, decoder = self.weights.encoder(which), self.weights.decoder(which)
        bias = self._biases[which]
        if self._input_bias is not None:
            bias = bias - encoder @ self._input_bias
        norms = np.linalg.norm(decoder.astype(np.float64), axis=1).astype(np.float32)
        return Rows(encoder, bias.astype(np.float32), decoder, norms)

    def encode(self, residuals: np.ndarray) -> np.ndarray:
        """Activations of all features: `(tokens, d_model)` to `(tokens, features)`, float32.

        Of equal activations at the edge of the K largest the lower index is kept. Raises SteerError for another width.
        """
        given = np.asarray(residuals, dtype=np.float32)
        if given.ndim != 2 or given.shape[1] != self.d_model:
            raise SteerError(f"{self.name} encodes residuals (tokens, {self.d_model}), not {given.shape}")
        if self._input_bias is not None:
            given = given - self._input_bias
        found = np.empty((len(given), self.n_features), dtype=np.float32)
        for chunk in self._chunks():
            found[:, chunk] = np.maximum(given @ self.weights.encoder(chunk).T + self._biases[chunk], 0.0)
        return found if self.kept is None else _largest(found, self.kept)

    def decode(self, activations: np.ndarray) -> np.ndarray:
        """Reconstructed residuals: `(tokens, features)` to `(tokens, d_model)`, float32."""
        given = np.asarray(activations, dtype=np.float32)
        total = np.tile(self.weights.decoder_bias, (len(given), 1))
        for chunk in self._chunks():
            total += given[:, chunk] @ self.weights.decoder(chunk)
        return total

    def neighbors(self, indices: Sequence[int], limit: int) -> list[tuple[int, float]]:
        """Features nearest to the centroid of the given ones by the cosine of their decoders, nearest first.

        The given ones are left out; equal cosines in order of index.
        """
        directions = self.rows(indices).decoder.astype(np.float64)
        lengths = np.linalg.norm(directions, axis=1, keepdims=True)
        centroid = (directions / np.where(lengths > 0, lengths, 1.0)).mean(axis=0)
        cosines = np.full(self.n_features, -np.inf)
        size = float(np.linalg.norm(centroid))
        for chunk in self._chunks():
            decoder = self.weights.decoder(chunk).astype(np.float64)
            norms = np.linalg.norm(decoder, axis=1) * size
            products = decoder @ centroid
            cosines[chunk] = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        cosines[list(indices)] = -np.inf
        order = np.argsort(-cosines, kind="stable")[: max(0, min(limit, self.n_features - len(set(indices))))]
        return [(int(index), float(cosines[index])) for index in order]

    def _chunks(self) -> list[slice]:
        return [slice(start, min(start + CHUNK, self.n_features)) for start in range(0, self.n_features, CHUNK)]

    @cached_property
    def _biases(self) -> np.ndarray:
        return self.weights.bias()

    @cached_property
    def _input_bias(self) -> np.ndarray | None:
        return self.weights.input_bias


def _largest(activations: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest of each row, zeros elsewhere."""
    if count >= activations.shape[1]:
        return activations
    order = np.argsort(-activations, axis=1, kind="stable")[:, :count]
    kept = np.zeros_like(activations)
    np.put_along_axis(kept, order, np.take_along_axis(activations, order, axis=1), axis=1)
    return kept


def open_dictionary(
    named: str | Path,
    *,
    layer: int | None = None,
    factor: float | None = None,
    activation: str | None = None,
    labels: str | Path | None = None,
) -> Dictionary:
    """The dictionary `demo` (the package's own, for the embedded model), or one in a file or folder.

    What its files don't say must be given: `layer`, `factor` and `activation` (relu where nobody says). Goodfire's two
    published ones are known by their shapes. Raises SteerError for what can't be a dictionary, before weights are read.
    """
    source = find_source(named)
    weights = weights_of(source.weights, source.subtracts)
    known = source.known(weights)
    layer = known.get("layer") if layer is None else layer
    factor = known.get("factor") if factor is None else factor
    activation = activation or known.get("activation") or "relu"
    if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
        raise SteerError(f"{named}: says no layer; give layer=N, the block (0-based) whose output it reads")
    if not isinstance(factor, (int, float)) or not factor > 0:
        raise SteerError(f"{named}: says no factor; give factor=F, its units per unit of value (docs/features.md)")
    if not re.fullmatch(r"relu|topk:[1-9][0-9]*", str(activation)):
        raise SteerError(f"{named}: activation {activation!r} is neither relu nor topk:K")
    listed = labels or source.labels
    return Dictionary(
        name=str(known.get("name") or source.name),
        digest=file_digest(source.weights),
        layer=layer,
        activation=str(activation),
        factor=float(factor),
        model=known.get("model"),
        labels=read_labels(listed, weights.n_features) if listed else Labels({}),
        weights=weights,
    )


def file_digest(path: Path) -> str:
    """First 16 hex digits of a file's SHA-256; remembered by path, size and time of change, as files are large."""
    state = path.stat()
    known = cache_folder("digests") / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    mark = [state.st_size, state.st_mtime_ns]
    try:
        held: Any = json.loads(known.read_text())
        if isinstance(held, Mapping) and held.get("mark") == mark:
            return str(held["digest"])
    except (OSError, ValueError):
        pass
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    known.parent.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps({"mark": mark, "digest": digest}))
    return digest


__all__ = ["Dictionary", "Rows", "Source", "file_digest", "open_dictionary"]
