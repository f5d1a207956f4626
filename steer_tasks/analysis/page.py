"""A report as data: what the templates of page and Markdown are filled with."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from steer_tasks.analysis import tables
from steer_tasks.analysis.dose_response import read_sweep
from steer_tasks.analysis.examples import Example, asked, examples
from steer_tasks.analysis.families import Family, families
from steer_tasks.analysis.figures.canvas import Drawing
from steer_tasks.analysis.figures.distributions import distribution
from steer_tasks.analysis.figures.dose import dose_response
from steer_tasks.analysis.figures.draws import draws
from steer_tasks.analysis.figures.heatmap import heatmap
from steer_tasks.analysis.figures.looks import Looks, looks_of
from steer_tasks.analysis.figures.tradeoff import tradeoff
from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.flags import Flag, flags_of
from steer_tasks.analysis.paper_tables import beside_paper, differences_table
from steer_tasks.analysis.pooled import measured
from steer_tasks.analysis.provenance import Fact, facts, proved
from steer_tasks.analysis.published import differences, refusals
from steer_tasks.analysis.record import Log, Record, Source
from steer_tasks.analysis.signal_tables import signal_changes, signals
from steer_tasks.analysis.tables import Table
from steer_tasks.analysis.verdict import Verdict, summary, verdicts
from steer_tasks.analysis.wording import COSTS, GAIN, counted, outcome


@dataclass(frozen=True)
class Figures:
    """A model's figures by section; a section without one is empty."""

    tradeoff: tuple[Drawing, ...]
    dose: tuple[Drawing, ...]
    heatmaps: tuple[Drawing, ...]
    distributions: tuple[Drawing, ...]
    draws: tuple[Drawing, ...]

    @property
    def all(self) -> tuple[Drawing, ...]:
        """Every figure, in the page's order."""
        return (*self.tradeoff, *self.dose, *self.heatmaps, *self.distributions, *self.draws)


@dataclass(frozen=True)
class ModelPage:
    """Everything that is shown of one model."""

    anchor: str
    title: str
    """The model, and question set and protocol where the logs hold several of them."""
    findings: Findings
    basis: str
    """One sentence: how many answers, questions and behaviors, and what is inferred about."""
    flags: tuple[Flag, ...]
    summary: tuple[tuple[str, str], ...]
    """Arms, and the headline that they share."""
    verdicts: tuple[Verdict, ...]
    looks: Looks
    levels: Table
    paper: tuple[Table, ...]
    paper_refusal: str
    effects: Table | None
    signals: Table | None
    signal_changes: Table | None
    other_target: Table | None
    by_behavior: Table | None
    sweeps: tuple[str, ...]
    draws: Table | None
    excess: Table | None
    figures: Figures
    examples: tuple[Example, ...]
    proofs: Table
    missing: Table | None
    without_scores: tuple[str, ...]
    unpaired: Table | None
    facts: tuple[Fact, ...]
    sources: tuple[Source, ...]


def model_page(findings: Findings, logs: Sequence[Log], title: str, number: int, compare: bool = False) -> ModelPage:
    """What is shown of the findings and the logs they rest on; `number` keeps the ids of several pages apart."""
    records = [record for log in logs for record in log.records]
    sources = tuple(log.source for log in logs)
    swept = families(records, findings.arms)
    looks = looks_of(findings.arms, swept)
    found, judged = tables.effects(findings), verdicts(findings)
    paper, refused = _paper(findings, sources, records) if compare else ((), "")
    return ModelPage(
        anchor=f"{re.sub(r'[^a-z0-9]+', '-', findings.model.lower()).strip('-')}-{number}",
        title=title,
        findings=findings,
        basis=_basis(findings, records, sources),
        flags=flags_of(findings, logs),
        summary=summary(judged),
        verdicts=judged,
        looks=looks,
        levels=tables.levels(findings),
        paper=paper,
        paper_refusal=refused,
        effects=found if found.rows else None,
        signals=signals(records, findings.arms),
        signal_changes=signal_changes(findings),
        other_target=tables.other_target(findings),
        by_behavior=tables.by_behavior(findings),
        sweeps=tuple(" ".join((f"{one.name}.", *read_sweep(findings, one).sentences)) for one in swept),
        draws=tables.draws(findings),
        excess=tables.excess(findings),
        figures=_figures(findings, records, swept, looks, f"m{number}"),
        examples=examples(findings, records),
        proofs=tables.proofs(proved(records, findings.arms)),
        missing=tables.missing(findings),
        without_scores=tables.without_scores(findings),
        unpaired=tables.unpaired(findings, _texts(records)),
        facts=facts(sources),
        sources=sources,
    )


def _basis(findings: Findings, records: Sequence[Record], sources: Sequence[Source]) -> str:
    said = f"{counted(len(records), 'answer')} of {counted(len(findings.arms), 'arm')} to "
    said += counted(findings.questions, "question")
    said += f" under {counted(len(findings.behaviors), 'behavior')}" if findings.behaviors else ""
    said += f", from {counted(len(sources), 'log')}. "
    if findings.target == "fixed":
        return f"{said}Conclusions are for these behaviors under these very steerings, and questions like these."
    return f"{said}Conclusions are for behaviors and questions like these."


def _texts(records: Sequence[Record]) -> dict[str, str]:
    """What was asked, of questions that are named by a digest of it."""
    named = {one.question: one for one in records if re.fullmatch("[0-9a-f]{16}", one.question)}
    return {question: asked(record) for question, record in named.items()}


def _paper(findings: Findings, sources: Sequence[Source], records: Sequence[Record]) -> tuple[tuple[Table, ...], str]:
    if reasons := refusals(sources, records):
        return (), "; ".join(reasons)
    return (beside_paper(findings), differences_table(differences(findings, sources, records))), ""


def _figures(findings: Findings, records: Sequence[Record], swept: Sequence[Family], looks: Looks, key: str) -> Figures:
    scored = [field for field in (GAIN, *COSTS) if field in measured(findings)]
    judged = [field for field in scored if field in (GAIN, "coherence_score")]
    trades = [tradeoff(findings, field, looks, swept, f"{key}-tradeoff-{_word(field)}") for field in COSTS[:2]]
    sweeps = [
        dose_response(findings, family, read_sweep(findings, family), looks, f"{key}-dose-{place}")
        for place, family in enumerate(swept)
    ]
    maps = [heatmap(findings, field, f"{key}-behaviors-{_word(field)}") for field in scored if field != "answered"]
    spread = [distribution(records, findings.arms, field, f"{key}-scores-{_word(field)}") for field in judged]
    drawn = [draws(findings, field, looks, f"{key}-draws-{_word(field)}") for field in scored if field != "answered"]
    return Figures(*(tuple(one for one in some if one is not None) for some in (trades, sweeps, maps, spread, drawn)))


def _word(field: str) -> str:
    return outcome(field).label.replace(" ", "-")
