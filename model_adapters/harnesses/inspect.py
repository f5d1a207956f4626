"""Inspect's model providers: `hook_steered` (a local model), `goodfire_steered` (an Ember service) and `prompt_steered`
(any Inspect model behind a prompt).

No steering decision is taken here: which one runs is in each request, in `extra_body["steer"]` (see `inspect_spec`).
Imports inspect_ai; torch only when a model is loaded.
"""

from model_adapters.harnesses.inspect_engines import ENGINES
from model_adapters.harnesses.inspect_goodfire import SERVICES, GoodfireSteered
from model_adapters.harnesses.inspect_hook import HookSteered
from model_adapters.harnesses.inspect_model import SteeredModel
from model_adapters.harnesses.inspect_prompt import PromptSteered

__all__ = ["GoodfireSteered", "HookSteered", "PromptSteered", "SteeredModel", "unload"]


async def unload() -> int:
    """Give back the weights of every model that Inspect's providers opened; returns how many there were."""
    return await ENGINES.unload() + await SERVICES.unload()
