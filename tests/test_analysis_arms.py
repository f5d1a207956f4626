"""How arms are called."""

import pytest

from steer_tasks.analysis.arm_names import ArmFacts, changed


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (ArmFacts("control", {}), "control"),
        (ArmFacts("caa", {"dose": 0.3, "layer": None, "positions": "response"}), "caa dose=0.3"),
        (ArmFacts("caa", {"dose": 0.3, "layer": 14}), "caa dose=0.3 layer=14"),
        (ArmFacts("caa", {"coefficient": -2.0}, "as_run"), "caa coefficient=-2 as_run"),
        (ArmFacts("random_vector", {"match": "/a/b/caa03.json"}), "random_vector match=caa03"),
        (ArmFacts("auto_steer", {}, "isolated", prompting=True), "auto_steer + prompt"),
        (ArmFacts("caa", {"dose": 0.3}, "isolated", name="vector", swept={"dose": 0.3}), "vector dose=0.3"),
        (ArmFacts("auto_steer", {}, "as_run", prompting=True, name="combined", swept={}), "combined as_run"),
        (ArmFacts(None, {}, file="/a/funny.json"), "funny"),
        (ArmFacts("theirs", {"size": 3}), "theirs size=3"),
        (ArmFacts(None, {}), "unsteered"),
    ],
)
def test_an_arms_name_says_what_tells_it_from_others(facts, name):
    """Method or a grid's name, what differs from the defaults or was swept, and a protocol that isn't the plain one."""
    assert facts.arm == name


def test_defaults_are_left_out():
    """A parameter at its method's default says nothing, one without a value neither."""
    assert changed("prompt", {"text": "In everything you write, {behavior}.", "placement": "after"}) == {}
    assert changed("prompt", {"text": "Please {behavior}.", "placement": "after"}) == {"text": "Please {behavior}."}
    assert changed("caa", {"dose": None}) == {}


def test_sizes_are_numbers_or_nothing():
    """A dose is read as a number; what is none is no dose."""
    facts = ArmFacts("caa", {"dose": 1, "coefficient": True})
    assert (facts.number("dose"), facts.number("coefficient"), facts.number("layer")) == (1.0, None, None)
