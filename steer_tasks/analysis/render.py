"""Pages as HTML and Markdown, through the templates beside this file. Everything that came from a log is escaped."""

import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from steer_tasks.analysis.examples import RULE
from steer_tasks.analysis.figures.canvas import HALO
from steer_tasks.analysis.figures.theme import style_sheet
from steer_tasks.analysis.page import ModelPage
from steer_tasks.analysis.provenance import PROOFS
from steer_tasks.analysis.tables import Table

_TEMPLATES = Path(__file__).parent / "templates"


def html(pages: Sequence[ModelPage], summary: str, skipped: Sequence[str], extra: Sequence[Table]) -> str:
    """The whole page, self-contained. `skipped` says which models are left out and why; `extra` are further tables."""
    names = ", ".join(page.title for page in pages)
    return _environment(autoescape=True).get_template("report.html.j2").render(
        pages=pages, summary=summary, skipped=skipped, extra=extra, version=_version(),
        title=f"Steering report: {names}", colours=f"{style_sheet()}\n{HALO}", rule=RULE, proofs=PROOFS,
    )  # fmt: skip


def markdown(
    pages: Sequence[ModelPage], summary: str, skipped: Sequence[str], extra: Sequence[Table], page_name: str | None
) -> str:
    """Verdict and tables, without figures; `page_name` is that of the HTML beside it."""
    text = _environment(autoescape=False).get_template("report.md.j2").render(
        pages=pages, summary=summary, skipped=skipped, extra=extra, html=page_name, version=_version(),
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def cell(text: str) -> str:
    """A text as Markdown that shows it as it is, on one line: no markup of its own, no table's border."""
    flat = " ".join(str(text).split())
    return re.sub(r"([\\`*_{}\[\]<>|~#$&])", r"\\\1", flat)


def _environment(*, autoescape: bool) -> Environment:
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=autoescape, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.filters["cell"] = cell
    return made


def _version() -> str:
    try:
        return version_of("steer-tasks")
    except PackageNotFoundError:
        return "unknown"
