"""What calibration asks: two halves without a common item, and never a test question."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.behavior import find_behavior
from model_adapters.errors import SteerError
from steer_tasks.calibrate.material import also_tested, halves, load_material
from steer_tasks.questions import load_questions


@given(st.lists(st.integers(), max_size=30), st.text(max_size=5))
def test_halves_hold_everything_once(items, seed):
    """The halves together are the items, they differ in size by at most one, and a seed gives the same halves again."""
    first, second = halves(items, seed)
    assert sorted([*first, *second]) == sorted(items)
    assert len(first) - len(second) in (0, 1)
    assert halves(items, seed) == (first, second)


def test_the_halves_share_no_question_prompt_or_contrast(mmlu):
    """Of 113 questions, 6 development prompts and 12 contrasts, each is in one half."""
    material = load_material(find_behavior("funny"), seed=3)
    one, other = material.selecting.ids(), material.confirming.ids()
    assert [(len(one[kind]), len(other[kind])) for kind in one] == [(57, 56), (3, 3), (6, 6)]
    for kind in one:
        assert set(one[kind]) & set(other[kind]) == set()


def test_another_seed_gives_other_halves(mmlu):
    """The seed decides the split."""
    behavior = find_behavior("funny")
    assert load_material(behavior, seed=0).selecting == load_material(behavior, seed=0).selecting
    assert load_material(behavior, seed=0).selecting != load_material(behavior, seed=1).selecting


def test_a_calibration_question_that_is_also_a_test_question_is_left_out(mmlu):
    """college_physics/3 is word for word college_physics/0, which is tested; no text of the 171 is asked."""
    assert also_tested() == {"college_physics/3"}
    material = load_material(find_behavior("funny"))
    tested = {one.question for one in load_questions("mmlu_171").questions}
    asked = {one.question for half in (material.selecting, material.confirming) for one in half.questions}
    assert asked & tested == set()
    assert material.questions["left_out"] == ["college_physics/3"]


def test_the_test_questions_need_not_be_there(mmlu, tmp_path, monkeypatch):
    """A file in which every test row is poison gives the same material."""
    rows = json.loads(mmlu.read_text())
    whole = load_material(find_behavior("funny"))
    for place, row in enumerate(rows):
        if place % 5 < 3:
            row["question"], row["choices"] = f"poison {place}", ["p", "o", "i", "s"]
    path = tmp_path / "poisoned.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setenv("STEER_TASKS_MMLU", str(path))
    assert load_material(find_behavior("funny")).selecting == whole.selecting


def test_fewer_questions_are_a_random_part(mmlu):
    """`questions` takes that many, halved, the same ones for the same seed."""
    behavior = find_behavior("funny")
    some = load_material(behavior, questions=20)
    assert [len(half.questions) for half in (some.selecting, some.confirming)] == [10, 10]
    assert some == load_material(behavior, questions=20)
    for wrong in (3, 114):
        with pytest.raises(SteerError, match="--questions"):
            load_material(behavior, questions=wrong)


def test_a_free_behavior_brings_questions_alone(mmlu):
    """Without development prompts and contrasts the halves hold questions."""
    ids = load_material(find_behavior("speak like a pirate")).selecting.ids()
    assert (len(ids["questions"]), ids["prompts"], ids["contrasts"]) == (57, [], [])
