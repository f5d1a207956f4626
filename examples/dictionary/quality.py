"""What a dictionary leaves out and uses, measured on tokens. Imports torch."""

from dataclasses import dataclass

import numpy as np
import torch

from examples.dictionary.autoencoder import Autoencoder


@dataclass(frozen=True)
class Quality:
    """`explained` share of variance, `active` mean number of active features, `counts` tokens per feature."""

    explained: float
    active: float
    counts: np.ndarray
    largest: np.ndarray
    tokens: int

    @property
    def dead(self) -> float:
        """Share of features that were active at no token."""
        return float((self.counts == 0).mean())


def quality(made: Autoencoder, values: np.ndarray, step: int = 4096) -> Quality:
    """Over residuals `(tokens, d_model)`: 1 - squared error / squared distance from these tokens' own mean."""
    mean = torch.from_numpy(values.mean(axis=0, dtype=np.float64).astype(np.float32))
    error = total = active = 0.0
    counts, largest = torch.zeros(len(made.encoder)), torch.zeros(len(made.encoder))
    for start in range(0, len(values), step):
        hidden = torch.from_numpy(values[start : start + step].astype(np.float32))
        sparse = made.activations(hidden)
        error += float((hidden - made.decode(sparse)).square().sum())
        total += float((hidden - mean).square().sum())
        active += float((sparse > 0).sum())
        counts += (sparse > 0).sum(0)
        largest = largest.maximum(sparse.max(0).values)
    return Quality(1 - error / total, active / len(values), counts.numpy(), largest.numpy(), len(values))
