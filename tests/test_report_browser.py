"""The page of a report in a real browser: from disk, without a network, on a phone, in the dark, on paper."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steer_tasks.analysis.page import model_page
from steer_tasks.analysis.render import html
from tests import report_cases as cases

pytestmark = [pytest.mark.slow, pytest.mark.browser]

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # No name is looked up but this machine's, so that a page that asks for anything fails.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
)

CONTRAST = """
const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
// Colours as eight-bit numbers, however they are written: `color-mix()` gives them as shares.
const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
const rgba = text => {
  paint.clearRect(0, 0, 1, 1); paint.fillStyle = text; paint.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
const ground = element => {
  const layers = [];
  for (let one = element; one; one = one.parentElement) layers.push(rgba(getComputedStyle(one).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
};
const light = colour => {
  const [r, g, b] = colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const poor = [];
for (const element of document.querySelectorAll('body *')) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  if (!own || element.closest('title, desc, style') || element.closest('figure svg:not(.halo)')) continue;
  const style = getComputedStyle(element);
  const below = ground(element.closest('svg') || element);
  const colour = over(rgba(element.closest('svg') ? style.fill : style.color), below);
  const [low, high] = [light(colour), light(below)].sort((a, b) => a - b);
  if ((high + 0.05) / (low + 0.05) < 4.5) poor.push(element.textContent.trim().slice(0, 60));
}
return poor;
"""
"""Texts whose contrast with what is behind them is below 4.5; cells of figures are tested by their colours."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every part that there is, and with texts that are hard to lay out."""
    long = "Donaudampfschifffahrtsgesellschaft" * 40
    held = [
        cases.record(one.arm, one.behavior or "", one.question, completion=f"{one.completion} {long}")
        for one in cases.records()
    ]
    found = cases.findings(leaks=(cases.LEAK,), unpaired=(cases.UNPAIRED,))
    pages = [model_page(found, [cases.log(held)], f"model {number}", number, True) for number in range(2)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(html(pages, "216 answers in 2 logs.", ("gone: every score is missing",), ()), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium with an empty profile; skipped by name where it or its driver isn't there."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver on the path")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def opened(browser: Any, page: Path, width: int = 1180, scheme: str = "light", phone: bool = False) -> None:
    """Open the page at a width, in a colour scheme."""
    shape = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("performance")
    browser.get(page.as_uri())


def test_it_opens_from_disk_and_asks_for_nothing(browser: Any, page: Path) -> None:
    """Opened from disk the page is whole: no message on the console, no request but for itself."""
    opened(browser, page)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in sent
    assert [url for url in sent if url != page.as_uri() and not url.startswith("data:")] == []
    assert browser.find_elements("tag name", "script") == []


def test_every_figure_is_seen_and_told(browser: Any, page: Path) -> None:
    """Every figure has a size, a mark in it, and a name and description for those who can't see it."""
    opened(browser, page)
    figures = browser.find_elements("css selector", "figure svg")
    # Of each model: two trade-offs, a sweep, three heatmaps, two distributions, one of draws.
    assert len(figures) == 18
    for figure in figures:
        assert figure.size["width"] > 300
        assert figure.size["height"] > 60
        assert figure.aria_role in ("img", "image")
        assert len(figure.accessible_name) > 20
        assert browser.execute_script("return arguments[0].querySelectorAll('path,use').length", figure) > 3


def test_texts_of_figures_stay_inside(browser: Any, page: Path) -> None:
    """No text of a figure is cut off at its edge, in the fonts that this browser has."""
    opened(browser, page)
    cut = browser.execute_script(
        """return [...document.querySelectorAll('figure svg text')].filter(text => {
             const box = text.getBoundingClientRect(), frame = text.ownerSVGElement.getBoundingClientRect();
             return box.left < frame.left - 1 || box.right > frame.right + 1
               || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
           }).map(text => text.textContent)"""
    )
    assert cut == []


def test_a_wide_figure_has_the_pages_width(browser: Any, tmp_path: Path) -> None:
    """On a desk a map of eight arms is seen whole, without scrolling."""
    found, arms = cases.findings(), [f"another arm {number}" for number in range(3)]
    more = tuple(replace(one, arm=arm) for one in found.effects if one.arm == "prompt" for arm in arms)
    found = replace(found, arms=(*found.arms, *arms), effects=(*found.effects, *more))
    path = tmp_path / "report.html"
    path.write_text(html([model_page(found, [cases.log()], "m", 0)], "s", (), ()), encoding="utf-8")
    opened(browser, path)
    assert len(browser.find_elements("css selector", "figure.wide")) == 3
    cut = browser.execute_script(
        """return [...document.querySelectorAll('figure .scroll')]
             .filter(one => one.scrollWidth > one.clientWidth).length"""
    )
    assert cut == 0


@pytest.mark.parametrize("width", [360, 768, 1180])
def test_nothing_hangs_over_the_edge(browser: Any, page: Path, width: int) -> None:
    """At every width down to 360 pixels only tables and wide figures scroll, inside themselves; folds opened too."""
    opened(browser, page, width=width, phone=width == 360)
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    over = browser.execute_script(
        """return [...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll *, svg *')
             && one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"""
    )
    assert over == []
    small = browser.execute_script(
        """return [...document.querySelectorAll('figure svg text')].filter(text => {
             const {a, b} = text.getScreenCTM();
             return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b) < 6.4;
           }).map(text => text.textContent)"""
    )
    assert small == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read(browser: Any, page: Path, scheme: str) -> None:
    """In light and dark every text stands out from what is behind it by 4.5 to 1, in figures too."""
    opened(browser, page, scheme=scheme)
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 27)"
    )
    assert browser.execute_script(CONTRAST) == []


def test_it_prints_in_light_on_several_pages(browser: Any, page: Path) -> None:
    """Printed, also from a dark screen, the page is dark ink on white."""
    opened(browser, page, scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert browser.execute_script("return getComputedStyle(document.body).color") == "rgb(26, 28, 32)"
    printed = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert printed.startswith(b"%PDF")
    assert printed.count(b"/Type /Page\n") >= 4


def test_a_figure_as_a_file_shows_itself(browser: Any, tmp_path: Path) -> None:
    """A figure saved as a file of its own opens in the browser with its colours, light and dark."""
    drawing = model_page(cases.findings(), [cases.log()], "m", 0).figures.tradeoff[0]
    path = tmp_path / "figure.svg"
    path.write_text(drawing.standalone(), encoding="utf-8")
    for scheme, colour in (("light", "rgb(26, 28, 32)"), ("dark", "rgb(233, 234, 237)")):
        opened(browser, path, scheme=scheme)
        found = "[...document.querySelectorAll('text')].find(one => one.textContent.startsWith('behavior'))"
        assert browser.execute_script(f"return getComputedStyle({found}).fill") == colour
