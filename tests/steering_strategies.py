"""Any steering there can be, for hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_adapters.errors import SteerError
from model_adapters.steering import (
    AblateDirection,
    AddVector,
    AllOf,
    AnyOf,
    ClampFeature,
    Compare,
    Condition,
    EditFeatures,
    FeatureCompare,
    FeatureEdit,
    Intervention,
    Reading,
    Steering,
    SystemPrompt,
    When,
)

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


OPERATORS = st.sampled_from([">", "<", "==", ">=", "<=", "!="])
INDICES = st.integers(0, 5) | st.integers(0, 131071)
FEW = st.sampled_from([0.0, 1.0, -0.5]) | NUMBERS


def conditions() -> st.SearchStrategy[Condition]:
    """Any condition, groups within groups included."""
    readings = st.builds(Reading, LAYERS, vectors(), FEW, st.booleans())
    indices = st.lists(INDICES, min_size=1, max_size=3).map(tuple)
    layer = st.none() | LAYERS
    single = st.builds(Compare, readings, OPERATORS, FEW | readings) | st.builds(
        FeatureCompare, indices, OPERATORS, FEW | indices, st.none() | st.just("d0"), layer, st.none() | FEW
    )
    several = lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple)  # noqa: E731
    return st.recursive(
        single, lambda inner: st.builds(AllOf, several(inner)) | st.builds(AnyOf, several(inner)), max_leaves=4
    )


def edits() -> st.SearchStrategy[EditFeatures]:
    """Any edits of features."""
    one = st.builds(FeatureEdit, INDICES, FEW, st.sampled_from(["nudge", "pin"]))
    several = st.lists(one, min_size=1, max_size=3, unique_by=lambda edit: edit.index).map(tuple)
    return st.builds(
        EditFeatures,
        several,
        st.none() | st.just("d0"),
        st.none() | LAYERS,
        st.none() | FEW,
        st.none() | POSITIONS,
    )


def guarded() -> st.SearchStrategy[Intervention]:
    """Whatever acts on the residual, conditions within conditions included."""
    plain = st.one_of(
        st.builds(AddVector, LAYERS, vectors(), FEW, POSITIONS),
        st.builds(ClampFeature, LAYERS, vectors(), FEW, vectors(), FEW, POSITIONS),
        st.builds(AblateDirection, LAYERS, directions(), st.floats(0, 1), POSITIONS),
        edits(),
    )
    return st.recursive(plain, _whens, max_leaves=3)


def _whens(inner: st.SearchStrategy[Intervention]) -> st.SearchStrategy[When]:
    inside, moment = st.lists(inner, min_size=1, max_size=2).map(tuple), st.sampled_from(["token", "prompt"])
    return st.builds(When, conditions(), inside, moment, st.none() | TEXTS) | st.builds(
        When, conditions(), st.just(()), moment, TEXTS
    )


def interventions() -> st.SearchStrategy[Intervention]:
    """Any intervention; from so few layers and numbers that equal ones occur."""
    prompts = st.builds(SystemPrompt, TEXTS, st.sampled_from(["after", "before", "replace", "separate"]))
    return prompts | guarded()


def _is_allowed(some: tuple[Intervention, ...]) -> bool:
    try:
        Steering(some)
    except SteerError:
        return False
    return True


def steerings() -> st.SearchStrategy[Steering]:
    """Any steering of up to four interventions."""
    return st.lists(interventions(), max_size=4).map(tuple).filter(_is_allowed).map(Steering)
