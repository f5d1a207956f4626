"""A calibration with a judge: its scores, and those that are missing."""

import pytest

from judges.judge import Reply
from model_adapters.errors import Refused
from steer_tasks.calibrate.judging import check_judge_name
from tests.dose_backend import Curves, DoseBackend, dose_of
from tests.dose_calibration import calibrated, planned


@pytest.fixture(autouse=True)
def _own_cache(empty_cache, mmlu):
    """Searches and norms of one fake model mustn't be found by another."""


def judge_of(score):
    """An `Ask` that scores an answer's behavior or coherence by what `score` says of the quality and the text."""

    async def ask(messages):
        text = messages[0].content
        quality = "behavior" if "<behavior>" in text else "coherence"
        found = score(quality, text)
        return Reply("no idea" if found is None else f"<{quality}>{found}</{quality}>", "served")

    return ask


class Talking(DoseBackend):
    """Says its dose, so that a judge can tell."""

    async def complete(self, request):
        """`dose 0.40`, in words enough."""
        found = await super().complete(request)
        said = f"dose {dose_of(request.steering):.2f} was what it took"
        return type(found)(said, 10, 5, "stop", None, found.proof)


def dose_in(text):
    return float(text.split("dose ")[1].split(" ")[0])


def test_a_judge_gives_objective_and_coherence():
    """The behavior rises with the dose and coherence falls from 0.5 on, so the dose found is just below that."""

    def score(quality, text):
        dose = dose_in(text)
        return (1 + min(4, round(4 * dose))) if quality == "behavior" else (5 if dose < 0.5 else 2)

    plan = planned({"coherence": 0.25}, objective="behavior", judge="some/judge")
    _, trace, _ = calibrated(Talking(Curves()), plan, judge_of(score))
    assert trace.verdict == "confirmed"
    assert trace.chosen < 0.5
    assert trace.points[trace.selected].gain.mean == pytest.approx(round(4 * trace.chosen))
    assert trace.judge == "some/judge"
    assert trace.rubrics["wording"] == "reworded"
    assert trace.missing_verdicts == {}
    assert trace.cost.verdicts > 0


def test_missing_verdicts_are_counted_and_never_help():
    """A judge that can't be read at a dose makes that dose look worst, so it is not within the budget."""

    def score(quality, text):
        dose = dose_in(text)
        return None if dose > 0.15 else (3 if quality == "behavior" and dose > 0 else 2 if quality == "behavior" else 5)

    plan = planned({"coherence": 0.25}, objective="behavior", judge="some/judge", questions=40)
    _, trace, _ = calibrated(Talking(Curves()), plan, judge_of(score))
    assert trace.chosen <= 0.15
    (lost,) = [point for point in trace.points if point.size == 0.2]
    assert lost.stopped == "coherence"
    assert lost.losses["coherence"].mean == 4.0
    assert lost.losses["coherence"].missing == lost.losses["coherence"].items
    assert trace.missing_verdicts["no_score"] > 0


def test_a_judge_that_fails_is_a_missing_verdict():
    """What a provider raises is counted by its kind, and doesn't end the calibration."""

    async def ask(messages):
        raise ConnectionError("down")

    plan = planned({"coherence": 0.3}, objective="behavior", judge="some/judge", questions=40)
    _, trace, steering = calibrated(Talking(Curves()), plan, ask)
    assert (trace.verdict, steering) == ("nothing within budget", None)
    assert set(trace.missing_verdicts) == {"grader_failed: ConnectionError"}


def test_the_judge_is_not_the_model_under_test():
    """Whichever provider runs it, the model that is calibrated can't judge itself."""
    for name in ("embedded", "hook_steered/embedded", "hf/embedded"):
        with pytest.raises(Refused, match="under test"):
            check_judge_name(name, ["embedded"])
    check_judge_name("openai/gpt", ["embedded"])
