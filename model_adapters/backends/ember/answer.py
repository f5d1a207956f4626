"""Answers of the Ember protocol, read: completions, logits, features and edits.

Each reader raises EmberError that names what is missing: such a service doesn't speak the protocol.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from model_adapters.backend import LayerDose, StopReason, SuggestedFeature
from model_adapters.backends.ember.call import EmberError, shortened
from model_adapters.steering import FeatureEdit

_STOPS: Mapping[Any, StopReason] = {"stop": "stop", "length": "max_tokens"}


@dataclass(frozen=True)
class ChatAnswer:
    """One chat answer. `steer` is what our own service adds: proof and fingerprints; None from any other."""

    text: str
    stop_reason: StopReason
    events: tuple[str, ...]
    tokens_in: int | None
    tokens_out: int | None
    steer: Mapping[str, Any] | None


@dataclass(frozen=True)
class ServiceFeature:
    """A feature as a service gives it; `uuid` dashed and lower-case where it is a UUID. `score` is its relevance."""

    index: int
    label: str
    uuid: str
    score: float = 1.0

    @property
    def suggested(self) -> SuggestedFeature:
        """The same as backends give it."""
        return SuggestedFeature(self.index, self.label, self.score)

    @property
    def note(self) -> dict[str, Any]:
        """The same as a steering's provenance keeps it."""
        return {"index": self.index, "label": self.label, "uuid": self.uuid}


def chat_answer(body: Any) -> ChatAnswer:
    """The answer in a chat body, streamed or not."""
    choices = needed(an_object(body, "the answer"), "choices", list, "the answer")
    if not choices:
        raise wrong("the answer's choices are empty")
    choice = an_object(choices[0], "choices[0]")
    message = an_object(choice.get("message"), "choices[0].message")
    text = needed(message, "content", str, "choices[0].message")
    events = body.get("gf_event_names") or []
    if not isinstance(events, list) or not all(isinstance(one, str) for one in events):
        raise wrong("gf_event_names is not a list of texts")
    usage = body["usage"] if isinstance(body.get("usage"), Mapping) else {}
    steer = body.get("steer")
    return ChatAnswer(
        text=text,
        stop_reason=_STOPS.get(choice.get("finish_reason"), "unknown"),
        events=tuple(events),
        tokens_in=_count(usage.get("prompt_tokens")),
        tokens_out=_count(usage.get("completion_tokens")),
        steer=steer if isinstance(steer, Mapping) else None,
    )


def touched(steer: Mapping[str, Any] | None) -> dict[str, Any]:
    """What our own service measured, as fields of a Proof; empty for any other service."""
    measured = steer.get("proof") if steer is not None else None
    if not isinstance(measured, Mapping):
        return {}
    doses = [one for one in measured.get("doses") or () if isinstance(one, Mapping) and "layer" in one]
    first = measured.get("first_response_token")
    return {
        "prompt_tokens_touched": _count(measured.get("prompt_tokens_touched")),
        "response_tokens_touched": _count(measured.get("response_tokens_touched")),
        "first_response_token": first if isinstance(first, bool) else None,
        "doses": tuple(LayerDose(one["layer"], one.get("dose"), one.get("first_position_dose")) for one in doses),
        "conditions_met": tuple(_count(one) or 0 for one in measured.get("conditions_met") or ()),
    }


def logits_answer(body: Any, vocabulary: Sequence[str]) -> dict[str, float]:
    """Logits of each text that was asked for, in that order."""
    logits = needed(an_object(body, "the answer"), "logits", dict, "the answer")
    if missing := [text for text in vocabulary if text not in logits]:
        raise wrong(f"there is no logit for {', '.join(map(repr, missing[:5]))}; each must be one token of the model")
    return {text: _number(logits[text], f"the logit of {text!r}") for text in vocabulary}


def features_answer(body: Any, key: str = "features") -> tuple[ServiceFeature, ...]:
    """The features under `key`, in the service's order."""
    listed = needed(an_object(body, "the answer"), key, list, "the answer")
    return tuple(feature(one, f"{key}[{number}]") for number, one in enumerate(listed))


def feature(given: Any, where: str) -> ServiceFeature:
    """One feature object: `index_in_sae`, `label`, and `id` or `uuid`."""
    held = an_object(given, where)
    index = held.get("index_in_sae")
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise wrong(f"{where}.index_in_sae is {index!r}")
    name = held.get("uuid", held.get("id"))
    if not isinstance(name, str):
        raise wrong(f"{where} has neither id nor uuid")
    label = held.get("label")
    relevance = held.get("relevance")
    score = 1.0 if relevance is None else _number(relevance, f"{where}.relevance")
    return ServiceFeature(index, label if isinstance(label, str) else "", _dashed(name), score)


def edits_answer(body: Any) -> tuple[tuple[ServiceFeature, float], ...]:
    """Automatic steering's edits: features and values, in the service's order; there may be none."""
    listed = needed(an_object(body, "the answer"), "edits", list, "the answer")
    found = []
    for number, pair in enumerate(listed):
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong(f"edits[{number}] is not a pair of feature and value")
        value = _number(pair[1], f"edits[{number}][1]")
        found.append((feature(pair[0], f"edits[{number}][0]"), value))
    return tuple(found)


def summed(edits: Sequence[tuple[ServiceFeature, float]]) -> tuple[FeatureEdit, ...]:
    """Nudges by index: values of one feature added up, sums of zero left out, in order of index."""
    values: dict[int, float] = {}
    for one, value in edits:
        values[one.index] = values.get(one.index, 0.0) + value
    return tuple(FeatureEdit(index, values[index]) for index in sorted(values) if values[index] != 0.0)


def wrong(what: str) -> EmberError:
    """The error of an answer that lacks something."""
    return EmberError(f"{what}; the service doesn't speak the Ember protocol as known: check the base URL")


def an_object(given: Any, where: str) -> Mapping[str, Any]:
    """`given`, if it is a JSON object."""
    if not isinstance(given, Mapping):
        raise wrong(f"{where} is {shortened(repr(given), 60)}, not an object")
    return given


def needed(held: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    """What `held` has under `key`, if it is of that kind."""
    if key not in held:
        raise wrong(f"{where} lacks {key!r}")
    if not isinstance(held[key], kind):
        raise wrong(f"{where}: {key!r} is {shortened(repr(held[key]), 60)}")
    return held[key]


def _number(given: Any, where: str) -> float:
    # An integer beyond what a float holds fails the comparison too.
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not abs(given) <= sys.float_info.max:
        raise wrong(f"{where} is {shortened(repr(given), 60)}, not a finite number")
    return float(given)


def _count(given: Any) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) and given >= 0 else None


def _dashed(name: str) -> str:
    try:
        return str(UUID(name))
    except ValueError:
        return name
