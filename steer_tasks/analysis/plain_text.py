"""Text that every format can hold. Models and command lines give lone surrogates, which UTF-8 can't encode."""

from dataclasses import replace
from typing import Any

from steer_tasks.analysis.record import Log, Message, Record


def is_plain(text: str) -> bool:
    """Whether UTF-8 can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def plain(text: str) -> str:
    """The text with each lone surrogate written out, as `\\\\udc80`."""
    return text.encode("utf-8", "backslashreplace").decode()


def plain_log(log: Log) -> tuple[Log, int]:
    """The log with plain texts only, and how many of its records had others; a remark says so."""
    records = tuple(map(_plain_record, log.records))
    changed = sum(new is not old for new, old in zip(records, log.records, strict=True))
    if not changed:
        return log, 0
    said = f"{changed} records held lone surrogates, which are written out, as \\udc80"
    return Log(replace(log.source, remarks=(*log.source.remarks, said)), records), changed


def _plain_record(record: Record) -> Record:
    changed = {name: made for name, value in vars(record).items() if (made := _plain(value)) is not value}
    return replace(record, **changed) if changed else record


def _plain(value: Any) -> Any:
    """The value with plain texts; the value itself where it has no others."""
    match value:
        case str():
            return value if is_plain(value) else plain(value)
        case Message():
            role, content = _plain(value.role), _plain(value.content)
            return value if role is value.role and content is value.content else Message(role, content)
        case tuple():
            made = tuple(map(_plain, value))
            return value if all(new is old for new, old in zip(made, value, strict=True)) else made
        case dict():
            pairs = {_plain(key): _plain(held) for key, held in value.items()}
            return value if list(pairs) == list(value) and all(pairs[key] is value[key] for key in value) else pairs
        case _:
            return value
