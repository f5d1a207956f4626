"""Any steering there can be, for hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_adapters.steering import AblateDirection, AddVector, ClampFeature, Intervention, Steering, SystemPrompt

POSITIONS = st.sampled_from(["all", "prompt", "response"])
LAYERS = st.integers(0, 3) | st.integers(0, 200)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))


def vectors(width: int = 3) -> st.SearchStrategy[np.ndarray]:
    """Any finite float32 vector, subnormal numbers and -0.0 included."""
    return arrays(np.float32, width, elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def directions() -> st.SearchStrategy[np.ndarray]:
    """Vectors with a length in float32."""
    return arrays(np.float32, 3, elements=st.floats(-1e6, 1e6, width=32)).filter(
        lambda vector: bool(np.linalg.norm(vector) > 0)
    )


def interventions() -> st.SearchStrategy[Intervention]:
    """Any intervention; from so few layers and numbers that equal ones occur."""
    few = st.sampled_from([0.0, 1.0, -0.5]) | NUMBERS
    return st.one_of(
        st.builds(SystemPrompt, TEXTS, st.sampled_from(["after", "before", "replace", "separate"])),
        st.builds(AddVector, LAYERS, vectors(), few, POSITIONS),
        st.builds(ClampFeature, LAYERS, vectors(), few, vectors(), few, POSITIONS),
        st.builds(AblateDirection, LAYERS, directions(), st.floats(0, 1), POSITIONS),
    )


def _is_allowed(some: tuple[Intervention, ...]) -> bool:
    clamped = [one.feature for one in some if isinstance(one, ClampFeature)]
    replacing = [one for one in some if isinstance(one, SystemPrompt) and one.placement == "replace"]
    return len(set(clamped)) == len(clamped) and len(replacing) < 2


def steerings() -> st.SearchStrategy[Steering]:
    """Any steering of up to four interventions."""
    return st.lists(interventions(), max_size=4).map(tuple).filter(_is_allowed).map(Steering)
