"""What a reader must know before any number: leaks, stand-ins, mixed protocols, missing scores."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steer_tasks.analysis.findings import Findings
from steer_tasks.analysis.record import Log, Record, Source
from steer_tasks.analysis.wording import counted, listed, outcome, share

MANY_MISSING = 0.05
"""Share of an arm's scores that may be missing before the report says so on top."""

EMBEDDED = "SmolLM2-135M-Instruct, 135M parameters"

Tone = Literal["grave", "note"]


@dataclass(frozen=True)
class Flag:
    """One thing to know first."""

    tone: Tone
    title: str
    text: str


def flags_of(findings: Findings, logs: Sequence[Log]) -> tuple[Flag, ...]:
    """Of findings and the logs they rest on, the gravest first."""
    records = [record for log in logs for record in log.records]
    sources = [log.source for log in logs]
    found = [*_leaks(findings), *_alone(findings), *_stand_ins(findings, sources), *_mixed(sources, records)]
    found += [*_constant(findings, records), *_missing(findings), *_unpaired(findings), *_remarks(sources)]
    return tuple(sorted(found, key=lambda flag: flag.tone != "grave"))


def _leaks(findings: Findings) -> list[Flag]:
    return [
        Flag(
            "grave",
            f"{leak.arm} carries the prompt of the arm {leak.other}",
            f"{leak.answers:,} of {counted(leak.of, 'answer')} were asked with {_quoted(leak.prompt)}. Its change is "
            "that of both together; what its steering alone would do, these answers can't say."
            + (" Its protocol asks for it, to repeat what the study ran." if leak.asked else ""),
        )
        for leak in findings.leaks
    ]


def _alone(findings: Findings) -> list[Flag]:
    if len(findings.arms) > 1:
        return []
    text = f"The logs hold {findings.control} only, so nothing was compared: below are its own levels."
    return [Flag("grave", "One arm only", text)]


def _stand_ins(findings: Findings, sources: Sequence[Source]) -> list[Flag]:
    found = []
    if "stand_in" in findings.model:
        found.append(Flag("grave", "No model", "The answers are a stand-in's. Its numbers mean nothing."))
    elif is_embedded(findings.model):
        text = f"The answers are the embedded model's ({EMBEDDED}): a small model that shows that the way works."
        found.append(Flag("note", "Embedded model", f"{text} Its numbers say nothing about large models."))
    if any("stand_in" in (source.judge or "") for source in sources):
        text = "Behavior and coherence were scored by the stand-in judge. Those scores mean nothing."
        found.append(Flag("grave", "No judge", text))
    return found


def is_embedded(model: str) -> bool:
    """Whether a model's name means the one that travels in a wheel."""
    return model.rsplit("/", 1)[-1] == "embedded"


def _mixed(sources: Sequence[Source], records: Sequence[Record]) -> list[Flag]:
    found = []
    said = {"protocols": [_canonical(source.protocol) for source in sources if source.protocol]}
    said["judges"] = [source.judge for source in sources if source.judge]
    said["rubrics"] = [_canonical(source.rubrics) for source in sources if source.rubrics]
    said["question sets"] = [str(one) for source in sources if (one := source.questions.get("digest"))]
    for word, values in said.items():
        if (kinds := len(set(values))) > 1:
            text = f"The logs were made with {kinds} different {word}; the table of logs below says which had which."
            found.append(Flag("grave", f"Mixed {word}", text))
    levels = {record.proof for record in records}
    if levels == {None}:
        found.append(Flag("note", "No proof", "The logs hold no proof that any steering was applied."))
    elif None in levels:
        count = sum(record.proof is None for record in records)
        text = f"{counted(count, 'answer')} carry no proof that their steering ran, others do."
        found.append(Flag("note", "Partly unproved", text))
    return found


def _canonical(value: Mapping[str, object]) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _constant(findings: Findings, records: Sequence[Record]) -> list[Flag]:
    found = []
    for one in dict.fromkeys(mean.outcome for mean in findings.means if mean.estimate is not None):
        values = {value for record in records if (value := getattr(record, one, None)) is not None}
        if len(values) == 1 and sum(getattr(record, one, None) is not None for record in records) > 1:
            text = f"Every score of {outcome(one).label} is {next(iter(values)):g} in every arm: nothing to test."
            found.append(Flag("note", f"Constant {outcome(one).label}", text))
    return found


def _missing(findings: Findings) -> list[Flag]:
    found, none, reasons = [], [], dict[str, None]()
    for field in dict.fromkeys(mean.outcome for mean in findings.means):
        means = [mean for mean in findings.means if mean.outcome == field and mean.missing]
        if len([mean for mean in means if not mean.scored]) == len(findings.arms):
            none.append(outcome(field).label)
            reasons.update(dict.fromkeys(reason for mean in means for reason in mean.reasons))
            continue
        many = [mean for mean in means if mean.missing > MANY_MISSING * (mean.missing + mean.scored)]
        if many:
            told = listed([f"{mean.arm} {share(mean.missing / (mean.missing + mean.scored))}" for mean in many])
            text = f"{told}. What they could change at most is in the section on missing data."
            found.append(Flag("grave", f"Missing scores of {outcome(field).label}", text))
    if none:
        text = f"Not one answer has any: {'; '.join(reasons) or 'no reason given'}."
        found.append(Flag("note", f"No scores of {listed(none)}", text))
    return found


def _unpaired(findings: Findings) -> list[Flag]:
    count = sum(one.count for one in findings.unpaired)
    if not count:
        return []
    text = "They are listed under missing data and are in no difference."
    return [Flag("note", f"{counted(count, 'answer')} without a pair", text)]


def _remarks(sources: Sequence[Source]) -> list[Flag]:
    return [
        Flag("note", Path(source.path).name, f"{remark[:1].upper()}{remark[1:]}.")
        for source in sources
        for remark in source.remarks
    ]


def _quoted(prompt: str) -> str:
    short = " ".join(prompt.split())
    return f"“{short if len(short) <= 160 else short[:159] + '…'}”"
