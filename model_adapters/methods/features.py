"""Edits of features that somebody names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from model_adapters.behavior import Behavior
from model_adapters.controller import edits_of, steering_of_file
from model_adapters.method import Context
from model_adapters.steering import Steering


@dataclass(frozen=True)
class Features:
    """Nudges by index, `edits=551@0.6+983@-0.3`, or the controller or saved variant in a JSON file, `edits=FILE`.

    Values are in units of the service: times the dictionary's factor they are in the dictionary's own.
    """

    name: ClassVar[str] = "features"
    needs_behavior: ClassVar[bool] = False
    is_immediate: ClassVar[bool] = True

    edits: str

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """EditFeatures, and a When for each of a controller's scopes. Raises SteerError for what can't be read."""
        if re.match(r"\s*[0-9]+@", self.edits) and not Path(self.edits).expanduser().is_file():
            return Steering((edits_of(self.edits),))
        return steering_of_file(self.edits)
