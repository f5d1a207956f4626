"""Interventions and the frozen Steering: algebra, content, fingerprint, and what is refused."""

# Vectors and files are given as lists and texts here, which the product takes.
# mypy: disable-error-code="arg-type"

import hashlib
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.errors import SteerError
from model_adapters.steering import (
    CONTROL,
    KINDS,
    AblateDirection,
    AddVector,
    ClampFeature,
    Intervention,
    Steering,
    SystemPrompt,
    is_idle,
)
from tests.steering_strategies import interventions, steerings

ADD = AddVector(3, [1.0, -2.0, 0.5], 0.25, "response")
CLAMP = ClampFeature(2, [1.0, 0.0], 0.5, [0.0, 1.0], 4.0)
ABLATE = AblateDirection(1, [3.0, 4.0], 0.5)
PROMPT = SystemPrompt("Be funny.")
EACH = (PROMPT, ADD, CLAMP, ABLATE)

OTHER: dict[str, Any] = {
    "text": "Be funny!",
    "placement": "before",
    "layer": 5,
    "vector": [1.0, -2.0, 0.25],
    "encoder": [1.0, 1.0],
    "decoder": [1.0, 1.0],
    "direction": [3.0, 5.0],
    "coefficient": 0.5,
    "bias": 0.25,
    "value": 3.0,
    "fraction": 0.25,
    "positions": "all",
}


def refusal(make: Any, *arguments: Any) -> str:
    with pytest.raises(SteerError) as caught:
        make(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Algebra


@given(steerings(), steerings(), steerings())
def test_addition_is_associative_and_keeps_the_order(a, b, c):
    """Adding steerings puts one's interventions after the other's, however the sum is bracketed."""
    try:
        left = a + b + c
    except SteerError:
        with pytest.raises(SteerError):
            a + (b + c)
        return
    assert left == a + (b + c)
    assert left.fingerprint == (a + (b + c)).fingerprint
    assert left.interventions == a.interventions + b.interventions + c.interventions


@given(steerings())
def test_the_control_adds_nothing(steering):
    """A steering plus the control is that steering, from either side."""
    assert steering + CONTROL == CONTROL + steering == steering
    assert (steering + CONTROL).fingerprint == steering.fingerprint


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_scaling_multiplies_coefficients_in_turn(coefficient, first, second):
    """Scaling twice multiplies the coefficient twice, in double precision and in that order."""
    steering = Steering((AddVector(0, [1.0], coefficient),))
    (scaled,) = steering.scaled(first).scaled(second).interventions
    assert isinstance(scaled, AddVector)
    assert scaled.coefficient == coefficient * first * second
    assert np.array_equal(scaled.vector, [1.0])


def test_scaling_reaches_every_intervention():
    """A factor goes to every added vector's coefficient and every ablation's fraction, and nowhere else."""
    steering = Steering((ADD, ABLATE, replace(ADD, coefficient=-2.0)))
    assert steering.scaled(0.5) == Steering(
        (replace(ADD, coefficient=0.125), replace(ABLATE, fraction=0.25), replace(ADD, coefficient=-1.0))
    )
    assert steering.scaled(1) == steering


def test_minus_one_turns_a_vector_round_but_not_an_ablation():
    """Added vectors take any factor; an ablation's fraction stays in [0, 1]."""
    assert Steering((ADD,)).scaled(-1) == Steering((replace(ADD, coefficient=-0.25),))
    for factor in (-0.5, 1.5):
        assert refusal(Steering((ABLATE,)).scaled, factor) == (
            f"AblateDirection can't be scaled by {factor}; use a factor in [0, 1]"
        )


def test_scaling_to_zero_is_idle():
    """Everything that can be scaled does nothing at 0, and says so; nothing else claims to be idle."""
    steering = Steering((ADD, ABLATE))
    assert [is_idle(one) for one in steering.interventions] == [False, False]
    for zero in (0, 0.0, -0.0):
        assert [is_idle(one) for one in steering.scaled(zero).interventions] == [True, True]
        assert steering.scaled(zero).fingerprint == steering.scaled(0).fingerprint
    assert is_idle(AddVector(0, [0.0, -0.0], 5.0))
    assert not is_idle(PROMPT)
    assert not is_idle(CLAMP)


@pytest.mark.parametrize("one", [PROMPT, CLAMP])
@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
def test_what_has_no_scale_is_refused_by_name(one, factor):
    """A system prompt and a clamp have no half, so scaling them is refused, by any factor and in any company."""
    assert refusal(Steering((ADD, one)).scaled, factor).startswith(f"{type(one).__name__} can't be scaled, ")


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("steering", [CONTROL, Steering((ADD,)), Steering((ABLATE,))])
def test_a_factor_is_a_finite_number(factor, steering):
    """No steering, not even the control, is scaled by NaN or infinity."""
    assert refusal(steering.scaled, factor) == f"a steering can't be scaled by {factor}; use a finite factor"


def test_a_product_that_overflows_is_refused():
    """A coefficient that leaves the range of numbers is refused instead of becoming infinity."""
    assert "coefficient is inf" in refusal(Steering((AddVector(0, [1.0], 1e300),)).scaled, 1e300)


def test_two_clamps_of_one_feature_do_not_add():
    """A feature is clamped once, whatever the two values and positions; another feature or layer may join it."""
    other_value = replace(CLAMP, value=1.0, positions="prompt")
    assert refusal(lambda: Steering((CLAMP,)) + Steering((other_value,))) == (
        "two clamps of the same feature at layer 2; keep one of them"
    )
    assert "same feature" in refusal(Steering, (CLAMP, ADD, CLAMP))
    for other in (replace(CLAMP, layer=3), replace(CLAMP, bias=0.0), replace(CLAMP, decoder=[1.0, 1.0])):
        assert len((Steering((CLAMP,)) + Steering((other,))).interventions) == 2


def test_the_system_message_is_replaced_once():
    """Two prompts that both replace the system message don't add; one of them and others do."""
    one, two = SystemPrompt("One.", "replace"), SystemPrompt("Two.", "replace")
    assert refusal(lambda: Steering((one,)) + Steering((two,))).startswith("two SystemPrompts replace the system ")
    assert (Steering((one,)) + Steering((PROMPT,))).system_prompts == (one, PROMPT)


# Frozen


def test_nothing_can_be_changed():
    """Fields, interventions and single numbers of a steering can't be changed, not even by asking twice."""
    steering = Steering((ADD,))
    with pytest.raises(FrozenInstanceError):
        steering.interventions = ()  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        ADD.coefficient = 1.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        ADD.vector[0] = 7.0
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        ADD.vector.flags.writeable = True
    assert ADD.vector.tolist() == [1.0, -2.0, 0.5]


def test_what_was_given_is_copied():
    """Changing the array, the list or the provenance that a steering was made of changes nothing in it."""
    array, provenance = np.ones(3, dtype=np.float32), {"method": "caa"}
    made = [AddVector(0, array)]
    steering = Steering(made, provenance)
    before = Steering((AddVector(0, [1.0, 1.0, 1.0]),))
    array[0] = 9.0
    made.clear()
    provenance["method"] = "other"
    assert steering == before
    assert steering.fingerprint == before.fingerprint
    assert steering.provenance == {"method": "caa"}
    assert array.flags.writeable


# Equality and fingerprint


@given(interventions(), interventions())
def test_equality_hash_and_fingerprint_agree(one, two):
    """Two interventions are equal exactly when their steerings' fingerprints are, and then their hashes are too."""
    assert (one == two) == (Steering((one,)).fingerprint == Steering((two,)).fingerprint)
    same = replace(one)
    assert same == one
    assert hash(same) == hash(one)
    assert {Steering((one,)): 1}[Steering((same,))] == 1


def test_other_types_of_number_are_the_same_content():
    """float64 lists, numpy integers, other byte order and -0.0 as a coefficient make no other steering."""
    base = Steering((AddVector(3, [1.0, -2.0, 0.5], 0.0),))
    for dtype in (np.float64, ">f4", np.float16):
        vector = np.array([1, -2, 0.5], dtype=dtype)
        other = Steering((AddVector(np.int64(3), vector, -0.0),))
        assert other == base
        assert other.fingerprint == base.fingerprint
        assert other.interventions[0].vector.dtype == np.dtype("float32")  # type: ignore[union-attr]
    assert math.copysign(1.0, AddVector(3, [1.0], -0.0).coefficient) == 1.0


@pytest.mark.parametrize(
    ("one", "name"), [(one, item.name) for one in EACH for item in fields(one)], ids=lambda value: str(value)[:20]
)
def test_every_field_is_in_the_fingerprint(one, name):
    """Changing any one field of any intervention changes content, fingerprint and equality."""
    other = replace(one, **{name: OTHER[name]})
    assert other != one
    assert Steering((other,)).fingerprint != Steering((one,)).fingerprint


@given(st.integers(0, 4), st.integers(0, 31), st.sampled_from(["vector", "encoder", "decoder", "direction"]))
def test_one_bit_of_a_vector_is_in_the_fingerprint(place, bit, name):
    """Turning any single bit of any vector makes another steering, or one that is refused as not finite."""
    one: dict[str, Intervention] = {
        "vector": AddVector(0, [1.0, 0.0, -3.0, 1e-30, 7.0]),
        "direction": AblateDirection(0, [1.0, 0.0, -3.0, 1e-30, 7.0]),
    }
    clamp = ClampFeature(0, [1.0, 0.0, -3.0, 1e-30, 7.0], 0.0, [1.0, 0.0, -3.0, 1e-30, 7.0], 1.0)
    before = one.get(name, clamp)
    bits = getattr(before, name).view(np.uint32).copy()
    bits[place] ^= np.uint32(1 << bit)
    turned = bits.view(np.float32)
    with np.errstate(over="ignore"):
        is_refused = not np.isfinite(np.linalg.norm(turned) if name == "direction" else turned).all()
    if is_refused:
        refusal(lambda: replace(before, **{name: turned}))
        return
    after = replace(before, **{name: turned})
    assert after != before
    assert Steering((after,)).fingerprint != Steering((before,)).fingerprint


def test_the_last_bit_of_a_coefficient_is_in_the_fingerprint():
    """Two neighbouring double-precision coefficients make two steerings."""
    near = replace(ADD, coefficient=math.nextafter(0.25, 1.0))
    assert near != ADD
    assert Steering((near,)).fingerprint != Steering((ADD,)).fingerprint


def test_order_and_number_are_in_the_fingerprint():
    """The same interventions in another order, or one of them twice, are another steering."""
    seen = {Steering(some).fingerprint for some in ((), (ADD,), (ADD, ADD), (ADD, ABLATE), (ABLATE, ADD))}
    assert len(seen) == 5


def test_the_kind_is_in_the_fingerprint():
    """An added and an ablated direction with the same numbers are two steerings."""
    added, ablated = AddVector(1, [3.0, 4.0], 0.5), AblateDirection(1, [3.0, 4.0], 0.5)
    assert added != ablated
    assert Steering((added,)).fingerprint != Steering((ablated,)).fingerprint


def test_provenance_is_not_content():
    """Where a steering came from enters neither equality nor hash nor fingerprint, and travels through the algebra."""
    plain, described = Steering((ADD,)), Steering((ADD,)).described(method="caa", draw=2)
    assert described == plain
    assert hash(described) == hash(plain)
    assert described.fingerprint == plain.fingerprint
    assert described.scaled(2).provenance == {"method": "caa", "draw": 2, "scaled_by": 2.0}
    assert (described + plain).provenance == {"sum_of": [{"method": "caa", "draw": 2}]}
    assert (plain + plain).provenance == {}


def test_the_fingerprint_is_sha256_of_the_canonical_content():
    """The fingerprint of a known steering, from text written out by hand, so that a change of format is noticed."""
    vector = hashlib.sha256(bytes.fromhex("0000803f000000c00000003f")).hexdigest()  # 1.0, -2.0, 0.5
    canonical = (
        '["steer-tasks steering 1", ['
        '{"kind": "SystemPrompt", "placement": "after", "text": "Be funny."}, '
        f'{{"coefficient": "0x1.0000000000000p-2", "kind": "AddVector", "layer": 3, "positions": "response", '
        f'"vector": "{vector}"}}]]'
    )
    expected = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    assert Steering((PROMPT, ADD)).fingerprint == expected == "269da21a2a76bd4f"
    canonical = '["steer-tasks steering 1", []]'
    assert CONTROL.fingerprint == hashlib.sha256(canonical.encode()).hexdigest()[:16] == "33bfe2a95a2d9045"


# What a steering says of itself


def test_a_steering_tells_prompts_from_residuals():
    """System prompts, changes of the residual, and the layers these act at are told apart, in order."""
    steering = Steering((ADD, PROMPT, ABLATE, CLAMP, replace(ADD, coefficient=1.0)))
    assert steering.system_prompts == (PROMPT,)
    assert steering.on_residuals == (ADD, ABLATE, CLAMP, replace(ADD, coefficient=1.0))
    assert steering.layers == (1, 2, 3)
    assert (bool(steering), bool(CONTROL), CONTROL.layers) == (True, False, ())


def test_defaults():
    """Vectors act on the response with coefficient 1, ablations are whole, prompts come after what is there."""
    assert (AddVector(0, [1.0]).coefficient, AddVector(0, [1.0]).positions) == (1.0, "response")
    assert (AblateDirection(0, [1.0]).fraction, AblateDirection(0, [1.0]).positions) == (1.0, "response")
    assert CLAMP.positions == "response"
    assert PROMPT.placement == "after"


# Refusals


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39])
@pytest.mark.parametrize(
    ("one", "name"), [(ADD, "vector"), (CLAMP, "encoder"), (CLAMP, "decoder"), (ABLATE, "direction")]
)
def test_a_vector_is_finite_in_float32(one, name, value):
    """NaN, infinity and what float32 can't hold are refused wherever they stand in a vector."""
    said = refusal(lambda: replace(one, **{name: [1.0, value]}))
    assert said.startswith(f"{type(one).__name__}.{name} holds NaN or infinity; ")


@pytest.mark.parametrize(
    ("vector", "shape"), [([[1.0, 2.0]], "(1, 2)"), (3.0, "()"), ([], "(0,)"), (np.zeros((2, 2, 2)), "(2, 2, 2)")]
)
def test_a_vector_has_one_dimension(vector, shape):
    """A vector of another shape than (d_model,) is refused, and the error prints the shape that came."""
    assert refusal(AddVector, 0, vector) == f"AddVector.vector has shape {shape}; give one vector of shape (d_model,)"


@pytest.mark.parametrize("vector", [["a", "b"], [[1.0], [1.0, 2.0]], [1j], None, b"bytes", {"a": 1}])
def test_a_vector_is_of_real_numbers(vector):
    """Text, ragged lists, complex numbers and other things are refused instead of being guessed at."""
    assert "AddVector.vector is not a vector of real numbers" in refusal(AddVector, 0, vector)


@pytest.mark.parametrize("layer", [-1, 1.5, True, np.True_, "3", "x", None, math.nan, math.inf])
@pytest.mark.parametrize("one", [ADD, CLAMP, ABLATE])
def test_a_layer_is_a_whole_number_from_zero(one, layer):
    """Negative, fractional, textual and missing layers are refused by name."""
    said = refusal(lambda: replace(one, layer=layer))
    assert said == f"{type(one).__name__}.layer is {layer!r}; layers are whole numbers from 0"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "much", None, 10**400])
@pytest.mark.parametrize(
    ("one", "name"), [(ADD, "coefficient"), (CLAMP, "bias"), (CLAMP, "value"), (ABLATE, "fraction")]
)
def test_a_number_is_finite(one, name, number):
    """NaN, infinity and what is no number are refused in every field that holds a number."""
    said = refusal(lambda: replace(one, **{name: number}))
    assert said.startswith(f"{type(one).__name__}.{name} is ")
    assert said.endswith("must be a finite number")


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_an_ablation_takes_a_part(fraction):
    """A fraction outside [0, 1] is refused."""
    assert refusal(AblateDirection, 0, [1.0], fraction) == f"AblateDirection.fraction is {fraction}; it lies in [0, 1]"


@pytest.mark.parametrize("direction", [[0.0, 0.0], [-0.0, 0.0], [1e-30, 0.0], [1e30, 0.0]])
def test_an_ablated_direction_has_a_length(direction):
    """A direction whose length is 0 or infinite in float32 can't be ablated."""
    assert "AblateDirection.direction has length" in refusal(AblateDirection, 0, direction)


def test_encoder_and_decoder_have_one_width():
    """A clamp whose encoder and decoder differ in width is refused with both shapes."""
    assert refusal(ClampFeature, 0, [1.0], 0.0, [1.0, 2.0], 1.0) == (
        "ClampFeature: encoder (1,) and decoder (2,) differ"
    )


@pytest.mark.parametrize("one", [ADD, CLAMP, ABLATE, PROMPT])
def test_options_are_named(one):
    """Unknown positions and placements are refused with those there are."""
    name = "placement" if one is PROMPT else "positions"
    options = "after, before, replace, separate" if one is PROMPT else "all, prompt, response"
    said = refusal(lambda: replace(one, **{name: "sideways"}))
    assert said == f"{type(one).__name__}.{name} is 'sideways'; it is one of {options}"


@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_a_system_prompt_says_something(text):
    """An empty prompt, or one that is no text, is refused."""
    assert refusal(SystemPrompt, text).startswith("SystemPrompt.text is empty; ")


def test_a_system_prompt_is_unicode():
    """Text with undecodable bytes of a command line in it is refused before a file could be half written."""
    assert refusal(SystemPrompt, "be \udcff funny").startswith("SystemPrompt.text is not valid Unicode ")


@pytest.mark.parametrize("thing", ["be funny", np.ones(3), None, Steering()])
def test_only_interventions_steer(thing):
    """A steering holds interventions and nothing else; the error lists their kinds."""
    kinds = "SystemPrompt, AddVector, ClampFeature, AblateDirection, EditFeatures, When"
    assert refusal(Steering, (thing,)) == f"{type(thing).__name__} is not an intervention; there are {kinds}"
    assert list(KINDS) == ["SystemPrompt", "AddVector", "ClampFeature", "AblateDirection", "EditFeatures", "When"]
