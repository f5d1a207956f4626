"""Feature search: a model picks edits among the features whose labels fit a behavior."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from model_adapters.backend import Message, Request, Sampling, SuggestedFeature, SuggestsFeatures
from model_adapters.behavior import Behavior
from model_adapters.errors import Refused, SteerError
from model_adapters.method import Context
from model_adapters.steering import EditFeatures, FeatureEdit, Steering

FOUND, PICKED, LARGEST = 10, 3, 0.6
"""Features offered, features picked at most, and the largest value either way: as arXiv:2602.04903 ran it."""

REPLY_TOKENS = 200

ASK = """You choose how to steer a language model. It should: {behavior}.

These features of the model can be turned up or down:
{features}

Choose at most {most} features that help most, and a value for each: above 0 turns it up, below 0 turns it down, from \
-{largest} to {largest}. Answer with JSON only, like this: [{{"index": {example}, "value": 0.4}}]"""

REMIND = """That could not be used: {problem}. Answer with a JSON list only, such as \
[{{"index": {example}, "value": 0.4}}]; indices from the list above, values from -{largest} to {largest}."""


@dataclass(frozen=True)
class FeatureSearch:
    """Ten features are found by their labels; a model picks at most three and their values.

    The model is the writer where there is one, else the target itself, unsteered; it samples at temperature 0.6,
    seeded by the draw. A reply that can't be used is asked for once more, then it is an error: nothing is guessed.
    """

    name: ClassVar[str] = "feature_search"

    async def prepare(self, behavior: Behavior, context: Context) -> Steering:
        """One EditFeatures. Raises Refused without a service or a dictionary, SteerError for an unusable reply."""
        offered, dictionary = await self._offered(behavior, context)
        if not offered:
            raise Refused(f"feature_search: no label fits {behavior.text!r}; use auto_steer, or name features")
        edits, replies = await _picked(behavior, offered, context)
        labels = {one.index: one.label for one in offered}
        notes = [{"index": one.index, "label": labels[one.index], "value": one.value} for one in edits]
        described = {"features": notes, "offered": [one.index for one in offered], "replies": replies}
        return Steering((EditFeatures(edits, dictionary),), described)

    async def _offered(self, behavior: Behavior, context: Context) -> tuple[list[SuggestedFeature], str | None]:
        if isinstance(context.backend, SuggestsFeatures):
            found = await context.backend.suggest_features(behavior.text, FOUND)
            return list(found), context.backend.identity.dictionary_digest
        if context.dictionary is None:
            raise Refused(
                f"method {self.name} needs a dictionary of features; give dictionary=… (`demo` for the embedded model)"
            )
        labels = context.dictionary.labels
        pairs = labels.search(behavior.text, FOUND)
        return [SuggestedFeature(index, labels.of(index), score) for index, score in pairs], context.dictionary.digest


async def _picked(
    behavior: Behavior, offered: Sequence[SuggestedFeature], context: Context
) -> tuple[tuple[FeatureEdit, ...], list[str]]:
    asked = context.writer or context.backend
    listed = "\n".join(f"{one.index}: {one.label}" for one in offered)
    example = offered[0].index
    question = ASK.format(behavior=behavior.text, features=listed, most=PICKED, largest=LARGEST, example=example)
    messages = [Message("user", question)]
    replies: list[str] = []
    problem = ""
    for attempt in range(2):
        sampling = Sampling(max_tokens=REPLY_TOKENS, temperature=0.6, top_p=0.9, seed=context.draw)
        answer = await asked.complete(Request(tuple(messages), sampling=sampling, sample_index=attempt))
        replies.append(answer.text)
        try:
            return parse_reply(answer.text, [one.index for one in offered]), replies
        except SteerError as found:
            problem = str(found)
        reminder = REMIND.format(problem=problem, largest=LARGEST, example=example)
        messages += [Message("assistant", answer.text or "(nothing)"), Message("user", reminder)]
    raise SteerError(
        f"feature_search: {asked.identity.name} gave no usable choice in two replies ({problem}); "
        "use another draw, or a larger model as the writer"
    )


def parse_reply(reply: str, offered: Sequence[int]) -> tuple[FeatureEdit, ...]:
    """The edits in a reply: its first JSON list of `{"index", "value"}`, whatever stands around it.

    Raises SteerError, saying why, for no such list, more than three, an index twice or not offered, and a value that
    is 0 or outside [-0.6, 0.6].
    """
    rows = _first_list(reply)
    if rows is None:
        raise SteerError("there is no JSON list of objects in it")
    if not 1 <= len(rows) <= PICKED:
        raise SteerError(f"it has {len(rows)} features, not 1 to {PICKED}")
    edits = tuple(_edit(row, offered) for row in rows)
    if len({edit.index for edit in edits}) < len(edits):
        raise SteerError("a feature is in it twice")
    return edits


def _first_list(reply: str) -> list[dict[str, Any]] | None:
    decoder = json.JSONDecoder()
    for start in re.finditer(r"\[", reply):
        try:
            found, _ = decoder.raw_decode(reply, start.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, list) and all(isinstance(one, dict) for one in found):
            return found
    return None


def _edit(row: dict[str, Any], offered: Sequence[int]) -> FeatureEdit:
    index, value = row.get("index"), row.get("value")
    if isinstance(index, bool) or not isinstance(index, int) or index not in offered:
        raise SteerError(f"index {str(index)[:20]} is not in the list")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < abs(value) <= LARGEST:
        raise SteerError(f"value {str(value)[:20]} is not a number from -{LARGEST} to {LARGEST}, other than 0")
    return FeatureEdit(index, float(value))
