"""Edits and conditions by index, made vectors: what a dictionary is needed for, once. numpy only."""

from collections.abc import Iterable
from typing import Any

from model_adapters.errors import SteerError
from model_adapters.features.dictionary import Dictionary
from model_adapters.steering import (
    AddVector,
    AllOf,
    AnyOf,
    ClampFeature,
    Compare,
    Condition,
    EditFeatures,
    FeatureCompare,
    Positions,
    Reading,
    Steering,
    When,
)

POSITIONS: Positions = "response"
"""Where edits act that don't say; the hosted service never published its own."""


def resolve(
    steering: Steering,
    dictionary: Dictionary,
    *,
    layer: int | None = None,
    factor: float | None = None,
    positions: Positions | None = None,
) -> Steering:
    """The same steering without indices; it then runs without the dictionary.

    A nudge becomes an AddVector of the feature's decoder with coefficient factor * value, a pin a ClampFeature to
    factor * value, a comparison one of readings (any feature of a group may meet it). Both leave what the dictionary
    doesn't explain as it is. `layer`, `factor` and `positions` are the edit's own, else the arguments, else the
    dictionary's; readings always use the dictionary's layer. Under `topk:K` a pin and a condition read
    relu(encoder · h + bias), which is the feature's activation wherever it is among the K largest. Provenance gains
    `source_fingerprint`, `features` and `dictionary`. Raises SteerError for indices of another dictionary or out of
    range.
    """
    if not steering.needs_dictionary:
        return steering
    work = _Resolution(dictionary, layer, factor, positions)
    made = tuple(one for part in steering.interventions for one in work.intervention(part))
    return Steering(made, steering.provenance).described(
        source_fingerprint=steering.fingerprint, features=work.features, dictionary=dictionary.described()
    )


class _Resolution:
    """One resolution, and the features it met."""

    def __init__(
        self, dictionary: Dictionary, layer: int | None, factor: float | None, positions: Positions | None
    ) -> None:
        self.dictionary, self.layer, self.factor, self.positions = dictionary, layer, factor, positions
        self.features: list[dict[str, Any]] = []

    def intervention(self, one: Any) -> Iterable[Any]:
        match one:
            case EditFeatures():
                yield from self._edits(one)
            case When():
                inside = tuple(made for part in one.interventions for made in self.intervention(part))
                yield When(self._condition(one.condition), inside, one.moment, one.event)
            case _:
                yield one

    def _edits(self, one: EditFeatures) -> Iterable[AddVector | ClampFeature]:
        self._check(one.dictionary)
        layer = _first(one.layer, self.layer, self.dictionary.layer)
        factor = _first(one.factor, self.factor, self.dictionary.factor)
        positions = one.positions or self.positions or POSITIONS
        rows = self.dictionary.rows([edit.index for edit in one.edits])
        for place, edit in enumerate(one.edits):
            decoder, size = rows.decoder[place], factor * edit.value
            self.features.append(
                {
                    "index": edit.index,
                    "label": self.dictionary.labels.of(edit.index),
                    "value": edit.value,
                    "mode": edit.mode,
                    "decoder_norm": float(rows.decoder_norms[place]),
                }
            )
            if edit.mode == "nudge":
                yield AddVector(layer, decoder, size, positions)
            else:
                yield ClampFeature(layer, rows.encoder[place], float(rows.bias[place]), decoder, size, positions)

    def _condition(self, one: Condition) -> Condition:
        match one:
            case AllOf() | AnyOf():
                return type(one)(tuple(map(self._condition, one.conditions)))
            case FeatureCompare():
                return self._comparison(one)
            case _:
                return one

    def _comparison(self, one: FeatureCompare) -> Condition:
        self._check(one.dictionary)
        factor = _first(one.factor, self.factor, self.dictionary.factor)
        layer = _first(one.layer, self.dictionary.layer)
        left = self._readings(one.left, layer)
        right = self._readings(one.right, layer) if isinstance(one.right, tuple) else [factor * one.right]
        pairs = tuple(Compare(mine, one.operator, other) for mine in left for other in right)
        return pairs[0] if len(pairs) == 1 else AnyOf(pairs)

    def _readings(self, indices: tuple[int, ...], layer: int) -> list[Reading]:
        rows = self.dictionary.rows(indices)
        return [Reading(layer, encoder, float(bias)) for encoder, bias in zip(rows.encoder, rows.bias, strict=True)]

    def _check(self, digest: str | None) -> None:
        if digest is not None and digest != self.dictionary.digest:
            raise SteerError(
                f"the indices are of dictionary {digest}, {self.dictionary.name} is {self.dictionary.digest}; "
                "resolve with the dictionary they were found in"
            )


def _first(*given: Any) -> Any:
    return next(one for one in given if one is not None)
