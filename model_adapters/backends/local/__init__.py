"""The transformers engine: load, steer, batch, score, read activations in this process. No torch until it is used."""

from model_adapters.backends.local.loading import model_shape, open_local
from model_adapters.backends.local.weights import model_digest

__all__ = ["model_digest", "model_shape", "open_local"]
