"""What the start-up hook adds to lm-eval: our models in its registry, our task folder in its task manager.

Imported only while lm-eval is being imported. May import the standard library at the top, lm-eval inside functions.
"""

import functools
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

MODELS = {
    "goodfire_steered": "model_adapters.harnesses.lm_eval:GoodfireSteered",
    "hook_steered": "model_adapters.harnesses.lm_eval:HookSteered",
    "prompt_steered": "model_adapters.harnesses.lm_eval:PromptSteered",
}
"""Name on lm-eval's command line -> `module:Class`, a string so that torch is imported only when the model is used."""

TASKS = Path(__file__).parent / "lm_eval_tasks"
"""The folder of our task files; each YAML file in it becomes a task of lm-eval."""


def lm_eval_models(module: ModuleType) -> None:
    """Register our models beside lm-eval's own; a name that somebody else holds stays theirs, with a warning.

    `module` is `lm_eval.models`, already executed: registering before it would make lm-eval skip its built-in models.
    """
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        holder = dict(model_registry.items()).get(name, target)
        if _spelt(holder) != target:
            warnings.warn(
                f"steer-tasks: lm-eval's model name {name!r} is held by {_spelt(holder)}, so ours is not registered; "
                "uninstall the other package to use ours",
                stacklevel=2,
            )
        elif name not in model_registry:
            model_registry.register(name, target=target)


def _spelt(holder: object) -> str:
    """`module:Class` of what a registry holds: a class, such a string already, or an entry point."""
    if isinstance(holder, str):
        return holder.replace(" ", "")
    if isinstance(holder, type):
        return f"{holder.__module__}:{holder.__qualname__}"
    return str(getattr(holder, "value", holder))


def lm_eval_tasks(module: ModuleType) -> None:
    """Let every `TaskManager` of `module` (`lm_eval.tasks`) see our tasks: built-ins, then ours, then the user's.

    Later folders win, so a user's own file replaces ours. With `include_defaults=False` only the user's are seen.
    """
    original = module.TaskManager.__init__
    if getattr(original, "_steer_tasks", False):
        return

    @functools.wraps(original)
    def __init__(
        self: Any,
        verbosity: Any = None,
        include_path: Any = None,
        include_defaults: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        paths: list[Any] = [str(TASKS)] if include_defaults else []
        if include_path:
            paths += include_path if isinstance(include_path, (list, tuple)) else [include_path]
        original(self, verbosity, paths or None, include_defaults, *args, **kwargs)
        self.include_path = include_path

    __init__._steer_tasks = True  # type: ignore[attr-defined]
    module.TaskManager.__init__ = __init__
