"""A log and its retries: Inspect takes finished samples over into the log of a retry, so that they stand in both."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from steer_tasks.analysis.record import Log, Record


def without_retried(logs: Sequence[Log]) -> tuple[Log, ...]:
    """The logs, each sample of a task only in the latest log that has an answer to it.

    A log whose samples a later one took over says so in its remarks. Logs of one task share its `task_id`.
    """
    groups: defaultdict[str, list[Log]] = defaultdict(list)
    for log in logs:
        if log.source.task_id is not None:
            groups[log.source.task_id].append(log)
    changed: dict[int, Log] = {}
    for group in groups.values():
        taken: dict[tuple[str | None, str, int], Log] = {}
        for log in sorted(group, key=lambda one: one.source.started or "", reverse=True):
            kept = [record for record in log.records if _place(record) not in taken]
            if later := {taken[_place(record)].source.path for record in log.records if _place(record) in taken}:
                names = ", ".join(sorted(Path(path).name for path in later))
                said = f"{len(log.records) - len(kept)} of its samples are taken from {names}, its retry or copy"
                changed[id(log)] = Log(replace(log.source, remarks=(*log.source.remarks, said)), tuple(kept))
            taken |= {_place(record): log for record in kept if record.completion is not None}
    return tuple(changed.get(id(log), log) for log in logs)


def _place(record: Record) -> tuple[str | None, str, int]:
    return record.behavior, record.question, record.sample_index
