"""Client of a vLLM server whose requests are steered one by one, through the plugin vllm-lens. No torch here."""

from model_adapters.backends.vllm.backend import VllmBackend
from model_adapters.backends.vllm.opening import open_vllm

__all__ = ["VllmBackend", "open_vllm"]
