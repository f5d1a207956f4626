"""Inspect's model providers: `hook_steered` (a model in this process or on a vLLM server), `goodfire_steered` (an Ember
service) and `prompt_steered` (any Inspect model behind a prompt).

No steering decision is taken here: which one runs is in each request, in `extra_body["steer"]` (see `inspect_spec`).
Imports inspect_ai; torch only when a model is loaded.
"""

from model_adapters.harnesses.inspect_engines import ENGINES, SERVED
from model_adapters.harnesses.inspect_goodfire import SERVICES, GoodfireSteered
from model_adapters.harnesses.inspect_hook import HookSteered
from model_adapters.harnesses.inspect_model import SteeredModel
from model_adapters.harnesses.inspect_prompt import PromptSteered

__all__ = ["GoodfireSteered", "HookSteered", "PromptSteered", "SteeredModel", "unload"]


async def unload() -> int:
    """Give back the weights or connections of every model that Inspect's providers opened; returns how many."""
    return await ENGINES.unload() + await SERVED.unload() + await SERVICES.unload()
