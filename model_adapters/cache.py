"""Where prepared things live between runs. Standard library and platformdirs only."""

import os
from pathlib import Path


def cache_folder(*parts: str) -> Path:
    """The folder `parts` below the cache, created; `STEER_TASKS_CACHE` moves it (default: the user's cache folder)."""
    folder = _root().joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _root() -> Path:
    root = os.environ.get("STEER_TASKS_CACHE")
    if root:
        return Path(root).expanduser()
    # Not at the top: a vLLM server imports us for a plugin, and platformdirs isn't among what vLLM brings.
    from platformdirs import user_cache_path

    return user_cache_path("steer-tasks", appauthor=False)
