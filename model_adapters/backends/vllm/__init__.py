"""Client of a vLLM server whose requests are steered one by one, through the plugin vllm-lens. No torch here."""

from model_adapters.backends.vllm.backend import VllmBackend
from model_adapters.backends.vllm.opening import open_vllm
from model_adapters.backends.vllm.server import CONCURRENCY

__all__ = ["CONCURRENCY", "VllmBackend", "open_vllm"]
