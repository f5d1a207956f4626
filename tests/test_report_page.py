"""The page of a report: hand-worked findings in, exact numbers out, hostile text harmless."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from steer_tasks.analysis.called import call
from steer_tasks.analysis.examples import examples
from steer_tasks.analysis.findings import Effect, Findings, Mean, SignalChange
from steer_tasks.analysis.page import ModelPage, model_page
from steer_tasks.analysis.record import Log
from steer_tasks.analysis.render import cell, html, markdown
from steer_tasks.analysis.tables import Row, Table
from steer_tasks.analysis.verdict import verdicts
from tests import report_cases as cases
from tests.report_html import cells_of, read


def page_of(findings: Findings, logs: Sequence[Log] | None = None, compare: bool = False, number: int = 0) -> ModelPage:
    return model_page(findings, logs or [cases.log()], findings.model, number, compare)


def parsed(*pages: ModelPage) -> Any:
    return read(html(pages, "18 answers in 1 log.", (), ()))


@pytest.fixture(scope="module")
def page() -> Any:
    return parsed(page_of(cases.findings(), compare=True))


def test_levels_stand_with_interval_and_count(page: Any) -> None:
    """The arm table has each mean to three digits with its interval, and how many answers were scored."""
    rows = cells_of(page, "Levels by arm")
    assert rows[0] == ["control", "2.500 [2.40, 2.60]", "4.750 [4.65, 4.85]", "0.620 [0.52, 0.72]", "18"]
    assert rows[4] == ["caa dose=0.6", "3.600 [3.50, 3.70]", "3.150 [3.05, 3.25]", "0.420 [0.32, 0.52]", "18"]
    assert [row[0] for row in rows] == list(cases.ARMS)


def test_changes_stand_with_adjusted_p_and_detectable_effect(page: Any) -> None:
    """The table of changes has the interval, both p-values, the detectable change, the budget and the pairs."""
    rows = cells_of(page, "Changes against the control")
    assert rows[0] == [
        *("prompt", "behavior", "+0.69", "[+0.54, +0.84]", "< 0.001", "0.006"),
        *("0.21", "12.5 % [8, 18]", "–", "18"),
    ]
    assert rows[10][:6] == ["caa dose=0.6", "coherence", "−1.60", "[−1.70, −1.50]", "< 0.001", "0.006"]
    assert rows[10][8] == "beyond 0.25"
    assert "Tests: sign flips of whole questions (behavior, coherence and accuracy)." in page.get_text()


def test_a_conclusion_that_the_other_target_changes_is_shown_twice(page: Any) -> None:
    """Where the targets disagree, both intervals and p-values stand side by side, and the verdict says so."""
    assert cells_of(page, "Where the target changes the conclusion") == [
        ["prompt", "behavior", "+0.69 [+0.54, +0.84]", "0.006", "+0.69 [−0.21, +1.59]", "0.500"]
    ]
    said = "For behaviors like these the conclusion on behavior differs: +0.69 [−0.21, +1.59]."
    assert said in page.get_text()


def test_verdicts_say_bought_cost_and_no_verdict(page: Any) -> None:
    """The headline of each arm says what it bought and cost, and refuses a verdict below what the design finds."""
    told = {one.h4.get_text(): one.select_one(".headline").get_text() for one in page.select(".verdict")}
    assert told == {
        "prompt": "Bought behavior; loss of coherence and accuracy within budget.",
        "caa dose=0.1": "Bought behavior; loss of coherence and accuracy within budget.",
        "caa dose=0.3": "Bought behavior; no cost shown, nor ruled out.",
        "caa dose=0.6": "Bought behavior; cost coherence and accuracy.",
        "random_vector dose=0.3": "No verdict on behavior; cost coherence.",
    }
    assert page.select_one(".summary li").get_text() == (
        "prompt and caa dose=0.1. Bought behavior; loss of coherence and accuracy within budget."
    )


def test_a_significant_change_below_the_detectable_one_has_no_verdict() -> None:
    """A change that is told from zero but is smaller than the design finds reliably is called small, not a change."""
    one = cases.effect("caa dose=0.3", 1)
    assert one.estimate.low == -0.22
    assert one.p_adjusted == pytest.approx(0.006)
    assert call(one) == "small"
    assert call(replace(one, detectable=0.12)) == "less"
    assert call(replace(one, detectable=None)) == "less"


def test_neither_interval_nor_p_alone_makes_a_change() -> None:
    """A verdict needs an interval that excludes zero and an adjusted p-value below the level."""
    one = cases.effect("prompt", 0)
    assert call(one) == "more"
    assert call(replace(one, p_adjusted=0.05)) == "unclear"
    assert call(replace(one, p_adjusted=0.049)) == "more"
    assert call(replace(one, p=0.3, p_adjusted=None)) == "unclear"
    assert call(replace(one, estimate=cases.estimate(0.69, 0.7))) == "unclear"
    assert call(replace(one, estimate=cases.estimate(0.69, None))) == "unclear"


def test_a_large_change_without_a_verdict_says_that_its_p_value_is_why() -> None:
    """Where a change is as large as the design finds, but its adjusted p-value is too, the p-value is given instead."""
    found = cases.findings(effects=(cases.effect("prompt", 0, p_adjusted=0.0502),))
    (one,) = verdicts(found)
    assert one.cells[0].reading.startswith("no verdict: adjusted p 0.0502")
    assert one.bought == "No verdict on behavior: +0.69 [+0.54, +0.84] points. Its adjusted p-value is 0.0502."


def test_what_rose_is_not_called_a_loss() -> None:
    """Beside an outcome that rose no budget of its loss is read out."""
    one = verdicts(cases.findings(effects=(cases.effect("prompt", 1, detectable=0.1),)))[0]
    assert [cell.reading for cell in one.cells] == ["rose"]


def test_one_behavior_has_no_table_by_behavior() -> None:
    """With one behavior the changes by behavior would be the changes again, so they are left out."""
    found = cases.findings()
    alone = tuple(one for one in found.effects if one.behavior in (None, "funny"))
    page = page_of(replace(found, behaviors=("funny",), effects=alone))
    assert page.by_behavior is None
    assert page.figures.heatmaps == ()


def test_budgets_below_the_design_are_not_certified() -> None:
    """A budget that the design can't certify is said to be so, with the smallest that it can."""
    found = cases.findings()
    tests = tuple(replace(one, verdict="not decidable", budget=0.02, detectable=0.042) for one in found.equivalence)
    one = verdicts(replace(found, equivalence=tests))[0]
    assert one.cost[1].endswith("This design can't certify a budget of 0.020; the smallest it can is 0.042.")
    assert one.cells[2].reading == "no verdict: only 0.042 or more can be told; too few to certify 0.020"


def test_what_was_not_scored_is_said_not_guessed() -> None:
    """Without behavior scores the verdict says so, and without costs it says that nothing is said of them."""

    def only(*outcomes: str) -> tuple[Effect, ...]:
        return tuple(one for one in cases.findings().effects if one.outcome in outcomes)

    accuracy = verdicts(cases.findings(effects=only("accuracy")))[3]
    assert accuracy.headline == "Behavior wasn't scored; cost accuracy."
    assert "No scores of behavior and coherence." in accuracy.unsaid
    behavior = verdicts(cases.findings(effects=only("behavior_score")))[0]
    assert "No scores of coherence and accuracy." in behavior.unsaid
    means = tuple(one for one in cases.findings().means if one.outcome != "accuracy")
    open_ended = verdicts(cases.findings(effects=only("behavior_score"), means=means))[0]
    assert "No scores of coherence." in open_ended.unsaid
    assert behavior.headline == "Bought behavior; what it cost wasn't scored."


def test_a_leak_stands_on_top() -> None:
    """An arm that carries another's prompt is flagged before the verdict, with the count and the prompt."""
    page = parsed(page_of(cases.findings(leaks=(cases.LEAK,))))
    flag = page.select_one(".flag.grave")
    assert flag.b.get_text() == "caa dose=0.3 carries the prompt of the arm prompt"
    assert "18 of 18 answers were asked with “Be funny when you answer.”" in flag.p.get_text()
    text = str(page)
    assert text.index("carries the prompt") < text.index("<h3>Verdict</h3>") < text.index("<h3>Arms</h3>")


@pytest.mark.parametrize(
    ("model", "judge", "title"),
    [
        ("embedded", "openai/some-judge", "Embedded model"),
        ("hook_steered/embedded", "openai/some-judge", "Embedded model"),
        ("tiny/model-1B", "stand_in_judge/try", "No judge"),
        ("stand_in_steered/x", "openai/some-judge", "No model"),
    ],
)
def test_a_stand_in_is_labelled(model: str, judge: str, title: str) -> None:
    """Results of the embedded model and of the stand-ins for model and judge are labelled as such on top."""
    flags = page_of(cases.findings(model=model), [cases.log(judge=judge)]).flags
    assert title in [flag.title for flag in flags]


def test_mixed_protocols_are_flagged() -> None:
    """Logs of two protocols in one comparison are flagged."""
    half = len(cases.records()) // 2
    logs = [
        cases.log(cases.records()[:half]),
        cases.log(cases.records()[half:], path="logs/b.eval", protocol={"name": "as_run", "digest": "11"}),
    ]
    assert "Mixed protocols" in [flag.title for flag in page_of(cases.findings(), logs).flags]
    assert "Mixed protocols" not in [flag.title for flag in page_of(cases.findings()).flags]


def test_missing_scores_are_counted_with_reasons_and_bounds() -> None:
    """Missing scores stand with their count, their reasons, and how far they could move the change."""
    found = cases.findings()
    gap = Mean("prompt", "behavior_score", cases.estimate(3.19, 0.1), 16, 2, {"reply unreadable": 2})
    means = tuple(gap if (one.arm, one.outcome) == ("prompt", "behavior_score") else one for one in found.means)
    effects = (cases.effect("prompt", 0, bounds=(-0.11, 1.3)), *found.effects[1:])
    page = parsed(page_of(replace(found, means=means, effects=effects, unpaired=(cases.UNPAIRED,))))
    assert cells_of(page, "Missing scores") == [
        ["prompt", "behavior", "2 of 18", "−0.11 to +1.30", "reply unreadable (2)"]
    ]
    assert cells_of(page, "Answers without a pair")[0][:4] == ["prompt", "funny", "2", "the control has no answer"]
    assert "Missing scores of behavior could undo its change, at the worst." in page.get_text()
    assert "Missing scores of behavior" in [flag.b.get_text() for flag in page.select(".flag.grave")]
    assert cells_of(page, "Levels by arm")[1][-1] == "16 (2 missing) / 18 / 18"


def test_draws_and_placebos_have_their_numbers(page: Any) -> None:
    """Each draw's change, the spread between draws and the change beyond placebos stand in their tables."""
    assert cells_of(page, "Draws") == [["random_vector dose=0.3", "behavior", "3", "−0.10, 0.00, +0.16", "0.07"]]
    assert cells_of(page, "Beyond placebos") == [
        ["caa dose=0.3", "behavior", "+0.78", "[+0.58, +0.98]", "0.001", "random_vector dose=0.3"]
    ]


def test_signals_are_means_without_tests() -> None:
    """Signals stand as means by arm over the answers that have them; one that nobody has is left out."""
    held = [
        replace(one, signals={"repeated_ngrams": float(number % 2), "likelihood": None})
        for number, one in enumerate(cases.records())
    ]
    held[0] = replace(held[0], signals={"repeated_ngrams": None, "likelihood": None})
    page = parsed(page_of(cases.findings(), [cases.log(held)]))
    # Of the control's 18 answers the first has none; of the other 17 nine have 1.
    assert cells_of(page, "Signals by arm")[:2] == [["control", "0.529"], ["prompt", "0.500"]]


def test_changes_in_signals_stand_with_their_intervals() -> None:
    """Beside the means stands each arm's change in each signal, with its interval and no p-value."""
    changes = (
        SignalChange("prompt", "words", cases.estimate(-12.5, 4.25)),
        SignalChange("caa dose=0.1", "repeated_ngrams", cases.estimate(0.02, None)),
    )
    page = parsed(page_of(cases.findings(signals=changes)))
    assert cells_of(page, "Changes in signals") == [
        ["prompt", "words", "−12.500", "[−16.750, −8.250]"],
        ["caa dose=0.1", "repeated ngrams", "+0.020", "no interval"],
    ]


def test_proof_names_level_and_measured_dose(page: Any) -> None:
    """How the steering was proved stands for each arm: the level, the dose asked and the dose measured."""
    rows = cells_of(page, "How the steering was proved")
    assert rows[3][:5] == ["caa dose=0.3", "measured", "dose 0.3", "0.315 (0.315 to 0.315)", "18"]
    assert rows[0][:4] == ["control", "measured", "–", "–"]


def test_provenance_has_digest_judge_and_versions(page: Any) -> None:
    """Where the numbers come from: questions and their digest, protocol, judge, rubrics, versions."""
    facts = dict(
        zip(
            (one.get_text() for one in page.select("dl.facts dt")),
            (one.get_text() for one in page.select("dl.facts dd")),
            strict=True,
        )
    )
    assert facts["questions"] == "name mmlu_171, digest 799782f0bc48579d, count 171"
    assert facts["judge"] == "openai/some-judge"
    assert facts["versions"] == "steer-tasks 0.1.0, torch 2.13.0"


def test_what_a_log_says_stays_text() -> None:
    """Markup in arms, answers, prompts and reasons is shown and never becomes part of the page."""
    bad = cases.HOSTILE
    held = [replace(one, arm=bad if one.arm == "prompt" else one.arm, completion=bad) for one in cases.records()]
    arms = tuple(bad if arm == "prompt" else arm for arm in cases.ARMS)
    found = cases.findings(arms=arms, remarks=(bad,))
    effects = tuple(replace(one, arm=bad) if one.arm == "prompt" else one for one in found.effects)
    means = tuple(replace(one, arm=bad) if one.arm == "prompt" else one for one in found.means)
    found = replace(found, effects=effects, means=means, other_target=())
    text = html([page_of(found, [cases.log(held)])], bad, (bad,), (Table(bad, (bad,), (Row((bad,)),)),))
    page = read(text)
    assert page.find("script") is None
    assert page.find("b", string="bold") is None
    assert bad in [one.get_text() for one in page.select(".answer")]
    assert not re.search(r"""\b(?:src|href)=["'](?!#|data:)""", text)


def test_markdown_shows_what_it_was_given() -> None:
    """In Markdown no text of a log makes markup, ends a cell or starts a line."""
    assert cell("a|b\n# *c* <d> `e`") == r"a\|b \# \*c\* \<d\> \`e\`"
    assert cell("&lt;b&gt; $x$") == r"\&lt;b\&gt; \$x\$"
    text = markdown([page_of(cases.findings(remarks=(cases.HOSTILE,)))], "s", (), (), "report.html")
    assert "<script>" not in text
    changed = "+0.69 | \\[+0.54, +0.84\\] | \\< 0.001 | 0.006 | 0.21 | 12.5 % \\[8, 18\\] | – | 18"
    assert f"| prompt | behavior | {changed} |" in text


def test_markdown_tables_are_whole() -> None:
    """Each table of the Markdown has one heading, one rule and rows of equal length, with no line between."""
    text = markdown([page_of(cases.findings(leaks=(cases.LEAK,)), compare=True)], "s", (), (), None)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) >= 7
    for block in blocks:
        assert set(block[1]) <= set("|-: ")
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block}
        assert len(widths) == 1, block[0]
    assert "> **caa dose=0.3 carries the prompt of the arm prompt.** 18 of 18 answers" in text


def test_equal_input_gives_equal_bytes() -> None:
    """The same findings and records make the same page, byte for byte."""
    one, other = (html([page_of(cases.findings(), compare=True)], "s", (), ()) for _ in range(2))
    assert one == other


def test_ids_of_a_page_are_unique() -> None:
    """Two models with the same figures on one page share no id, and every reference finds its own."""
    text = html([page_of(cases.findings(), number=number) for number in range(2)], "s", (), ())
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', text)) <= set(ids)
    labels = [label for one in re.findall(r'aria-labelledby="([^"]+)"', text) for label in one.split()]
    assert labels
    assert set(labels) <= set(ids)


def test_examples_are_the_largest_changes() -> None:
    """The best answer has the largest sum of changes in behavior and coherence, the worst the smallest, by the rule."""

    def answer(arm: str, question: str, behavior: float, coherence: float):
        return cases.record(
            arm, "funny", question, behavior_score=behavior, coherence_score=coherence, completion=f"{arm} {question}"
        )

    held = [
        *(answer("control", question, 2, 5) for question in ("a", "b", "c", "d")),
        answer("prompt", "a", 4, 4),
        answer("prompt", "b", 5, 3),
        answer("prompt", "c", 5, 5),
        answer("prompt", "d", 2, 1),
    ]
    found = examples(cases.findings(arms=("control", "prompt")), held)
    assert [(one.kind, one.steered.start, one.control.start, one.change) for one in found] == [
        ("best", "prompt c", "control c", "+3.00"),
        ("worst", "prompt d", "control d", "−4.00"),
    ]
    assert found[0].steered.scores == "behavior 5 · coherence 5 · accuracy 1"


def test_examples_stand_beside_a_control_without_behaviors() -> None:
    """Where the control was run once for all behaviors, its answer to the question stands beside each arm's."""
    control = replace(cases.record("control", "", "a"), behavior=None, behavior_score=None)
    held = [control, cases.record("prompt", "funny", "a", behavior_score=4.0, coherence_score=3.0)]
    (found,) = examples(cases.findings(arms=("control", "prompt")), held)
    assert (found.kind, found.control.start, found.change) == ("best", "control says a", "−2.00")


def test_a_design_that_no_change_on_the_scale_would_show_in_is_said_to_be_so() -> None:
    """A smallest detectable change, or loss, that is larger than the scale is no size to print: it is said in words."""
    wide = replace(cases.effect("prompt", 0), detectable=9.9, p_adjusted=0.5)
    coarse = replace(cases.effect("prompt", 2), detectable=1.2, p_adjusted=0.5)
    found = cases.findings(effects=(wide, coarse), other_target=())
    tests = tuple(replace(one, verdict="not decidable", detectable=1.1) for one in found.equivalence)
    (one,) = verdicts(replace(found, equivalence=tests))
    assert one.bought.endswith("No change on its scale would be found reliably by this design.")
    assert [cell.reading for cell in one.cells] == [
        "no verdict: no change on its scale can be told",
        "no verdict: no change on its scale can be told; too few to certify 0.050",
    ]
    assert one.cost[0].endswith("This design can't certify a budget of 0.050, nor any other.")
    rows = cells_of(parsed(page_of(found)), "Changes against the control")
    assert [row[6] for row in rows] == ["> 4", "> 1"]


def test_a_verdict_without_any_variation_gives_the_reason() -> None:
    """Where no difference differs from another, that is why nothing is said of what the design could detect."""
    unvaried = replace(cases.effect("prompt", 0), estimate=cases.estimate(0.0, 0.4), detectable=None, p_adjusted=1.0)
    (one,) = verdicts(cases.findings(effects=(unvaried,)))
    assert one.bought.endswith("No difference differed from another, so what this design could detect can't be told.")


def test_long_answers_fold_and_end() -> None:
    """A long answer is folded after its beginning, and what the page doesn't hold is counted."""
    held = [replace(one, completion="x" * 7000) for one in cases.records()]
    one = page_of(cases.findings(), [cases.log(held)]).examples[0].steered
    assert (len(one.start), len(one.rest), one.left_out) == (420, 5580, 1000)
    page = parsed(page_of(cases.findings(), [cases.log(held)]))
    assert "1,000 more characters are in the log." in page.get_text()


def test_one_arm_shows_its_levels() -> None:
    """With one arm there is no comparison: the page says so on top and shows the arm's levels."""
    found = cases.findings()
    means = tuple(one for one in found.means if one.arm == "control")
    alone = replace(
        found, arms=("control",), means=means, effects=(), equivalence=(), draws=(), excess=(), other_target=()
    )
    held = [one for one in cases.records() if one.arm == "control"]
    page = parsed(page_of(alone, [cases.log(held)]))
    assert page.select_one(".flag.grave b").get_text() == "One arm only"
    assert len(cells_of(page, "Levels by arm")) == 1
    assert "Verdict" not in [one.get_text() for one in page.find_all("h3")]
