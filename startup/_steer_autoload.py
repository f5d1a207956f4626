"""Makes the unmodified `lm_eval` command find steer-tasks, by waiting for lm-eval to be imported.

lm-eval loads no plugins, so somebody has to register our models and tasks before it looks for them.
This module lies at the root of site-packages, and `steer_autoload.pth` (from Python 3.15 on `steer_autoload.start`)
calls `install` when Python starts. Nothing else of ours is imported then: that happens only in a process that
imports lm-eval. `STEER_TASKS_AUTOLOAD=0` in the environment switches it off.

May import `os` and `sys` at the top, nothing else: this runs at the start of every Python of the environment.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

SWITCH = "STEER_TASKS_AUTOLOAD"
# Each one has a function of the same name, dots as underscores, in steer_tasks._lm_eval_patch. `lm_eval.tasks` and not
# the module below it that defines TaskManager: that one has moved between releases, the name in the package has not.
WATCHED = ("lm_eval.models", "lm_eval.tasks")


class Finder:
    """Lets every other finder look for a watched module, and adds our part to the end of its execution."""

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """The spec that the other finders give for `name`, with our part behind its loader; None if not watched."""
        if name not in WATCHED:
            return None
        others = [finder for finder in sys.meta_path if finder is not Finder and hasattr(finder, "find_spec")]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        try:
            execute = spec.loader.exec_module  # type: ignore[union-attr]

            def exec_module(module: "ModuleType") -> None:
                execute(module)
                _register(name, module)

            # On this one loader, so that no other import sees a difference.
            spec.loader.exec_module = exec_module  # type: ignore[union-attr, method-assign]
        except AttributeError:
            pass  # lm-eval isn't there, or a loader that can't be extended: then lm-eval runs without us
        return spec


def _register(name: str, module: "ModuleType") -> None:
    """Hand the freshly imported `module` to our patch; what goes wrong is a warning, lm-eval itself goes on."""
    try:
        from steer_tasks import _lm_eval_patch

        getattr(_lm_eval_patch, name.replace(".", "_"))(module)
    except Exception as error:
        import warnings

        warnings.warn(
            f"steer-tasks is not registered with {name} ({type(error).__name__}: {error}); "
            f"reinstall steer-tasks, or silence this with {SWITCH}=0",
            stacklevel=2,
        )


def install(always: bool = False) -> None:
    """Watch for lm-eval, unless `STEER_TASKS_AUTOLOAD=0`; a second call does nothing.

    `always` is for whoever asks for us by name (`steer lm_eval`): the switch is then not looked at.
    """
    if Finder in sys.meta_path or (os.environ.get(SWITCH) == "0" and not always):
        return
    # In front: a finder behind the usual ones is never asked about a module that exists.
    sys.meta_path.insert(0, Finder)
    for name in WATCHED:
        if name in sys.modules:
            _register(name, sys.modules[name])
