"""Controller JSON as the client and the service import it; the code is in `model_adapters.controller` and
`controller_json`.

It lies there because methods read controller and variant files too, and a method imports no backend.
"""

from model_adapters.controller import edits_of, steering_of, steering_of_file, steering_of_variant
from model_adapters.controller_json import controller_of, feature_id, index_of_id, wire_refusals

__all__ = [
    "controller_of",
    "edits_of",
    "feature_id",
    "index_of_id",
    "steering_of",
    "steering_of_file",
    "steering_of_variant",
    "wire_refusals",
]
