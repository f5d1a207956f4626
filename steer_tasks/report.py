"""`steer report`: from logs of either harness to a page and its Markdown twin. Heavy imports come when it runs."""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_adapters.errors import SteerError

if TYPE_CHECKING:
    from steer_tasks.analysis.findings import Findings, Target
    from steer_tasks.analysis.page import ModelPage
    from steer_tasks.analysis.record import Log, Record
    from steer_tasks.analysis.tables import Table

SHOWN = 5
"""Logs that were left out and are named on the terminal; the report names all."""

_FIELDS = {"accuracy": "accuracy", "answered": "answered", "coherence": "coherence_score"}


@dataclass(frozen=True)
class Options:
    """What is asked of a report."""

    out: Path
    control: str | None
    target: "Target"
    budgets: Mapping[str, float]
    level: float
    compare: bool


@dataclass(frozen=True)
class Group:
    """Records that may be compared with each other: one model, one question set, one protocol."""

    title: str
    logs: "tuple[Log, ...]"

    @property
    def records(self) -> "tuple[Record, ...]":
        """All of them."""
        return tuple(record for log in self.logs for record in log.records)


def add_report_options(one: argparse.ArgumentParser) -> None:
    """The options of `steer report`."""
    paths = "logs of lm-eval or Inspect, folders of them, the study's table, exported records"
    one.add_argument("paths", nargs="+", metavar="PATH", help=paths)
    one.add_argument("--out", required=True, metavar="FILE", help="an .html page, its Markdown beside it; or .md alone")
    control = "what the others are compared with (default: the arm of method control)"
    one.add_argument("--control", metavar="ARM", help=control)
    target = "conclude for behaviors like these (random, the default) or for these and these steerings alone (fixed)"
    one.add_argument("--target", choices=("fixed", "random"), default="random", help=target)
    budget = "losses to test against, such as accuracy:0.02,coherence:0.25 (default accuracy:0.05,coherence:0.25)"
    one.add_argument("--budget", metavar="NAME:LOSS,…", help=budget)
    one.add_argument("--level", type=float, default=0.95, help="of intervals and tests (default 0.95)")
    one.add_argument("--compare", choices=("paper",), help="put the published rows of arXiv:2602.04903 beside these")
    rejoin = "of the study's own tables, join gold answers by question instead of by place, and show both accuracies"
    one.add_argument("--rejoin", action="store_true", help=rejoin)
    figures = "also write each figure to this folder, as an SVG file of its own"
    one.add_argument("--figures", metavar="FOLDER", help=figures)
    one.add_argument("--export", metavar="FILE", help="also write the records to this .parquet, .csv or .json file")


def run_report(given: argparse.Namespace) -> None:
    """Read logs, conclude, write the report. Raises SteerError where there is nothing to report, with the reason."""
    options = _options(given)
    from steer_tasks.analysis.logs import read_logs

    logs = read_logs(given.paths)
    extra = _rejoined(given.paths) if given.rejoin else ()
    pages, skipped = pages_of(logs, options)
    # The page comes last, so that a command that fails leaves none.
    if given.export:
        from steer_tasks.analysis.export import export_records

        export_records(logs, given.export)
    if given.figures:
        _write_figures(Path(given.figures).expanduser(), pages)
    left_out = (*skipped, *_left_out(logs))
    _write(options.out, pages, logs, left_out, extra)
    for page in pages:
        print(f"{page.title}")
        for verdict in page.verdicts:
            print(f"  {verdict.arm}: {verdict.headline}")
    for line in left_out[:SHOWN]:
        print(f"left out: {line}")
    if len(left_out) > SHOWN:
        print(f"left out: {len(left_out) - SHOWN} more, named in the report")
    print(f"wrote {options.out}" + (f" and {options.out.with_suffix('.md')}" if options.out.suffix == ".html" else ""))


def _options(given: argparse.Namespace) -> Options:
    out = Path(given.out).expanduser()
    if out.suffix not in (".html", ".md"):
        raise SteerError(f"--out {given.out}: a report is an .html file, its Markdown beside it, or an .md file")
    if not out.parent.is_dir():
        raise SteerError(f"--out {given.out}: there is no folder {out.parent}; make it first")
    if given.export:
        from steer_tasks.analysis.export import check_place

        check_place(given.export)
    if not 0.5 < given.level < 1:
        raise SteerError(f"--level {given.level:g}: a level lies between 0.5 and 1, such as 0.95")
    from steer_tasks.analysis.outcomes import BUDGETS

    budgets = BUDGETS if given.budget is None else budgets_of(given.budget)
    return Options(out, given.control, given.target, budgets, given.level, given.compare == "paper")


def budgets_of(text: str) -> dict[str, float]:
    """`accuracy:0.02,coherence:0.25` as losses by outcome. Raises SteerError for anything else."""
    from steer_tasks.analysis.outcomes import SCALES

    found: dict[str, float] = {}
    for pair in text.split(","):
        name, colon, value = pair.strip().partition(":")
        if not colon or name not in _FIELDS:
            raise SteerError(f"--budget {pair}: write NAME:LOSS with a name of {', '.join(_FIELDS)}")
        if _FIELDS[name] in found:
            raise SteerError(f"--budget names {name} twice; name it once")
        try:
            loss = float(value)
        except ValueError:
            loss = 0.0
        if not 0 < loss < float("inf"):
            raise SteerError(f"--budget {pair}: a loss is a number above 0")
        if loss > (span := SCALES[_FIELDS[name]].span):
            raise SteerError(f"--budget {pair}: {name} can't fall by more than {span:g}")
        found[_FIELDS[name]] = loss
    return found


def groups_of(logs: "Sequence[Log]") -> tuple[Group, ...]:
    """Logs by what may be compared, in order of appearance, each log with the records of the group alone."""
    from steer_tasks.analysis.pairing import by_model

    found = []
    for title, records in by_model([record for log in logs for record in log.records]).items():
        kept = set(map(id, records))
        held = [replace(log, records=tuple(one for one in log.records if id(one) in kept)) for log in logs]
        found.append(Group(title, tuple(log for log in held if log.records)))
    return tuple(found)


def pages_of(logs: "Sequence[Log]", options: Options) -> "tuple[tuple[ModelPage, ...], tuple[str, ...]]":
    """A page for each group that something can be said of, a line for each other. Raises SteerError without pages."""
    from steer_tasks.analysis.page import model_page
    from steer_tasks.analysis.published import refusals

    pages, skipped, refused = [], [], []
    groups = groups_of(logs)
    for number, group in enumerate(groups):
        try:
            findings = _concluded(group, options)
        except SteerError as problem:
            skipped.append(f"{group.title}: {problem}")
            continue
        if options.compare:
            reasons = refusals([log.source for log in group.logs], group.records)
            refused += [f"{group.title}: {reason}" for reason in reasons]
        pages.append(model_page(findings, group.logs, group.title, number, options.compare))
    if not pages:
        raise SteerError(f"nothing to report: {'; '.join(skipped) or _no_answers(logs)}")
    if options.compare and not any(page.paper for page in pages):
        raise SteerError(f"--compare paper: {'; '.join(refused)}; leave --compare out")
    return tuple(pages), tuple(skipped)


def _concluded(group: Group, options: Options) -> "Findings":
    from steer_tasks.analysis.conclude import conclude
    from steer_tasks.analysis.record import SCORES

    records = group.records
    scored = {field for record in records for field in SCORES if getattr(record, field) is not None}
    if not scored and not any(value is not None for record in records for value in record.signals.values()):
        reasons = list(dict.fromkeys(reason for record in records for reason in record.missing.values()))
        raise SteerError(f"every score is missing ({'; '.join(reasons[:3]) or 'no reason given'})")
    return conclude(
        records, control=options.control, target=options.target, budgets=options.budgets, level=options.level
    )


def _no_answers(logs: "Sequence[Log]") -> str:
    said = _left_out(logs)
    more = f"; and {len(said) - 3} more" if len(said) > 3 else ""
    return "the logs hold no answers" + (f" ({'; '.join(said[:3])}{more})" if said else "")


def _left_out(logs: "Sequence[Log]") -> tuple[str, ...]:
    held = [(log.source.path, remark) for log in logs if not log.records for remark in log.source.remarks]
    return tuple(f"{path}: {remark.removeprefix('left out: ')}" for path, remark in held)


def _rejoined(paths: Sequence[str]) -> "tuple[Table, ...]":
    """Tables of both accuracies, the first of them printed too."""
    from steer_tasks.analysis.rejoin_table import printed, rejoin_tables

    tables = rejoin_tables(paths)
    print(printed(tables[0]))
    return tables


def _write(
    out: Path,
    pages: "Sequence[ModelPage]",
    logs: "Sequence[Log]",
    skipped: Sequence[str],
    extra: "Sequence[Table]",
) -> None:
    from steer_tasks.analysis.render import html, markdown
    from steer_tasks.analysis.wording import counted

    answers = sum(len(log.records) for log in logs)
    said = f"{counted(answers, 'answer')} in {counted(sum(bool(log.records) for log in logs), 'log')}."
    texts = {}
    if out.suffix == ".html":
        texts[out] = html(pages, said, skipped, extra)
    texts[out.with_suffix(".md")] = markdown(pages, said, skipped, extra, out.name if out.suffix == ".html" else None)
    write_together(texts)


def _write_figures(folder: Path, pages: "Sequence[ModelPage]") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise SteerError(f"--figures {folder}: it can't be made ({problem.strerror}); give another place") from problem
    drawings = [drawing for page in pages for drawing in page.figures.all]
    names = {one.key: one.key.partition("-")[2] if len(pages) == 1 else one.key for one in drawings}
    if drawings:
        write_together({folder / f"{names[one.key]}.svg": one.standalone() for one in drawings})


def write_together(texts: Mapping[Path, str]) -> None:
    """Write texts to files of one folder, all of them or none. Raises SteerError where one can't be written."""
    first = next(iter(texts))
    for path in texts:
        if path.is_dir():
            raise SteerError(f"can't write {path} (it is a folder); give another place")
    try:
        with tempfile.TemporaryDirectory(dir=first.parent, prefix=f".{first.name}.") as folder:
            for path, text in texts.items():
                (Path(folder) / path.name).write_text(text, encoding="utf-8", errors="backslashreplace")
            for path in texts:
                os.replace(Path(folder) / path.name, path)
    except OSError as problem:
        raise SteerError(f"can't write {first} ({problem.strerror or problem}); give another place") from problem
