"""Conclusions from records: worked by hand where small, and what is said where nothing can be concluded."""

import math
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import nct, t

from model_adapters.errors import SteerError
from steer_tasks.analysis.called import call
from steer_tasks.analysis.conclude import conclude
from tests.record_strategies import record


@pytest.fixture(autouse=True)
def no_warnings():
    """Whatever is concluded, numpy and scipy have nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def answers(arm, scores, behavior="funny", outcome="accuracy", **given):
    """One answer a question: `scores` of questions q0, q1, …; None is a score that failed."""
    others = dict.fromkeys(("accuracy", "answered", "behavior_score", "coherence_score"))
    return [
        record(
            arm=arm,
            method=given.get("method", "control" if arm == "control" else "caa"),
            question=f"q{place}",
            behavior=behavior,
            missing={outcome: "judge was silent"} if score is None else {},
            **{**others, outcome: score},
            **{name: value for name, value in given.items() if name != "method"},
        )
        for place, score in enumerate(scores)
    ]


def one(effects, arm="caa", outcome="accuracy", behavior=None):
    (found,) = (e for e in effects if (e.arm, e.outcome, e.behavior) == (arm, outcome, behavior))
    return found


def test_an_effect_by_hand():
    """Eight questions, one behavior: differences, McNemar, wrong way, detectable effect and interval as by hand."""
    findings = conclude([*answers("control", [1, 1, 1, 1, 1, 0, 0, 1]), *answers("caa", [0, 0, 0, 0, 1, 0, 1, 1])])
    found = one(findings.effects)
    differences = np.array([-1, -1, -1, -1, 0, 0, 1, 0])
    squares = ((differences - differences.mean()) ** 2).sum() + 0.5
    stderr = math.sqrt(squares / 56)
    assert findings.target == "fixed"
    assert found.estimate.value == -3 / 8
    assert found.estimate.stderr == pytest.approx(stderr)
    assert found.estimate.high == pytest.approx(-3 / 8 + t.ppf(0.975, 7) * stderr)
    assert found.estimate.low == -1  # the formula's end lies below what is possible
    assert (found.pairs, found.unpaired, found.bounds) == (8, 0, None)
    assert (found.test, found.p) == ("exact McNemar", pytest.approx(2 * 6 / 32))
    assert found.wrong_way.value == 0.5
    assert found.wrong_way_control is None
    power = nct.sf(t.ppf(0.975, 7), 7, found.detectable / stderr)
    assert power == pytest.approx(0.8)
    assert one(findings.effects, behavior="funny").estimate == found.estimate


def test_two_targets_and_where_they_disagree():
    """An effect in one of four behaviors is sure for these behaviors and says nothing of others: both are shown."""
    records = []
    for place, behavior in enumerate(["funny", "concise", "formal", "kind"]):
        fall = 2 if place == 0 else 0
        records += answers("control", [5] * 12 + [4] * 12, behavior, "coherence_score")
        records += answers("caa", [5 - fall] * 12 + [4, 3] * 6, behavior, "coherence_score")
    findings = conclude(records)
    chosen = one(findings.effects, outcome="coherence_score")
    (other,) = findings.other_target
    assert (findings.target, chosen.target, other.target) == ("random", "random", "fixed")
    assert chosen.p_adjusted > 0.05 > other.p_adjusted
    assert chosen.estimate.low < 0 < chosen.estimate.high
    assert other.estimate.high < 0
    assert chosen.estimate.clusters == {"question": 24, "behavior": 4}
    turned = conclude(records, target="fixed")
    assert one(turned.effects, outcome="coherence_score") == other
    assert turned.other_target == (chosen,)


def test_targets_disagree_where_only_one_finds_the_change_reliably():
    """A change that is significant under both targets, but lies below what one of them finds reliably, is no verdict
    there and one under the other: that is a disagreement, and both are shown."""
    records = []
    for gain, behavior in zip((16, 12, 8, 6, 2, 2), ("funny", "concise", "formal", "kind", "dry", "warm"), strict=True):
        records += answers("control", [2] * 20, behavior, "coherence_score")
        scores = [3 if (7 * place + gain) % 20 < gain else 2 for place in range(20)]
        records += answers("caa", scores, behavior, "coherence_score")
    findings = conclude(records)
    chosen, (other,) = one(findings.effects, outcome="coherence_score"), findings.other_target
    assert max(chosen.p_adjusted, other.p_adjusted) < 0.05
    assert (call(chosen), call(other)) == ("small", "more")


def test_families_are_declared_and_adjusted():
    """Two arms on two outcomes are a family of four; two behaviors make eight; the remark says so."""
    generator, records = np.random.default_rng(0), []
    for behavior in ("funny", "concise"):
        for arm in ("control", "caa", "prompt"):
            for place in range(20):
                right, points = generator.integers(0, 2), generator.integers(1, 6)
                method = "control" if arm == "control" else arm
                scores = {"accuracy": float(right), "coherence_score": float(points)}
                asked = {"question": f"q{place}", "behavior": behavior}
                others = {"answered": None, "behavior_score": None}
                records.append(record(arm=arm, method=method, **asked, **scores, **others))
    findings = conclude(records)
    pooled = [e for e in findings.effects if e.behavior is None]
    single = [e for e in findings.effects if e.behavior is not None]
    assert (len(pooled), len(single)) == (4, 8)
    assert min(e.p_adjusted for e in pooled) == pytest.approx(min(1, 4 * min(e.p for e in pooled)))
    assert min(e.p_adjusted for e in single) == pytest.approx(min(1, 8 * min(e.p for e in single)))
    assert any("within a family of 4 (arms × outcomes)" in said and "within 8" in said for said in findings.remarks)


def test_a_control_without_behaviors_serves_all_of_them():
    """One control answer a question stands beside every behavior's, and a question's flips go together."""
    records = answers("control", [1, 0, 1, 1, 0, 1], None)
    for behavior in ("funny", "concise", "kind"):
        records += answers("caa", [0, 0, 0, 0, 0, 1], behavior)
    found = one(conclude(records, target="fixed").effects)
    assert (found.pairs, found.estimate.value) == (18, -0.5)
    # Three of six questions lost three answers each; of the eight patterns of their signs two are as far out.
    assert found.test == "sign flips of whole questions, and t: the larger p"
    assert found.p == pytest.approx(2 / 8)
    assert found.estimate.clusters == {"question": 6}


def test_missing_scores_are_counted_and_bounded():
    """A missing score of the arm and one of the control: counts, reasons, and the effect at either end of the scale."""
    records = [
        *answers("control", [5, 5, None, 4], outcome="coherence_score"),
        *answers("caa", [4, None, 3, 4], outcome="coherence_score"),
    ]
    findings = conclude(records)
    found = one(findings.effects, outcome="coherence_score")
    assert (found.pairs, found.unpaired, found.estimate.value) == (2, 2, -0.5)
    assert found.bounds == ((-1 - 4 - 2 + 0) / 4, (-1 + 0 + 2 + 0) / 4)
    (mean,) = (m for m in findings.means if m.arm == "caa")
    assert (mean.estimate.value, mean.scored, mean.missing) == (pytest.approx(11 / 3), 3, 1)
    assert mean.reasons == {"judge was silent": 1}


def test_repeats_are_averaged_and_compared_with_each_other():
    """Two repeats of the control: they are averaged, and how often one falls below the other is its own wrong way."""
    records = [
        *answers("control", [5, 5, 5, 5], outcome="coherence_score"),
        *answers("control", [5, 4, 5, 3], outcome="coherence_score", sample_index=1),
        *answers("caa", [5, 4, 4, 4], outcome="coherence_score"),
    ]
    found = one(conclude(records).effects, outcome="coherence_score")
    assert found.estimate.value == (0 - 0.5 - 1 + 0) / 4
    # Below: 0 of 2, 1 of 2, 2 of 2, 1 of 2 of the control's repeats.
    assert found.wrong_way.value == 0.5
    # Of the two ordered pairs of repeats of a question one falls in q1 and in q3.
    assert found.wrong_way_control.value == 0.25
    assert found.test == "sign flips of whole questions, and t: the larger p"


def test_draws_are_a_level_of_their_own():
    """Draws of one behavior are averaged before questions are counted; how far they differ is said apart."""
    records = answers("control", [3] * 6, outcome="coherence_score")
    for draw, scores in enumerate([[3, 3, 2, 3, 3, 2], [1, 1, 2, 1, 1, 2], [2, 2, 2, 2, 2, 2]]):
        records += answers("caa", scores, outcome="coherence_score", method="auto_steer", draw=draw)
    findings = conclude(records)
    found = one(findings.effects, outcome="coherence_score")
    assert (found.pairs, found.estimate.clusters) == (18, {"question": 6})
    (draws,) = findings.draws
    assert draws.draws == 3
    assert draws.by_draw == pytest.approx({0: -1 / 3, 1: -5 / 3, 2: -1})
    # Draw means vary by 4/9; the interaction's squares are 16/9 + 8/9, over 10 freedoms and 6 questions.
    assert draws.sd_between == pytest.approx(math.sqrt(4 / 9 - 8 / 3 / 10 / 6))


def test_budgets_have_four_verdicts():
    """A loss is within its budget, beyond it, undecided, or too small a budget for the design to decide."""
    generator = np.random.default_rng(3)
    control = generator.integers(4, 6, 171)
    fall = control - generator.integers(0, 2, 171)
    records = [
        *answers("control", control.tolist(), outcome="coherence_score"),
        *answers("caa", fall.tolist(), outcome="coherence_score"),
    ]
    loss = float((control - fall).mean())

    def verdict(budget):
        (found,) = conclude(records, budgets={"coherence_score": budget}).equivalence
        assert found.loss == pytest.approx(loss)
        return found

    upper, least = verdict(1).upper, verdict(1).detectable
    assert loss < upper < loss + 0.1
    assert verdict(upper + 0.01).verdict == "within"
    assert verdict(loss).verdict == "undecided"
    assert verdict(least / 2).verdict == "beyond"
    few = [r for r in records if int(r.question[1:]) < 6]
    assert conclude(few, budgets={"coherence_score": 0.3}).equivalence[0].verdict == "not decidable"


def test_excess_is_over_the_placebos_that_fit():
    """A vector is held against random vectors of its dose, over their draws, and against its own wrong sign."""
    records = answers("control", [5] * 12, outcome="coherence_score")
    records += answers("caa", [3, 4] * 6, outcome="coherence_score", dose=0.3)
    records += answers("wrong", [4, 5] * 6, outcome="coherence_score", dose=-0.3)
    for draw in range(3):
        scores = [5 - (place + draw) % 3 // 2 for place in range(12)]
        records += answers("random", scores, outcome="coherence_score", method="random_vector", dose=0.3, draw=draw)
    records += answers("far", [1] * 12, outcome="coherence_score", method="random_vector", dose=0.9)
    records += answers("sentence", [5] * 12, outcome="coherence_score", method="neutral_prompt")
    found = {e.placebos: e for e in conclude(records).excess}
    assert set(found) == {("random",), ("wrong",)}
    assert found["random",].estimate.value == pytest.approx(-1.5 - -1 / 3)
    assert found["random",].estimate.clusters == {"question": 12, "placebo draw": 3}
    assert found["random",].p < 0.05
    assert found["wrong",].estimate.value == pytest.approx(-1)


@pytest.mark.parametrize("draws", [1, 3])
def test_p_and_interval_of_an_excess_agree_where_behaviors_are_skewed(draws):
    """Zero lies inside the interval of what an arm does beyond its placebos exactly where p is 0.05 or more."""
    inside = []
    for seed in range(36, 48):
        drawn, records = np.random.default_rng(seed), []
        for behavior in ("funny", "concise", "kind", "formal", "dry", "warm"):
            effect = drawn.exponential(1) * drawn.choice([-1, 1], p=[0.2, 0.8])
            control = drawn.integers(2, 4, 12)
            treated = np.clip(control + np.round(effect + drawn.normal(0, 0.7, 12)), 1, 5)
            records += answers("control", control.tolist(), behavior, "coherence_score")
            records += answers("caa", treated.tolist(), behavior, "coherence_score")
            for draw in range(draws):
                pushed = np.clip(control + drawn.integers(-1, 2, 12), 1, 5).tolist()
                records += answers("rv", pushed, behavior, "coherence_score", method="random_vector", draw=draw)
        (found,) = conclude(records).excess
        assert (found.estimate.low <= 0 <= found.estimate.high) == (found.p >= 0.05), seed
        inside.append(found.p >= 0.05)
    assert set(inside) == {True, False}


def test_a_placebo_without_behavior_stands_beside_every_behavior():
    """Random vectors that were run once for all behaviors are taken off each behavior's effect."""
    records = answers("control", [1] * 12, None)
    for behavior in ("funny", "concise"):
        records += answers("caa", [0, 1] * 6, behavior)
    for draw in range(2):
        scores = [float(place % 4 > draw) for place in range(12)]
        records += answers("random", scores, None, method="random_vector", draw=draw)
    (found,) = conclude(records, target="fixed").excess
    assert found.estimate.value == pytest.approx(-1 / 2 - -3 / 8)
    assert found.estimate.clusters == {"question": 12, "placebo draw": 2}


def test_a_change_in_a_signal_is_paired_and_clustered():
    """A signal's change is the mean of paired differences, clustered by question, without half a step added."""
    records = []
    for arm, shift in (("control", 0.0), ("caa", 10.0)):
        for place in range(12):
            signals = {"words": 100 + 7.0 * place + shift * (place % 3), "language_drift": None}
            records.append(record(arm=arm, method=arm, question=f"q{place}", signals=signals))
    (found,) = conclude(records).signals
    differences = np.array([0.0, 10.0, 20.0] * 4)
    stderr = differences.std(ddof=1) / math.sqrt(12)
    assert (found.arm, found.name, found.estimate.value) == ("caa", "words", 10.0)
    assert found.estimate.stderr == pytest.approx(stderr)
    assert found.estimate.low == pytest.approx(10 - t.ppf(0.975, 11) * stderr)
    assert found.estimate.clusters == {"question": 12}


# What can't be concluded


def test_constant_scores_have_no_test():
    """Scores that never differ: no error and no p, and the interval is what so few questions may not have shown."""
    findings = conclude([*answers("control", [1] * 30), *answers("caa", [1] * 30)])
    found = one(findings.effects)
    assert (found.estimate.value, found.estimate.stderr, found.detectable) == (0, None, None)
    assert found.estimate.high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert (found.p, found.p_adjusted) == (1, 1)
    assert findings.equivalence[0].verdict == "not decidable"
    assert findings.equivalence[0].upper == pytest.approx(1 - 0.05 ** (1 / 30))
    said = "The change in accuracy of caa has no standard error (clustered by question: no variation, rule of three)."
    assert said in findings.remarks


def test_remarks_name_outcomes_as_the_report_does():
    """Outcomes of one fate stand in one remark, under the report's own words for them and not a record's."""
    scores = {"accuracy": 1.0, "answered": 1.0, "behavior_score": None, "coherence_score": None}
    silent = dict.fromkeys(("behavior_score", "coherence_score"), "no judge scored it")
    records = [
        record(arm=arm, method=arm, question=f"q{place}", missing=silent, **scores)
        for arm in ("control", "caa", "prompt")
        for place in range(12)
    ]
    said = conclude(records).remarks
    assert "No answer has a score of behavior or coherence, so nothing is concluded from them." in said
    assert any(one.startswith("The change in accuracy and answered of caa and prompt has no standard") for one in said)


def test_one_arm_only():
    """A single arm has its means, and the remark says that there is nothing to compare it with."""
    findings = conclude(answers("caa", [1, 0, 1, 1]))
    assert (findings.control, findings.arms, findings.effects) == ("caa", ("caa",), ())
    assert findings.means[0].estimate.value == 0.75
    assert "caa is the only arm, so there is nothing to compare it with." in findings.remarks


def test_one_behavior_is_concluded_as_these_behaviors():
    """One behavior says nothing of others, so the target becomes fixed and a remark says it."""
    findings = conclude([*answers("control", [1, 0, 1]), *answers("caa", [0, 0, 1])], target="random")
    assert findings.target == "fixed"
    assert findings.other_target == ()
    assert any(said.startswith("There is one behavior") for said in findings.remarks)


def test_all_scores_missing():
    """Nothing scored: no effect, the means are empty with their reasons, and the remark names the outcome."""
    findings = conclude([*answers("control", [None] * 3), *answers("caa", [None] * 3)])
    assert (findings.effects, findings.equivalence) == ((), ())
    assert [(m.estimate, m.missing, m.reasons) for m in findings.means] == [(None, 3, {"judge was silent": 3})] * 2
    assert "No answer has a score of accuracy, so nothing is concluded from it." in findings.remarks


def test_two_questions():
    """Two questions give an interval so wide that it says nothing, and a remark."""
    findings = conclude([*answers("control", [1, 1]), *answers("caa", [0, 1])])
    found = one(findings.effects)
    assert (found.estimate.low, found.estimate.high) == (-1, 1)
    assert found.p == 1
    assert any(said.startswith("Few questions (2)") for said in findings.remarks)


def test_one_question():
    """One question has an effect without interval or detectable size."""
    found = one(conclude([*answers("control", [1]), *answers("caa", [0])]).effects)
    assert (found.estimate.value, found.estimate.low, found.detectable, found.p) == (-1, None, None, 1)


def test_what_is_refused():
    """No records, scores off their scale, budgets and targets that don't exist are named."""
    with pytest.raises(SteerError, match="no records"):
        conclude([])
    with pytest.raises(SteerError, match=r"coherence_score of arm 'caa' is 7.0 for q0; scores go from 1 to 5"):
        conclude(answers("caa", [7], outcome="coherence_score"))
    with pytest.raises(SteerError, match="accuracy of arm 'caa' is nan"):
        conclude(answers("caa", [math.nan]))
    with pytest.raises(SteerError, match="a budget for 'margin'"):
        conclude(answers("caa", [1]), budgets={"margin": 0.1})
    with pytest.raises(SteerError, match="a budget of 5 for accuracy"):
        conclude(answers("caa", [1]), budgets={"accuracy": 5})
    with pytest.raises(SteerError, match="no target 'mixed'"):
        conclude(answers("caa", [1]), target="mixed")
    with pytest.raises(SteerError, match="level 95"):
        conclude(answers("caa", [1]), level=95)


def test_conclusions_do_not_depend_on_the_order_of_records():
    """Shuffled records give the same effects."""
    generator = np.random.default_rng(5)
    records = [
        one
        for behavior in ("funny", "concise")
        for arm in ("control", "caa")
        for one in answers(arm, generator.integers(0, 2, 15).tolist(), behavior)
    ]
    mixed = [records[place] for place in generator.permutation(len(records))]
    first, second = conclude(records), conclude(mixed)
    assert one(first.effects).p == pytest.approx(one(second.effects).p)
    assert one(first.effects).estimate.low == pytest.approx(one(second.effects).estimate.low)


def test_twenty_thousand_records_take_seconds():
    """Seven arms, 14 behaviors, 171 questions, all four scores and five draws of one arm: under 15 seconds."""
    generator, records = np.random.default_rng(7), []
    for arm, draws in (("control", 1), ("caa", 1), ("prompt", 1), ("auto", 5)):
        for draw in range(draws):
            for behavior in range(14):
                for question in range(171):
                    right, first, second = generator.integers(0, 2), generator.integers(1, 6), generator.integers(1, 6)
                    scores = {"accuracy": right, "answered": 1, "behavior_score": first, "coherence_score": second}
                    asked = {"question": f"q{question}", "behavior": f"b{behavior}", "draw": draw}
                    method = "control" if arm == "control" else arm
                    records.append(record(arm=arm, method=method, **asked, **scores))
    records += [replace(one, arm="again") for one in records if one.arm == "caa"]
    assert len(records) > 20_000
    start = time.perf_counter()
    conclude(records)
    assert time.perf_counter() - start < 15
