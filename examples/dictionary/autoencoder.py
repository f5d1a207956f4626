"""A top-k sparse autoencoder and its training. Imports torch.

Gao et al., arXiv:2406.04093: the k largest of the rectified pre-activations are kept (section 2.3), the encoder starts
as the decoder's transpose, decoder columns have length 1, and features that have been silent for long learn from the
error that the others leave (appendix A.2).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

AUXILIARY_K = 64
"""Silent features that share in explaining the error."""

AUXILIARY_WEIGHT = 1 / 32

SILENT_STEPS = 60
"""Steps without being active after which a feature counts as silent."""


@dataclass(frozen=True)
class Training:
    """Everything that decides the result, apart from the tokens."""

    n_features: int = 2048
    k: int = 24
    steps: int = 3000
    batch: int = 1024
    learning_rate: float = 2e-3
    seed: int = 0


@dataclass
class Autoencoder:
    """f = topk(relu(encoder·h + encoder_bias)), reconstruction = decoder·f + decoder_bias.

    `encoder` `(n_features, d_model)`, `decoder` `(d_model, n_features)`, biases to match; float32.
    """

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    k: int

    def pre(self, hidden: Tensor) -> Tensor:
        """Rectified, before all but k are dropped: `(tokens, d_model)` to `(tokens, n_features)`."""
        return torch.relu(hidden @ self.encoder.T + self.encoder_bias)

    def top(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Values and indices of the k active features, each `(tokens, k)`."""
        found = self.pre(hidden).topk(self.k, dim=-1)
        return found.values, found.indices

    def activations(self, hidden: Tensor) -> Tensor:
        """All features, `(tokens, n_features)`; at most k of a row are not zero."""
        values, indices = self.top(hidden)
        return torch.zeros(len(hidden), len(self.encoder)).scatter(1, indices, values)

    def decode(self, activations: Tensor) -> Tensor:
        """`(tokens, n_features)` to `(tokens, d_model)`."""
        return activations @ self.decoder.T + self.decoder_bias

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], k: int) -> "Autoencoder":
        """From the four tensors of a dictionary file."""
        names = ("encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias")
        encoder, encoder_bias, decoder, decoder_bias = (tensors[name].float() for name in names)
        return cls(encoder, encoder_bias, decoder, decoder_bias, k)

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors of a dictionary file; float16, so what is lost in rounding is lost before it is measured."""
        made = {
            "encoder_linear.weight": self.encoder,
            "encoder_linear.bias": self.encoder_bias,
            "decoder_linear.weight": self.decoder,
            "decoder_linear.bias": self.decoder_bias,
        }
        return {name: tensor.half().contiguous() for name, tensor in made.items()}


@dataclass(frozen=True)
class Scale:
    """Centring and scaling of residuals: (h - mean) / size has about one unit of variance per dimension."""

    mean: Tensor
    size: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Scale":
        """Measured on `(tokens, d_model)`."""
        mean = values.mean(axis=0, dtype=np.float64)
        size = math.sqrt(values.var(axis=0, dtype=np.float64).mean())
        return cls(torch.tensor(mean, dtype=torch.float32), size)

    def folded(self, made: Autoencoder) -> Autoencoder:
        """The same autoencoder on residuals as they are: activations in residual units, decoder columns of length 1."""
        bias = made.encoder_bias * self.size - made.encoder @ self.mean
        return Autoencoder(made.encoder, bias, made.decoder, made.decoder_bias * self.size + self.mean, made.k)


def train(values: np.ndarray, settings: Training, log: int = 250) -> Autoencoder:
    """Learn a dictionary of residuals `(tokens, d_model)`; it takes them as they are."""
    torch.manual_seed(settings.seed)
    scale = Scale.of(values)
    shape = settings.n_features, values.shape[1]
    directions = torch.randn(shape)
    directions /= directions.norm(dim=1, keepdim=True)
    zeros = torch.zeros(settings.n_features), torch.zeros(values.shape[1])
    made = Autoencoder(directions.clone(), zeros[0], directions.T.contiguous(), zeros[1], settings.k)
    parts = [made.encoder, made.encoder_bias, made.decoder, made.decoder_bias]
    for part in parts:
        part.requires_grad_(True)
    optimizer = torch.optim.Adam(parts, lr=settings.learning_rate, betas=(0.9, 0.999), eps=6.25e-10)
    silent = torch.zeros(settings.n_features)
    for step, hidden in enumerate(_batches(values, scale, settings)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(step / settings.steps)
        loss, active = _loss(made, hidden, silent)
        loss.backward()
        with torch.no_grad():
            # Steps along a column's own direction would only change its length, which is fixed.
            columns, slope = made.decoder, made.decoder.grad
            assert slope is not None
            slope -= (slope * columns).sum(0) * columns
            optimizer.step()
            optimizer.zero_grad()
            columns /= columns.norm(dim=0)
            silent = torch.where(active, 0.0, silent + 1)
        if step % log == 0:
            dead = int((silent > SILENT_STEPS).sum())
            print(f"step {step}: loss {float(loss.detach()):.4f}, silent features {dead}", flush=True)
    for part in parts:
        part.requires_grad_(False)
    return scale.folded(made)


def _rate(progress: float) -> float:
    """Learning rate over its peak: up within 3 %, down over the last 40 %."""
    return min(1.0, progress / 0.03 + 0.01, (1 - progress) / 0.4)


def _batches(values: np.ndarray, scale: Scale, settings: Training) -> Iterator[Tensor]:
    """Tokens in a new random order each time round."""
    dice = np.random.default_rng(settings.seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(settings.steps):
        if len(order) < settings.batch:
            order = np.concatenate([order, dice.permutation(len(values))])
        chosen, order = order[: settings.batch], order[settings.batch :]
        yield (torch.from_numpy(values[chosen].astype(np.float32)) - scale.mean) / scale.size


def _loss(made: Autoencoder, hidden: Tensor, silent: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error over the tokens' variance, with the silent features' share; and which features were active."""
    pre = made.pre(hidden)
    kept = pre.topk(made.k, dim=-1)
    sparse = torch.zeros_like(pre).scatter(1, kept.indices, kept.values)
    active = (sparse.detach() > 0).any(0)
    error = hidden - made.decode(sparse)
    loss = error.square().mean() / hidden.square().mean()
    asleep = silent > SILENT_STEPS
    if int(asleep.sum()) >= AUXILIARY_K:
        raw = (hidden @ made.encoder.T + made.encoder_bias).masked_fill(~asleep, -torch.inf)
        spare = raw.topk(AUXILIARY_K, dim=-1)
        helped = torch.zeros_like(pre).scatter(1, spare.indices, torch.relu(spare.values))
        left = error.detach()
        missed = (left - helped @ made.decoder.T).square().mean() / left.square().mean()
        loss = loss + AUXILIARY_WEIGHT * missed
    return loss, active
