"""The paper's rows beside ours, as tables."""

from collections.abc import Sequence

from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.pooled import mean, pooled
from steer_tasks.analysis.published import Difference, PublishedRow, paper
from steer_tasks.analysis.tables import Row, Table
from steer_tasks.analysis.wording import NONE, level, outcome, signed

_FIELDS = ("accuracy", "behavior_score", "coherence_score")


def beside_paper(findings: Findings) -> Table:
    """Our arms, then the paper's eight rows; changes are against the control of the same model."""
    rows = [Row((arm, findings.model, *_ours(findings, arm)), arm) for arm in findings.arms]
    for place, one in enumerate(paper().rows):
        rows.append(Row((one.arm, f"{one.model}, published", *_theirs(one)), rule=place % 4 == 0))
    head = ("arm", "model", "accuracy", "behavior", "coherence", "Δ accuracy", "Δ behavior", "Δ coherence", "answers")
    note = f"Δ: change against the control of the same model, of means. Published: {paper().source}. "
    return Table("Levels and changes", head, tuple(rows), note + " ".join(paper().caveats), frozenset({1}))


def _ours(findings: Findings, arm: str) -> tuple[str, ...]:
    means = [mean(findings, arm, field) for field in _FIELDS]
    shown = [level(one.estimate.value) if one and one.estimate else NONE for one in means]
    effects = [pooled(findings, arm, field) for field in _FIELDS]
    moved = [signed(one.estimate.value, outcome(one.outcome).decimals) if one else NONE for one in effects]
    answers = max((one.scored + one.missing for one in means if one), default=0)
    return (*shown, *moved, str(answers))


def _theirs(one: PublishedRow) -> tuple[str, ...]:
    control = next(row for row in paper().rows if row.model == one.model and row.method == "control")
    shown = [level(getattr(one, field)) for field in _FIELDS]
    moved = [
        NONE if one is control else signed(getattr(one, field) - getattr(control, field), outcome(field).decimals)
        for field in _FIELDS
    ]
    return (*shown, *moved, str(one.answers))


def differences_table(found: Sequence[Difference]) -> Table:
    """What differs in protocol."""
    rows = tuple(Row((one.what, one.theirs, one.ours)) for one in found)
    return Table("What differs from the study", ("what", "the study", "these logs"), rows, long=frozenset({1, 2}))
