"""A calibration from plan to verdict, on a fake model whose response to the dose is known."""

import asyncio
import json
import math
from itertools import pairwise

import numpy as np
import pytest

from model_adapters.backends.response_store import ResponseStore
from model_adapters.errors import Refused
from model_adapters.methods import build_method
from model_adapters.preparation import prepare
from model_adapters.steering_file import load_steering, save_steering
from steer_tasks.calibrate import trials
from steer_tasks.calibrate.calibration import to_confirm
from steer_tasks.calibrate.search import TOLERANCE
from steer_tasks.calibrate.trace import read_trace
from tests.dose_backend import Curves, DoseBackend, SpreadBackend, dose_of
from tests.dose_calibration import FUNNY, calibrated, planned, squared


@pytest.fixture(autouse=True)
def _own_cache(empty_cache, mmlu):
    """Searches and norms of one fake model mustn't be found by another."""


def test_an_active_budget_gives_the_largest_dose_within_it():
    """Where the gain rises with the dose and the margin's loss reaches its budget at 0.3, the dose is 0.3 within 5%."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1)))
    _, trace, steering = calibrated(backend, planned({"margin": 0.1}))
    assert trace.verdict == "confirmed"
    assert 0.3 * (1 - TOLERANCE) <= trace.chosen <= 0.3
    assert dose_of(steering) == pytest.approx(trace.chosen, rel=1e-5)
    point = trace.points[trace.selected]
    assert point.gain.mean == pytest.approx(trace.chosen, rel=1e-4)
    assert point.losses["margin"].mean == pytest.approx(0.1 * (trace.chosen / 0.3) ** 2, rel=1e-4)


def test_an_inactive_budget_gives_the_peak():
    """Where the gain peaks at 0.6 and nothing is lost, the dose is the peak's."""
    backend = DoseBackend(Curves(gain=lambda dose: math.exp(-(math.log(dose / 0.6) ** 2))))
    _, trace, _ = calibrated(backend, planned({"margin": 0.1}))
    assert trace.verdict == "confirmed"
    assert trace.chosen == pytest.approx(0.6, rel=2 * TOLERANCE)


def test_a_budget_that_every_dose_breaks_finds_nothing():
    """Where the least dose loses more than the budget, one trial says so, given up after a third of the questions."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=lambda dose: float(dose > 0)))
    done, trace, steering = calibrated(backend, planned({"margin": 0.1}))
    assert (trace.verdict, steering, trace.chosen, trace.confirmations) == ("nothing within budget", None, None, ())
    (point,) = done.points
    assert (point.stopped, point.asked, point.gain) == ("margin", 19, None)
    assert point.losses["margin"].mean == pytest.approx(1.0)


def test_a_hopeless_dose_is_given_up_and_a_good_one_never():
    """Doses far over the budget ask a third of the questions; those within it ask all, on both halves."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=lambda dose: 0.0 if dose < 0.3 else 3.0))
    _, trace, _ = calibrated(backend, planned({"margin": 0.1}))
    for point in trace.points:
        assert (point.stopped, point.asked) == ((None, 57) if point.size < 0.3 else ("margin", 19))
    assert {point.asked for point in trace.confirmations} == {56}


def test_every_limit_of_the_chosen_dose_is_within_its_budget_on_both_halves():
    """With noise on every item, what is confirmed has upper limits within the budgets on either half."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=squared(0.4, 0.1), noise=0.3))
    _, trace, _ = calibrated(backend, planned({"margin": 0.2}))
    assert trace.verdict == "confirmed"
    both = [trace.points[trace.selected], next(one for one in trace.confirmations if one.size == trace.chosen)]
    for point in both:
        assert point.losses["margin"].mean < point.losses["margin"].upper <= 0.2
    assert both[0].gain.mean != both[1].gain.mean


def only_on(half, curve, backend):
    """A curve that holds for one half's questions: what a lucky selection looks like."""
    asked = {one.question.strip() for one in half.questions}

    losing = DoseBackend(Curves(gain=backend.curves.gain, margin=curve))
    plain = backend.score

    async def score(prompt, continuation, steering):
        is_theirs = len(continuation) == 1 and prompt[-1].content.split("\nA. ")[0] in asked
        return await (losing.score if is_theirs else plain)(prompt, continuation, steering)

    backend.score = score
    return backend


def test_what_the_other_half_does_not_keep_is_not_confirmed():
    """Where the confirming half loses at any dose, the verdict is over budget after one trial, without a steering."""
    plan = planned({"margin": 0.1})
    backend = only_on(
        plan.material.confirming, lambda dose: 0.5 * (dose > 0), DoseBackend(Curves(gain=lambda dose: dose))
    )
    _, trace, steering = calibrated(backend, plan)
    assert (trace.verdict, trace.chosen, steering) == ("over budget", None, None)
    assert len(trace.confirmations) == 1
    assert trace.points[trace.selected].size == 1.6


def test_a_smaller_dose_is_the_foothold_where_the_selected_one_fails():
    """The confirming half is asked from small to large, and the last dose within its budgets is the one confirmed."""
    plan = planned({"margin": 0.1})
    curve = squared(0.9, 0.1)
    backend = only_on(plan.material.confirming, curve, DoseBackend(Curves(gain=lambda dose: dose)))
    _, trace, steering = calibrated(backend, plan)
    assert [point.size for point in trace.confirmations] == [0.4, 0.8, 1.6]
    assert (trace.verdict, trace.chosen) == ("confirmed", 0.8)
    assert dose_of(steering) == pytest.approx(0.8, rel=1e-5)
    assert trace.points[trace.selected].size == 1.6


def test_footholds_lie_apart_and_within_the_budgets():
    """At most two smaller sizes are confirmed before the selected one, each at most two thirds of the next."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1)))
    done, trace, _ = calibrated(backend, planned({"margin": 0.1}))
    sizes = [point.size for point in trace.confirmations]
    assert sizes == to_confirm(done.points, None, trace.chosen)
    assert len(sizes) == 3
    assert all(low <= high * 2 / 3 for low, high in pairwise(sizes))


def test_a_gain_that_can_not_be_told_from_nothing_is_not_confirmed():
    """A method that moves nothing anywhere keeps every budget and is still not confirmed."""
    _, trace, steering = calibrated(DoseBackend(Curves()), planned({"margin": 0.1}))
    assert (trace.verdict, steering) == ("no gain", None)


def test_layers_are_searched_and_the_best_is_chosen():
    """The layer at which a dose gains most is the chosen steering's."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1)), layer_gain=lambda layer: 1 + layer)
    _, trace, steering = calibrated(backend, planned({"margin": 0.1}, layers=[1, 4, 2]))
    assert steering.layers == (4,)
    assert trace.points[trace.selected].layer == 4
    assert {point.layer for point in trace.points} == {1, 2, 4}


def test_the_steering_is_what_prepare_makes_at_that_dose():
    """Content and fingerprint are those of the method prepared with the chosen dose and layer."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1)))
    _, trace, steering = calibrated(backend, planned({"margin": 0.1}, layers=[3]))
    method = build_method("caa", {"layer": 3, "dose": trace.chosen})
    prepared = asyncio.run(prepare(method, FUNNY, backend))
    assert steering.fingerprint == prepared.steering.fingerprint == trace.points[trace.selected].fingerprint
    assert steering.provenance["parameters"]["dose"] == trace.chosen


def test_the_trace_survives_the_steering_file(tmp_path):
    """What the file's provenance holds reads back as the same trace; it isn't part of the fingerprint."""
    backend = SpreadBackend(Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1), logit=lambda dose: dose))
    _, trace, steering = calibrated(backend, planned({"margin": 0.1}))
    kept = load_steering(save_steering(steering, tmp_path / "funny.json"))
    assert read_trace(kept.provenance["calibration"]) == trace
    assert kept.fingerprint == steering.fingerprint
    assert len(trace.selecting["questions"]) == 57
    assert set(trace.selecting["questions"]) & set(trace.confirming["questions"]) == set()
    assert json.loads(json.dumps(trace.as_dict())) == trace.as_dict()


def test_every_trial_has_its_kl_where_there_are_distributions():
    """The KL of two known distributions stands beside each dose, given up or not; elsewhere it is None."""
    curves = Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1), logit=lambda dose: 2 * dose)
    _, trace, _ = calibrated(SpreadBackend(curves), planned({"margin": 0.1}))
    for point in [*trace.points, *trace.confirmations]:
        p = 1 / (1 + np.exp(-2 * point.size))
        assert point.kl == pytest.approx(-0.5 * np.log(4 * p * (1 - p)), rel=1e-4)
    _, blind, _ = calibrated(DoseBackend(curves), planned({"margin": 0.1}))
    assert {point.kl for point in blind.points} == {None}


def test_kl_is_a_budget_and_needs_distributions():
    """A budget of KL ends the search at its dose; a backend without distributions is refused before it is asked."""
    curves = Curves(gain=lambda dose: dose, logit=lambda dose: 2 * dose)
    _, trace, _ = calibrated(SpreadBackend(curves), planned({"kl": 0.04}))
    assert trace.verdict == "confirmed"
    p = 1 / (1 + np.exp(-2 * trace.chosen))
    assert 0.04 * (1 - 3 * TOLERANCE) < -0.5 * np.log(4 * p * (1 - p)) <= 0.04
    blind = DoseBackend(curves)
    with pytest.raises(Refused, match="kl: backend 'dose'"):
        calibrated(blind, planned({"kl": 0.04}))
    assert blind.prompts == []


def test_answers_are_written_where_a_budget_needs_them():
    """Accuracy is read off tagged answers, `nll` and `repeated` off the same ones; their losses are the fake's."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, wrong=lambda dose: 0.0 if dose < 0.5 else 0.9))
    plan = planned({"accuracy": 0.1, "repeated": 0.2, "nll": 0.5}, max_tokens=7)
    assert plan.protocol.sampling.max_tokens == 7
    _, trace, _ = calibrated(backend, plan)
    assert trace.verdict == "confirmed"
    assert 0.5 * (1 - TOLERANCE) < trace.chosen < 0.5
    (lost,) = [point for point in trace.points if point.size == 0.8]
    assert lost.stopped == "accuracy"
    assert lost.losses["accuracy"].mean > 0.7
    assert trace.points[0].losses["repeated"].items == 60
    assert trace.cost.generated > 0


def test_the_cost_is_what_the_backend_was_asked():
    """Requests and tokens are counted on both arms and halves; nothing is asked twice."""
    backend = DoseBackend(Curves(gain=lambda dose: dose, margin=lambda dose: float(dose > 0)))
    done, trace, _ = calibrated(backend, planned({"margin": 0.1}))
    # The control's half: 57 questions with four letters, 6 contrasts with two texts; a third of it for the one trial.
    assert trace.cost.requests == 57 * 4 + 12 + 19 * 4 + 12
    assert trace.cost.scored == (57 + 19) * 4 + 24 * 10
    assert done.points[0].cost.requests == 19 * 4 + 12


def test_a_second_run_asks_for_nothing_that_is_kept(tmp_path):
    """A calibration that is run again over its store gives the same trace and sends the model no request of it."""
    curves = Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1))
    _, first, _ = calibrated(DoseBackend(curves), planned({"margin": 0.1}), store=ResponseStore(tmp_path))
    _, again, _ = calibrated(DoseBackend(curves), planned({"margin": 0.1}), store=ResponseStore(tmp_path))
    assert again.cost.requests == 0
    assert again.cost.stored == first.cost.requests + first.cost.stored
    assert [point.size for point in again.points] == [point.size for point in first.points]


def test_no_text_of_a_test_question_is_ever_read_or_sent(mmlu, tmp_path, monkeypatch):
    """With every test row of the file replaced by poison, and the loader of the test set made to fail, all runs."""
    rows = json.loads(mmlu.read_text())
    tested = {row["question"].strip() for place, row in enumerate(rows) if place % 5 < 3}
    for place, row in enumerate(rows):
        if place % 5 < 3:
            row["question"], row["choices"] = f"POISON {place}", ["POISON"] * 4
    path = tmp_path / "poisoned.json"
    path.write_text(json.dumps(rows))
    monkeypatch.setenv("STEER_TASKS_MMLU", str(path))

    from steer_tasks import questions
    from steer_tasks.calibrate import material

    def only_calibration(name, source=None):
        assert name == "mmlu_114"
        return questions.load_questions(name, source)

    monkeypatch.setattr(material, "load_questions", only_calibration)
    backend = SpreadBackend(Curves(gain=lambda dose: dose, margin=squared(0.3, 0.1), logit=lambda dose: dose))
    _, trace, _ = calibrated(backend, planned({"margin": 0.1, "accuracy": 0.1}))
    assert trace.verdict == "confirmed"
    sent = "\n".join(backend.prompts)
    assert "POISON" not in sent
    assert [question for question in tested if question in sent] == []


def test_looks_are_corrected_for_their_number():
    """A dose exactly on its budget is given up in at most 5% of calibrations by looking early."""
    plan = planned({"margin": 0.1})
    given_up = 0
    for seed in range(600):
        noisy = np.random.default_rng(seed)
        control = {one.id: 0.0 for one in plan.material.selecting.questions}
        drawn = dict(zip(control, noisy.normal(-0.1, 0.5, len(control)), strict=True))
        done = trials.Trials(None, plan.material, plan.objective, plan.budgets)
        level = 1 - 0.05 / trials.LOOKS
        ids = list(control)
        for look in range(1, trials.LOOKS):
            seen = {id_: drawn[id_] for id_ in ids[: 19 * look]}
            found = done._losses({"margin": control}, {"margin": seen}, None, plan.material.selecting, level)["margin"]
            if found.lower > 0.1:
                given_up += 1
                break
    assert 0 < given_up <= 0.05 * 600
