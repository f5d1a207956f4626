"""What all endpoints share: the model, the dictionary, and the terms on which edits are applied. No fastapi here."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model_adapters.backends.local.backend import LocalBackend
from model_adapters.controller import steering_of
from model_adapters.controller_json import index_of_id
from model_adapters.ember_service.identifiers import feature_id, feature_index, read_id
from model_adapters.ember_service.refusals import Unprocessable
from model_adapters.errors import SteerError
from model_adapters.features.dictionary import Dictionary
from model_adapters.features.resolution import resolve
from model_adapters.steering import CONTROL, Positions, Steering

KEPT_STEERINGS = 256
"""How many resolved steerings are kept; an experiment sends the same few controllers with every question."""


@dataclass(frozen=True)
class Steered:
    """A controller as it was sent, by feature, and as it runs, by vector."""

    source: Steering = CONTROL
    resolved: Steering = CONTROL


class EmberService:
    """One model and one dictionary, and how edits act: `layer`, `factor`, `positions`.

    What is None is as the dictionary has it. `names` are the models that requests may name; the first is the model's
    own. `features_per_token` bounds what compute-features lists for a token. Raises SteerError where the dictionary
    doesn't fit the model.
    """

    def __init__(
        self,
        backend: LocalBackend,
        dictionary: Dictionary,
        *,
        names: Sequence[str],
        layer: int | None = None,
        factor: float | None = None,
        positions: Positions = "response",
        features_per_token: int = 64,
    ) -> None:
        if not names:
            raise SteerError("the service has no model name to answer under; give at least one")
        if dictionary.d_model != backend.d_model:
            raise SteerError(
                f"dictionary {dictionary.name} has width {dictionary.d_model}, {names[0]} has {backend.d_model}; "
                "take a dictionary that was trained on this model"
            )
        self.backend, self.dictionary, self.names = backend, dictionary, tuple(dict.fromkeys(names))
        self.layer = dictionary.layer if layer is None else layer
        self.factor = dictionary.factor if factor is None else factor
        self.positions, self.features_per_token = positions, features_per_token
        for what, at in (("steers", self.layer), ("reads", dictionary.layer)):
            if not 0 <= at < backend.n_layers:
                raise SteerError(f"the service {what} at layer {at}; {names[0]} has layers 0 to {backend.n_layers - 1}")
        self._kept: OrderedDict[object, Steered] = OrderedDict()

    @property
    def system_fingerprint(self) -> str:
        """Everything but the controller that decides an answer, in one text."""
        return (
            f"model={self.backend.identity.digest};dictionary={self.dictionary.digest};layer={self.layer};"
            f"factor={self.factor:g};positions={self.positions}"
        )

    def check_model(self, name: str, *place: str) -> None:
        """Raise Unprocessable for a name that this service doesn't answer to."""
        if name not in self.names:
            known = ", ".join(self.names)
            problem = f"model {name[:200]!r} is not served here; this is {known}"
            raise Unprocessable(problem, *(place or ("body", "model")))

    def check_indices(self, indices: Sequence[int], *place: str) -> None:
        """Raise Unprocessable for an index that the dictionary doesn't have."""
        for index in indices:
            if index >= self.dictionary.n_features:
                raise Unprocessable(f"feature {index} is out of range; there are {self.dictionary.n_features}", *place)

    def index(self, identifier: str) -> int:
        """The feature that an id names. Raises SteerError."""
        bare = index_of_id(identifier)
        if bare is not None and bare < self.dictionary.n_features:
            return bare
        return feature_index(self.dictionary.digest, identifier, self.dictionary.n_features)

    def feature(self, index: int, relevance: float = 1.0) -> dict[str, Any]:
        """A feature as every endpoint writes it: both spellings of its id, because clients read one or the other.

        One without a label is called by its index, because clients need a text.
        """
        name = feature_id(self.dictionary.digest, index)
        return {
            "id": name,
            "uuid": name,
            "label": self.dictionary.labels.of(index),
            "index_in_sae": index,
            "relevance": float(relevance),
            "max_activation_strength": 1,
        }

    async def steered(self, controller: Mapping[str, Any] | None) -> Steered:
        """The steering that a controller means on this service's terms; None is the control.

        Raises Unprocessable for whatever can't be read or applied, and for features of another dictionary.
        """
        if controller is None:
            return Steered()
        try:
            self._check_features(controller, 0)
            source = steering_of(controller)
            key = (source.fingerprint, tuple(path[-1].event for path in source.events))
            if key not in self._kept:
                # The dictionary's file may have to be read.
                self._kept[key] = await asyncio.to_thread(self._resolved, source)
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT_STEERINGS:
                self._kept.popitem(last=False)
            return self._kept[key]
        except Unprocessable:
            raise
        except SteerError as problem:
            raise Unprocessable(str(problem), "body", "controller") from problem

    def _resolved(self, source: Steering) -> Steered:
        resolved = resolve(source, self.dictionary, layer=self.layer, factor=self.factor, positions=self.positions)
        if reasons := self.backend.refusals(resolved):
            raise SteerError("; ".join(reasons))
        return Steered(source, resolved)

    def _check_features(self, part: Any, depth: int) -> None:
        """Raise SteerError for a feature whose id is ours and says something else than its index."""
        if depth > 64:
            raise SteerError("the controller nests too deep; flatten it")
        if isinstance(part, Mapping):
            identifier, index = part.get("uuid", part.get("id")), part.get("index_in_sae")
            if index is not None and isinstance(identifier, str) and read_id(identifier) is not None:
                held = self.index(identifier)
                if held != index:
                    raise SteerError(f"feature id {identifier} is that of feature {held}, index_in_sae says {index}")
            inside: Any = part.values()
        else:
            inside = part if isinstance(part, list) else ()
        for one in inside:
            if isinstance(one, (Mapping, list)):
                self._check_features(one, depth + 1)
