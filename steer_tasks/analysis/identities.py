"""Logs of one model's name that aren't of one model: other weights, another dtype, another backend."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from steer_tasks.analysis.record import Log

TOLD = ("model_digest", "revision", "dtype", "backend", "url")
"""Parts of an identity in which two logs of one model may differ so that answers can't be compared as they are."""


def with_identity_remarks(logs: Sequence[Log]) -> tuple[Log, ...]:
    """The logs, those that differ from an earlier log of the same model's name with a remark that says in what."""
    first: defaultdict[str, dict[str, tuple[object, str]]] = defaultdict(dict)
    found = []
    for log in logs:
        models = dict.fromkeys(record.model for record in log.records)
        said = [one for model in models for one in _differing(log, first[model])]
        remarks = (*log.source.remarks, *said)
        # An export already has the remark.
        found.append(Log(replace(log.source, remarks=tuple(dict.fromkeys(remarks))), log.records) if said else log)
    return tuple(found)


def _differing(log: Log, first: dict[str, tuple[object, str]]) -> list[str]:
    said = []
    identity: Mapping[str, object] = log.source.identity
    for name in TOLD:
        if (value := identity.get(name)) is None:
            continue
        known, path = first.setdefault(name, (value, log.source.path))
        if known != value:
            said.append(f"the model's {name} is {value} here and {known} in {path}")
    return said
