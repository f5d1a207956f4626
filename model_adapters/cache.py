"""Where prepared things live between runs. Standard library and platformdirs only."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder(*parts: str) -> Path:
    """The folder `parts` below the cache, created; `STEER_TASKS_CACHE` moves it (default: the user's cache folder)."""
    root = os.environ.get("STEER_TASKS_CACHE")
    folder = Path(root).expanduser() if root else user_cache_path("steer-tasks", appauthor=False)
    folder = folder.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
