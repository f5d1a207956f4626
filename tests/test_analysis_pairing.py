"""Which answers are compared with which, and what is refused or listed instead."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL
from steer_tasks.analysis.duplicates import once_each
from steer_tasks.analysis.findings import Unpaired
from steer_tasks.analysis.pairing import by_model, control_of, paired
from tests.record_strategies import record


def caa(**given):
    return record(**{"arm": "caa", "method": "caa", "fingerprint": "v", **given})


def test_answers_pair_by_behavior_and_question():
    """Each answer of an arm stands beside the control's for the same behavior and question, whatever the order."""
    controls = [record(behavior=b, question=q, accuracy=0.0) for b in ("funny", "concise") for q in ("q/0", "q/1")]
    arms = [caa(behavior=b, question=q) for q in ("q/1", "q/0") for b in ("concise", "funny")]
    found = paired([*arms, *controls])
    assert (found.control, found.arms, found.unpaired) == ("control", ("control", "caa"), ())
    assert [(pair.treated.behavior, pair.treated.question) for pair in found.pairs] == [
        *(("concise", "q/1"), ("funny", "q/1"), ("concise", "q/0"), ("funny", "q/0"))
    ]
    for pair in found.pairs:
        assert (pair.control.behavior, pair.control.question) == (pair.treated.behavior, pair.treated.question)
        assert pair.scores("accuracy") == (1.0, 0.0)
        assert pair.scores("behavior_score") == (3.0, 3.0)


def test_repeats_are_averaged_within_arm_and_draw():
    """Repeats of one draw are one answer, its score their mean over those that have one; draws stay apart."""
    repeats = [caa(sample_index=index, accuracy=value) for index, value in enumerate([1.0, 0.0, None])]
    other = [caa(draw=1, fingerprint="w", accuracy=0.0)]
    found = paired([record(), *repeats, *other])
    assert [(pair.treated.draw, pair.treated.score("accuracy")) for pair in found.pairs] == [(0, 0.5), (1, 0.0)]
    assert [len(pair.treated.repeats) for pair in found.pairs] == [3, 1]


def test_a_control_without_behaviors_pairs_with_all_but_behavior_scores():
    """A control of no behavior is compared on accuracy, answers and coherence; behavior scores have no counterpart."""
    plain = record(behavior=None, behavior_score=None)
    found = paired([plain, caa(behavior="funny"), caa(behavior="concise", coherence_score=2.0)])
    assert [pair.shares_behavior for pair in found.pairs] == [False, False]
    assert found.pairs[1].scores("coherence_score") == (2.0, 4.0)
    assert found.pairs[1].scores("accuracy") == (1.0, 1.0)
    assert found.pairs[1].scores("behavior_score") is None
    assert "don't share behaviors" in found.remarks[0]
    unscored = paired([plain, caa(behavior="funny", behavior_score=None)])
    assert unscored.remarks == ()


def test_an_arm_without_behavior_pairs_with_the_controls_answers_under_any():
    """A placebo of no behavior stands beside the mean of the control's answers to the question."""
    controls = [record(behavior="funny", accuracy=1.0), record(behavior="concise", accuracy=0.0)]
    (pair,) = paired([*controls, caa(behavior=None)]).pairs
    assert pair.scores("accuracy") == (1.0, 0.5)
    assert not pair.shares_behavior


def test_signals_pair_like_scores():
    """A signal is an outcome by its name."""
    (pair,) = paired([record(signals={"words": 10.0}), caa(signals={"words": 4.0})]).pairs
    assert pair.scores("words") == (4.0, 10.0)
    assert pair.scores("repeated_ngrams") is None


def test_what_has_no_pair_is_listed_with_its_reason():
    """Answers without a control, questions that an arm lacks, and whole behaviors are listed, with examples."""
    controls = [record(question=f"q/{number}") for number in range(6)] + [record(behavior="concise", question="q/0")]
    arms = [caa(question="q/0"), caa(question="q/9"), caa(behavior="technical", question="q/0")]
    found = paired([*controls, *arms])
    assert len(found.pairs) == 1
    assert found.unpaired == (
        Unpaired("caa", "funny", 1, "the control has no answer to the question", ("q/9",)),
        Unpaired("caa", "technical", 1, "the control has no answers for the behavior", ("q/0",)),
        Unpaired("caa", "funny", 5, "control has an answer to the question, the arm has none", ("q/1", "q/2", "q/3")),
        Unpaired("caa", "concise", 1, "control has answers for the behavior, the arm has none", ("q/0",)),
    )


def test_a_log_given_twice_counts_once():
    """Answers that stand in two logs alike are one each, and a remark says how many there were."""
    once = [record(), caa()]
    again = [replace(one, source="copy.json") for one in once]
    kept, remarks = once_each([*once, *again])
    assert list(kept) == once
    assert remarks == ("2 answers stand in the logs twice, alike; each is counted once",)


def test_a_rescored_copy_adds_its_scores():
    """Where the second log of an answer has scores that the first lacks, the record has both."""
    bare = record(behavior_score=None, missing={"behavior_score": "no judge scored it"}, signals={"words": None})
    judged = record(source="b.json", signals={"words": 2.0}, missing={})
    (kept,), _ = once_each([bare, judged])
    assert (kept.behavior_score, kept.signals, kept.missing) == (3.0, {"words": 2.0}, {})


def test_a_failed_attempt_gives_way_to_an_answer():
    """An error in one log and an answer in another are an answer; alone, the error stays."""
    nothing = {"completion": None, "accuracy": None, "answered": None, "behavior_score": None, "coherence_score": None}
    failed, done = record(**nothing), record(source="retry.json")
    for order in ([failed, done], [done, failed]):
        kept, remarks = once_each(order)
        assert kept == (done,)
        assert remarks == ("1 failed attempts have an answer in another log; the answer counts",)
    assert once_each([failed]) == ((failed,), ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"completion": "Another."}, "two different answers in a.json and b.json"),
        ({"accuracy": 0.0}, r"two different scores \(accuracy 1 and 0\)"),
    ],
)
def test_two_answers_under_one_name_are_refused(change, said):
    """Different answers, or scores, of one arm, behavior, draw, question and sample are an error that names them."""
    with pytest.raises(SteerError, match=f"arm 'control' of m, behavior funny: question q/0, sample 0, has {said}"):
        paired([record(), record(source="b.json", **change)])


def test_two_fingerprints_under_one_name_are_refused():
    """One arm, behavior and draw under two steerings is refused, with both; other draws and behaviors may differ."""
    fine = [caa(), caa(draw=1, fingerprint="w"), caa(behavior="concise", fingerprint="x")]
    assert len(paired([record(), record(behavior="concise"), *fine]).pairs) == 3
    mixed = caa(question="q/1", fingerprint="other", source="b.json")
    with pytest.raises(SteerError, match="'caa' of m, behavior funny, draw 0, is mixed from two steerings: v in"):
        paired([record(), caa(), mixed])


def test_models_questions_and_protocols_stay_apart():
    """Records are grouped by model, and by question set and protocol where a model has several; groups never pair."""
    records = [record(model="a", question_set=name, protocol="isolated") for name in ("mmlu_171", "mmlu_171 cloze")]
    records.append(record(model="b", question_set="mmlu_171", protocol="isolated"))
    groups = by_model(records)
    assert list(groups) == ["a · mmlu_171 · isolated", "a · mmlu_171 cloze · isolated", "b"]
    assert [len(held) for held in groups.values()] == [1, 1, 1]
    with pytest.raises(SteerError, match="can't be compared with each other"):
        paired(records)


def test_the_control_is_the_arm_that_steers_nothing():
    """It is known by method, by the empty fingerprint, or by the study's name; a name given wins."""
    plain = {"method": None, "fingerprint": None}
    assert control_of([caa(), record(arm="base")]) == "base"
    assert control_of([caa(), record(arm="plain", method=None, fingerprint=CONTROL.fingerprint)]) == "plain"
    assert control_of([caa(), record(arm="Control", **plain)]) == "Control"
    assert control_of([caa(), record()], "caa") == "caa"


@pytest.mark.parametrize(
    ("records", "named", "said"),
    [
        ([caa()], None, "no arm is a control; name the one to compare with, of caa"),
        ([record(), record(arm="base")], None, "control, base all steer nothing"),
        ([record()], "other", "there is no arm 'other' to compare with; there are control"),
    ],
)
def test_an_unclear_control_is_refused(records, named, said):
    """Where no arm, or more than one, can be meant, the error names the arms."""
    with pytest.raises(SteerError, match=said):
        control_of(records, named)


@given(st.lists(st.tuples(st.sampled_from(["control", "caa"]), *[st.sampled_from("ab")] * 2, st.integers(0, 2))))
def test_every_answer_is_paired_or_listed(places):
    """No answer of an arm is lost: it is in a pair or in the list of those without, once."""
    records = [
        (record if arm == "control" else caa)(behavior=b, question=q, sample_index=index)
        for arm, b, q, index in dict.fromkeys(places)
    ]
    if not any(one.arm == "control" for one in records):
        return
    found = paired(records)
    treated = {(one.behavior, one.question) for one in records if one.arm == "caa"}
    control = {(one.behavior, one.question) for one in records if one.arm == "control"}
    assert sorted((pair.treated.behavior, pair.treated.question) for pair in found.pairs) == sorted(treated & control)
    without = sum(one.count for one in found.unpaired if one.reason.startswith("the control has no"))
    assert without == len(treated - control)
    lacking = sum(one.count for one in found.unpaired if not one.reason.startswith("the control has no"))
    assert lacking == (len(control - treated) if treated else 0)
