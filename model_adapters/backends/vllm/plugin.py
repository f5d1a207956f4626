"""For the server's side: lets vllm-lens count positions while answers are written. Imports nothing of vLLM by itself.

vllm-lens 1.3.0 asks the attention metadata of a pass for its rows' lengths, to know where in its text each token is.
vLLM keeps one metadata object for each layer in a mapping, and a mapping has no lengths; vllm-lens then takes every
pass for the start of the text. Prompts that are read in one pass come out right, written tokens and prompts read in
pieces don't: a vector at response positions ends with the prompt. Installed beside vLLM, this package gives the
lengths. Nothing relies on it: clients probe what a server does.
"""

from typing import Any


class Positioned(dict[str, Any]):
    """The metadata of all layers, with the lengths that any of them knows. What is no metadata has none."""

    @property
    def seq_lens(self) -> Any:
        """How many tokens each row has, the pass's own included; None where no layer says."""
        return next((found for one in self.values() if (found := getattr(one, "seq_lens", None)) is not None), None)


class _Context:
    """A forward context whose attention metadata is `Positioned`; everything else is the context's own."""

    def __init__(self, context: Any) -> None:
        self._context = context

    @property
    def attn_metadata(self) -> Any:
        held = self._context.attn_metadata
        return Positioned(held) if type(held) is dict else held

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def register() -> None:
    """Called by vLLM in each of its processes (entry-point group `vllm.general_plugins`)."""
    try:
        from vllm_lens import _worker_ext as worker  # type: ignore[import-not-found]
    except ImportError:
        return
    ask = getattr(worker, "get_forward_context", None)
    if ask is None or getattr(ask, "gives_lengths", False):
        return

    def get_forward_context() -> Any:
        return _Context(ask())

    get_forward_context.gives_lengths = True  # type: ignore[attr-defined]
    worker.get_forward_context = get_forward_context
