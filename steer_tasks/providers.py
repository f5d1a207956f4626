"""The model providers that Inspect finds by name. Their classes are imported when a model is made."""

from inspect_ai.model import ModelAPI, modelapi


@modelapi(name="hook_steered")
def hook_steered() -> type[ModelAPI]:
    """`hook_steered/<model>`: a model in this process or on a vLLM server, steered request by request."""
    from model_adapters.harnesses.inspect import HookSteered

    return HookSteered


@modelapi(name="goodfire_steered")
def goodfire_steered() -> type[ModelAPI]:
    """`goodfire_steered/<model>`: an Ember service, hosted, at a URL, or in this process."""
    from model_adapters.harnesses.inspect import GoodfireSteered

    return GoodfireSteered


@modelapi(name="prompt_steered")
def prompt_steered() -> type[ModelAPI]:
    """`prompt_steered/<provider>/<model>`: any Inspect model behind a prompt."""
    from model_adapters.harnesses.inspect import PromptSteered

    return PromptSteered


@modelapi(name="stand_in_steered")
def stand_in_steered() -> type[ModelAPI]:
    """`stand_in_steered/<name>`: answers that mean nothing, for dry runs."""
    from model_adapters.harnesses.inspect_stand_in import StandInSteered

    return StandInSteered


@modelapi(name="stand_in_judge")
def stand_in_judge() -> type[ModelAPI]:
    """`stand_in_judge/<name>`: scores that mean nothing, for dry runs."""
    from model_adapters.harnesses.inspect_stand_in import StandInJudge

    return StandInJudge
