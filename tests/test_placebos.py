"""Which arms are taken for placebos of which."""

from steer_tasks.analysis.placebos import ArmKind, arm_kind, placebos_of
from tests.record_strategies import record

KINDS = {
    "control": ArmKind("control", None, None),
    "weak": ArmKind("caa", 0.3, None),
    "strong": ArmKind("caa", 0.6, None),
    "turned": ArmKind("caa", -0.3, None),
    "noise": ArmKind("random_vector", 0.3, None),
    "features": ArmKind("auto_steer", None, None),
    "shuffled": ArmKind("random_features", None, None),
    "asked": ArmKind("prompt", None, None),
    "neutral": ArmKind("neutral_prompt", None, None),
    "both": ArmKind("combined", None, None),
}


def test_placebos_fit_by_method_and_push():
    """A vector has random ones of its dose and its own wrong sign, features random ones, a sentence a neutral one."""
    assert placebos_of("weak", KINDS) == {"random_vector": ("noise",), "wrong sign": ("turned",)}
    assert placebos_of("features", KINDS) == {"random_features": ("shuffled",), "random_vector": ("noise",)}
    assert placebos_of("asked", KINDS) == {"neutral_prompt": ("neutral",)}
    assert set(placebos_of("both", KINDS)) == {"random_vector", "random_features", "neutral_prompt"}


def test_a_placebo_of_another_push_does_not_fit():
    """A random vector at half the dose is no placebo of the arm, one whose dose isn't known is; a placebo has none."""
    assert placebos_of("strong", KINDS) == {}
    unknown = {**KINDS, "matched": ArmKind("random_vector", None, None)}
    assert placebos_of("strong", unknown) == {"random_vector": ("matched",)}
    assert placebos_of("noise", KINDS) == {}
    assert placebos_of("turned", KINDS) == {}


def test_a_dose_and_a_coefficient_of_one_number_are_two_pushes():
    """A random vector at coefficient 0.3 pushes otherwise than one at dose 0.3: it is no placebo of an arm at that."""
    kinds = {"caa": ArmKind("caa", 0.3, None), "noise": ArmKind("random_vector", None, 0.3)}
    assert placebos_of("caa", kinds) == {}
    assert placebos_of("caa", {**kinds, "turned": ArmKind("caa", None, -0.3)}) == {}


def test_an_arm_is_of_a_kind_where_its_records_agree():
    """Method and dose are the arm's where all its records have the same, and unknown where they differ."""
    one, other = record(method="caa", dose=0.3), record(method="caa", dose=0.4)
    assert arm_kind([one, one]) == ArmKind("caa", 0.3, None)
    assert arm_kind([one, other]) == ArmKind("caa", None, None)
