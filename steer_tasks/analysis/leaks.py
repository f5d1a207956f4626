"""Arms whose messages carry another arm's prompt, as one arm of the study's data does."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from model_adapters.behavior import behavior_slugs, find_behavior
from steer_tasks.analysis.findings import Leak
from steer_tasks.analysis.record import Record

PLACE = "{behavior}"
"""Stands for the behavior's text in a prompt."""


def leaks(records: Sequence[Record]) -> tuple[Leak, ...]:
    """Leaks of prompts between the arms of one model, by arm and in order of appearance.

    A prompt is a system prompt of an arm that is meant to ask for the behavior in words. An arm carries it where a
    system message of its answers holds it, the behavior filled in, and it isn't the arm's own. An arm to which its
    protocol adds the sentence, as `as_run` does on purpose, carries it too; such a leak is marked as asked for.
    """
    prompts = _prompts(records)
    found: defaultdict[tuple[str, str, str, bool], int] = defaultdict(int)
    answers: defaultdict[str, int] = defaultdict(int)
    for record in records:
        answers[record.arm] += record.messages is not None
        for other, prompt in _carried(record, prompts):
            found[record.arm, other, prompt, record.prompted_by == "protocol"] += 1
    return tuple(
        Leak(arm, other, count, answers[arm], prompt, asked) for (arm, other, prompt, asked), count in found.items()
    )


def _prompts(records: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """The prompts of each arm that is meant to have some, with `{behavior}` in the place of the behavior's text.

    Of arms that say the same only one is named, one of simple prompting where there is one: that is where the sentence
    comes from.
    """
    found: dict[str, dict[str, None]] = {}
    known: set[str] = set()
    for record in sorted(records, key=lambda one: one.method != "prompt"):
        if record.prompted_by != "arm":
            continue
        for prompt in record.prompts or ():
            made = _template(prompt, record.behavior)
            mine = found.setdefault(record.arm, {})
            if made.strip() and made not in known:
                known.add(made)
                mine[made] = None
    return {arm: tuple(held) for arm, held in found.items() if held}


def _template(prompt: str, behavior: str | None) -> str:
    text = _text(behavior)
    return prompt.replace(text, PLACE) if text else prompt


@cache
def _texts() -> Mapping[str, str]:
    return {slug: find_behavior(slug).text for slug in behavior_slugs()}


def _text(behavior: str | None) -> str | None:
    return None if behavior is None else _texts().get(behavior, behavior)


def _carried(record: Record, prompts: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    """Arm and prompt of other arms' prompts that a record's system messages hold and that aren't the record's own."""
    said = [message.content for message in record.messages or () if message.role == "system"]
    own = (record.prompts or ()) if record.prompted_by == "arm" else ()
    text = _text(record.behavior)
    leaked = False
    for other, held in prompts.items():
        if other == record.arm:
            continue
        for prompt in held:
            filled = prompt.replace(PLACE, text) if text else prompt
            if any(filled in content for content in said) and not any(filled in one for one in own):
                leaked = True
                yield other, prompt
    if not leaked and record.prompted_by == "protocol":
        for prompt in record.prompts or ():
            yield f"the protocol {record.protocol}", _template(prompt, record.behavior)
