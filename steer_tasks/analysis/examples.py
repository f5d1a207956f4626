"""The best and the worst answers of each arm beside their control's, chosen by a rule and not by hand."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.pooled import steered
from steer_tasks.analysis.record import Record
from steer_tasks.analysis.wording import NONE, level, outcome, signed

RULE = (
    "For each arm, the pair of answers whose change in behavior plus change in coherence is largest (best), and that "
    "where it is smallest (worst); where neither is scored, the change in accuracy decides. Of equal ones the first is "
    "taken, by the question's name."
)
SHOWN = 420
"""Characters of an answer before the fold."""
KEPT = 6000
"""Characters of an answer that the page holds at all."""
ASKED = 400
"""Characters of a question that are shown."""
ARMS = 12
"""Arms that examples are shown of, in their order."""

_SCORES = ("behavior_score", "coherence_score", "accuracy")


@dataclass(frozen=True)
class Side:
    """One answer as it is shown."""

    arm: str
    start: str
    rest: str
    left_out: int
    """Characters that the page doesn't hold."""
    scores: str


@dataclass(frozen=True)
class Example:
    """An arm's answer beside its control's."""

    arm: str
    kind: str
    """`best` or `worst`."""
    behavior: str | None
    question: str
    change: str
    control: Side
    steered: Side


def examples(findings: Findings, records: Sequence[Record]) -> tuple[Example, ...]:
    """The best and the worst pair of each arm that has pairs with answers and scores; one pair where all are alike."""
    controls: dict[tuple[object, ...], Record] = {}
    answers: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.completion is None:
            continue
        if record.arm == findings.control:
            controls.setdefault((*record.pair, record.sample_index), record)
            controls.setdefault(record.pair, record)
        else:
            answers[record.arm].append(record)
    found: list[Example] = []
    for arm in steered(findings)[:ARMS]:
        ranked = sorted(
            (
                (change, record.question, record.behavior or "", record.draw, record.sample_index, record, control)
                for record in answers[arm]
                if (control := _beside(record, controls)) and (change := _change(record, control)) is not None
            ),
            key=lambda one: one[:5],
        )
        if not ranked:
            continue
        worst = ranked[0]
        best = min((one for one in ranked if one[0] == ranked[-1][0]), key=lambda one: one[1:5])
        found.append(_example("best", best[5], best[6], best[0]))
        if worst[0] < best[0]:
            found.append(_example("worst", worst[5], worst[6], worst[0]))
    return tuple(found)


def _beside(record: Record, controls: Mapping[tuple[object, ...], Record]) -> Record | None:
    """The control's answer, of the same repeat where there is one; of no behavior where the control was run without."""
    for pair in (record.pair, ("", record.question)):
        if found := controls.get((*pair, record.sample_index)) or controls.get(pair):
            return found
    return None


def _change(record: Record, control: Record) -> float | None:
    judged = [
        ours - theirs
        for field in _SCORES[:2]
        if (ours := getattr(record, field)) is not None and (theirs := getattr(control, field)) is not None
    ]
    if judged:
        return float(sum(judged))
    if record.accuracy is None or control.accuracy is None:
        return None
    return record.accuracy - control.accuracy


def _example(kind: str, record: Record, control: Record, change: float) -> Example:
    return Example(
        record.arm, kind, record.behavior, asked(record), signed(change, 2), _side(control), _side(record)
    )  # fmt: skip


def asked(record: Record) -> str:
    """The question as it was put, or its name where the log has no messages; on one line, shortened."""
    put = [message.content for message in record.messages or () if message.role == "user"]
    text = " ".join((put[-1] if put else record.question).split())
    return text if len(text) <= ASKED else f"{text[: ASKED - 1]}…"


def _side(record: Record) -> Side:
    text = record.completion or ""
    cut = SHOWN if len(text) > SHOWN + 80 else len(text)
    scored = [(outcome(field).label, getattr(record, field)) for field in _SCORES]
    told = [f"{label} {level(value, 0 if value == int(value) else 2)}" for label, value in scored if value is not None]
    scores = " · ".join(told)
    return Side(record.arm, text[:cut], text[cut:KEPT], max(len(text) - KEPT, 0), scores or NONE)
