"""Prints what vLLM's CPU build needs, for pip; leaves out torch, which comes first and by its exact version."""

import re
import sys
from importlib.metadata import requires

APART = {"torch", "torchaudio", "torchcodec", "torchvision"}
"""torch's companions read sounds, films and images; a model of text is served without them."""


def needed(distribution: str) -> list[str]:
    """The requirements of an installed distribution without those `APART` and those of its extras."""
    found = [one for one in requires(distribution) or [] if "extra ==" not in one]
    return [one for one in found if re.split(r"[^A-Za-z0-9_.-]", one, maxsplit=1)[0].lower() not in APART]


if __name__ == "__main__":
    print("\n".join(needed(sys.argv[1])))
