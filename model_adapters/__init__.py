"""Makes a model that is steered; knows nothing of tasks or judging. May import neither judges nor steer_tasks.

What a user needs most, in one place. Backends are in `model_adapters.backends`; nothing here imports torch.
"""

from model_adapters.backend import Completion, Likelihood, Message, Proof, Request, Sampling, Text
from model_adapters.behavior import Behavior, Contrast, find_behavior, find_behaviors
from model_adapters.controller import steering_of_file, steering_of_variant
from model_adapters.errors import NotApplied, Refused, SteerError, SteeringFileError
from model_adapters.method import Context, SteeringFile
from model_adapters.methods import build_method, method_names
from model_adapters.preparation import Prepared, prepare
from model_adapters.steering import (
    CONTROL,
    AblateDirection,
    AddVector,
    ClampFeature,
    EditFeatures,
    FeatureEdit,
    Steering,
    SystemPrompt,
    When,
)
from model_adapters.steering_file import load_steering, save_steering

__all__ = [
    "CONTROL",
    "AblateDirection",
    "AddVector",
    "Behavior",
    "ClampFeature",
    "Completion",
    "Context",
    "Contrast",
    "EditFeatures",
    "FeatureEdit",
    "Likelihood",
    "Message",
    "NotApplied",
    "Prepared",
    "Proof",
    "Refused",
    "Request",
    "Sampling",
    "SteerError",
    "Steering",
    "SteeringFile",
    "SteeringFileError",
    "SystemPrompt",
    "Text",
    "When",
    "build_method",
    "find_behavior",
    "find_behaviors",
    "load_steering",
    "method_names",
    "prepare",
    "save_steering",
    "steering_of_file",
    "steering_of_variant",
]
