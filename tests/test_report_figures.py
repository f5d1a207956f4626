"""Figures: what they show in numbers, in words for those who can't see them, and in colours for light and dark."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations

import pytest

from steer_tasks.analysis.dose_response import read_sweep
from steer_tasks.analysis.families import families
from steer_tasks.analysis.figures.canvas import Drawing, canvas
from steer_tasks.analysis.figures.distributions import distribution
from steer_tasks.analysis.figures.dose import dose_response
from steer_tasks.analysis.figures.draws import draws
from steer_tasks.analysis.figures.heatmap import heatmap
from steer_tasks.analysis.figures.labels import Point, place_labels
from steer_tasks.analysis.figures.looks import looks_of
from steer_tasks.analysis.figures.theme import COLOURS, style_sheet
from steer_tasks.analysis.figures.tradeoff import tradeoff
from steer_tasks.analysis.pooled import front
from tests import report_cases as cases

FAMILIES = families(cases.records(), cases.ARMS)
LOOKS = looks_of(cases.ARMS, FAMILIES)


def texts(drawing: Drawing) -> list[str]:
    """The texts that stand in a drawing."""
    root = ElementTree.fromstring(drawing.standalone())
    return [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}text")]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def every() -> list[Drawing]:
    """One drawing of each kind."""
    found = cases.findings()
    made = [
        tradeoff(found, "coherence_score", LOOKS, FAMILIES, "a"),
        dose_response(found, FAMILIES[0], read_sweep(found, FAMILIES[0]), LOOKS, "b"),
        heatmap(found, "accuracy", "c"),
        distribution(cases.records(), cases.ARMS, "coherence_score", "d"),
        draws(found, "behavior_score", LOOKS, "e"),
    ]
    return [one for one in made if one is not None]


def test_families_are_arms_that_differ_in_dose_alone() -> None:
    """Arms of one method that differ in dose make a family, weakest first; a lone dose makes none."""
    assert [(one.name, one.unit, one.arms) for one in FAMILIES] == [
        ("caa", "dose", ((0.1, "caa dose=0.1"), (0.3, "caa dose=0.3"), (0.6, "caa dose=0.6")))
    ]
    held = [replace(one, dose=0.2) if one.question == "subject/0" else one for one in cases.records()]
    assert families(held, cases.ARMS) == ()


def test_a_family_shares_a_colour_and_differs_in_markers() -> None:
    """Arms of a family have one colour and markers of their own; the control is grey."""
    assert {LOOKS.colours[arm] for arm in cases.SWEEP} == {"arm2"}
    assert len({LOOKS.markers[arm] for arm in cases.SWEEP}) == 3
    assert LOOKS.colours["control"] == "arm0"


def test_the_front_is_what_no_other_beats() -> None:
    """The front holds the arms that no other beats in both, in order of loss; equal points stand together."""
    points = {"a": (0.0, 0.0), "b": (0.1, 0.5), "c": (0.2, 0.4), "d": (0.1, 0.5), "e": (1.0, 0.9), "f": (-0.1, -1.0)}
    assert front(points) == ("f", "a", "b", "d", "e")


def test_tradeoff_tells_each_arm() -> None:
    """The trade-off names every arm beside its point, its numbers in the alt text, and who is on the front."""
    drawing = tradeoff(cases.findings(), "coherence_score", LOOKS, FAMILIES, "a")
    assert drawing is not None
    assert set(cases.ARMS) <= set(texts(drawing))
    assert "caa dose=0.6: behavior +1.10, coherence −1.60" in drawing.alt
    assert drawing.alt.endswith("Not beaten by another: prompt, caa dose=0.3, caa dose=0.6.")
    assert "budget 0.25" in texts(drawing)


def test_names_of_close_points_do_not_cover_each_other() -> None:
    """Seven arms almost in one place, with long bars, have names that can all be read."""
    places = [(0.0, 0.0), (0.2, 0.08), (-0.25, 0.04), (0.15, 0.17), (0.19, -0.38), (0.12, 0.31), (0.06, -0.1)]
    arms = (
        "control",
        "simple prompting",
        "caa dose=0.1",
        "caa dose=0.3",
        "caa dose=0.6",
        "wrong sign",
        "random vector",
    )
    with canvas(height=330) as drawn:
        axes = drawn.axes[0]
        axes.set_xlim(-2.6, 2.6)
        axes.set_ylim(-2.4, 3)
        points = [
            Point(arm, "arm1", x, y, (x - 1.4, x + 1.4), (y - 1.5, y + 1.5))
            for arm, (x, y) in zip(arms, places, strict=True)
        ]
        place_labels(axes, points)
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert set(boxes) == set(arms)
    assert [pair for pair in combinations(boxes, 2) if boxes[pair[0]].overlaps(boxes[pair[1]])] == []


def test_of_many_arms_the_front_is_named() -> None:
    """With more arms than have room only those on the front are named, and the caption says so."""
    found = cases.findings()
    many = tuple(
        replace(cases.effect("random_vector dose=0.3", one), arm=f"arm {number}")
        for number in range(12)
        for one in range(2)
    )
    arms = (*cases.ARMS, *(f"arm {number}" for number in range(12)))
    drawing = tradeoff(
        replace(found, arms=arms, effects=(*found.effects, *many)), "coherence_score", looks_of(arms, ()), (), "a"
    )
    assert drawing is not None
    named = set(texts(drawing)) & set(arms)
    assert named == {"control", "prompt", "caa dose=0.3", "caa dose=0.6"}
    assert drawing.caption.endswith("Of the 18 arms only those on the front are named; the table has all.")


def test_the_sweet_spot_is_the_best_dose_within_every_budget() -> None:
    """The sweet spot is the dose with the largest gain whose losses all were shown to lie within their budgets."""
    reading = read_sweep(cases.findings(), FAMILIES[0])
    # At 0.3 the loss of accuracy is not shown to lie within 0.05, so 0.1 is it though 0.3 gains more.
    assert (reading.sweet_spot, reading.before_cliff, reading.cliff) == (0.1, 0.3, 0.6)
    assert reading.sentences[0].startswith("Sweet spot: dose 0.1, the largest gain of behavior (+0.25 [+0.10, +0.40])")
    assert reading.sentences[1] == (
        "Cliff: between dose 0.3 and 0.6, where the loss of coherence and accuracy is beyond its budget."
    )


def test_no_sweet_spot_without_a_gain_that_is_told_from_none() -> None:
    """A dose within all budgets whose gain may be nothing is no sweet spot, and the sentence says why."""
    found = cases.findings()
    effects = tuple(
        replace(one, estimate=cases.estimate(0.1, 0.2)) if one.outcome == "behavior_score" else one
        for one in found.effects
    )
    reading = read_sweep(replace(found, effects=effects), FAMILIES[0])
    assert reading.sweet_spot is None
    assert reading.sentences[0].endswith("and its gain of behavior can't be told from none (+0.10 [−0.10, +0.30]).")


def test_the_cliff_holds_to_the_end() -> None:
    """A loss beyond its budget at a middle dose is no cliff where a larger dose isn't beyond."""
    found = cases.findings()

    tests = tuple(
        replace(one, verdict="beyond") if one.arm == "caa dose=0.3" else replace(one, verdict="undecided")
        for one in found.equivalence
    )
    reading = read_sweep(replace(found, equivalence=tests), FAMILIES[0])
    assert reading.cliff is None
    assert reading.sentences[1] == "No cliff: at the largest dose (0.6) no loss was shown beyond its budget."


def test_no_budget_no_sweet_spot() -> None:
    """Without budgets neither sweet spot nor cliff is told."""
    reading = read_sweep(cases.findings(equivalence=()), FAMILIES[0])
    assert reading.sentences == (
        "No sweet spot: no loss has a budget.",
        "No cliff can be told: no loss has a budget.",
    )


def test_heatmap_cells_are_the_effects() -> None:
    """Each cell holds its change, starred where interval and p-value tell it from zero."""
    drawing = heatmap(cases.findings(), "behavior_score", "c")
    assert drawing is not None
    shown = texts(drawing)
    assert shown.count("+0.69*") == 3
    assert shown.count("+0.02") == 3
    assert [name for name in cases.BEHAVIORS if name in shown] == list(cases.BEHAVIORS)
    assert heatmap(cases.findings(behaviors=("funny",)), "behavior_score", "c") is None


def test_distributions_count_every_answer() -> None:
    """The bars count each arm's answers by score, missing ones too."""
    held = [replace(one, behavior_score=None) if one.question == "subject/0" else one for one in cases.records()]
    drawing = distribution(held, ("control",), "behavior_score", "d")
    assert drawing is not None
    # Of the 18 answers, questions 1 to 5 have the scores 2, 3, 4, 5 and 1, three times each.
    told = "control: 16.7 % at 1, 16.7 % at 2, 16.7 % at 3, 16.7 % at 4, 16.7 % at 5, 3 missing."
    assert drawing.alt.endswith(told)
    assert texts(drawing).count("3") == 6  # five counts, and the legend
    assert distribution(held, ("nobody",), "behavior_score", "d") is None


def test_every_figure_has_a_title_and_an_alt_text() -> None:
    """Every figure is an image with a title and a description that holds numbers."""
    assert len(every()) == 5
    for drawing in every():
        assert drawing.svg.startswith(f'<svg id="{drawing.key}"')
        assert f'<title id="{drawing.key}-title">' in drawing.svg
        assert re.search(r"\d", drawing.alt)
        assert 'role="img"' in drawing.svg


def test_figures_hold_no_colour_font_or_date_of_their_own() -> None:
    """Colours are names that the page resolves; no font, date or style sheet comes from matplotlib."""
    for drawing in every():
        assert not re.findall(r"#[0-9a-f]{6}\b", drawing.svg)
        assert "font-family" not in drawing.svg
        assert "<style" not in drawing.svg
        assert "<metadata" not in drawing.svg
        assert set(re.findall(r"var\(--(\w+)\)", drawing.svg)) <= set(COLOURS)
        assert len(drawing.svg) < 60_000


def test_a_figure_of_its_own_brings_its_colours() -> None:
    """As a file, a figure is well-formed XML that holds the colours for light and dark."""
    for drawing in every():
        ElementTree.fromstring(drawing.standalone())
        assert style_sheet("svg") in drawing.standalone()


def test_names_with_dollars_and_other_scripts_are_drawn() -> None:
    """A name that would be a formula to matplotlib, or lies outside its font, is drawn as it stands."""
    names = {"prompt": "$x^2 & <y>", "caa dose=0.1": "皮肉"}
    found = cases.findings()
    effects = tuple(replace(one, arm=names.get(one.arm, one.arm)) for one in found.effects)
    arms = tuple(names.get(arm, arm) for arm in cases.ARMS)
    drawing = tradeoff(replace(found, arms=arms, effects=effects), "accuracy", looks_of(arms, ()), (), "a")
    assert drawing is not None
    assert set(names.values()) <= set(texts(drawing))


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_can_be_read_on_their_page(theme: int) -> None:
    """Text and marks of every colour stand out from the page: 4.5 for text and arms, on the cells they stand in too."""
    colours = {name: pair[theme] for name, pair in COLOURS.items()}
    for name in ("ink", "muted", *(f"arm{number}" for number in range(7))):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
    for name in ("more", "less", "level1", "level2", "level3"):
        assert contrast(colours["ink"], colours[name]) >= 4.5, name
    for name in ("level4", "level5"):
        assert contrast(colours["page"], colours[name]) >= 4.5, name
