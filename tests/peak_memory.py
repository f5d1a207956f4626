"""The highest resident memory of a Python process, told by itself.

Not by `getrusage`: of children that is the largest of all that ever ran, and a child begins with its parent's.
"""

from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")

TOLD = f"""
import re
from pathlib import Path
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("{STATUS}").read_text())[1])
"""
"""Code that ends a script and prints kilobytes as its last line."""


def last_megabytes(printed: str) -> float:
    """What a script that ends with `TOLD` printed last."""
    return int(printed.splitlines()[-1]) / 1024


def need_status() -> None:
    """Skip the test where the system doesn't tell."""
    if not STATUS.is_file():
        pytest.skip(f"needs {STATUS}: the system doesn't tell a process's highest memory")
