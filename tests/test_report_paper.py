"""The paper's rows beside ours: the published numbers, when they may stand there, and what differs."""

from dataclasses import replace

import pytest

from steer_tasks.analysis.paper_tables import beside_paper
from steer_tasks.analysis.published import differences, paper, refusals
from tests import report_cases as cases


def test_published_accuracies_are_hits_over_answers() -> None:
    """Each of the eight published accuracies is its hits over its answers, to the three digits that were printed."""
    assert len(paper().rows) == 8
    for row in paper().rows:
        assert round(row.hits / row.answers, 3) == row.accuracy


def test_the_eight_rows_stand_below_ours() -> None:
    """Our arms come first, then four published rows of each model, with changes against the control of each."""
    rows = [row.cells for row in beside_paper(cases.findings()).rows]
    assert len(rows) == len(cases.ARMS) + 8
    assert rows[1] == ("prompt", "tiny/model-1B", "0.610", "3.190", "4.860", "−0.010", "+0.69", "+0.11", "18")
    assert rows[8] == (
        *("Auto Steer", "Llama-3.1-8B-Instruct, published", "0.463", "3.338", "2.241"),
        *("−0.178", "+0.56", "−2.33", "2392"),
    )
    assert rows[-4][5:8] == ("–", "–", "–")


def test_other_questions_are_refused() -> None:
    """Records of other questions are refused, by the names of both sets."""
    source = cases.source(questions={"name": "open_ended"})
    assert refusals([source], cases.records()) == ("the questions are open_ended, the study's are mmlu_171",)
    assert refusals([cases.source()], cases.records()) == ()


def test_likelihood_is_refused() -> None:
    """The forms that are scored by likelihood don't stand beside written answers."""
    (said,) = refusals([cases.source(task="mmlu_171_cloze")], cases.records())
    assert said == "mmlu_171_cloze is scored by likelihood, the study's answers are written out"


def test_another_scale_is_refused() -> None:
    """Scores outside 1 to 5 are of another scale."""
    held = [replace(one, coherence_score=0.5) for one in cases.records()[:3]]
    (said,) = refusals([cases.source()], held)
    assert said == "coherence_score runs from 0.5 to 0.5, the study's from 1 to 5"


@pytest.mark.parametrize(
    ("protocol", "sampling"), [("isolated", "greedy"), ("as_run", "the same"), ("mine", "by the protocol")]
)
def test_differences_name_the_protocol(protocol: str, sampling: str) -> None:
    """What differs is listed: model, draws, wording, sampling, leak, judge."""
    source = cases.source(protocol={"name": protocol, "wording": "reworded"})
    found = {one.what: one.ours for one in differences(cases.findings(), [source], cases.records())}
    assert found["sampling"] == sampling
    assert found["wording"] == "reworded"
    assert found["model"] == "tiny/model-1B"
    assert found["draws of a steering"] == "1"
    assert found["prompt leaked into Auto Steer"] == "no"
    assert found["judge"] == "openai/some-judge"
