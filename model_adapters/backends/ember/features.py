"""What an Ember service finds by itself: features for a description, and edits for a behavior. The seam only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from model_adapters.backend import Messages, SuggestedEdits, SuggestedFeature
from model_adapters.backends.ember.answer import ServiceFeature, edits_answer, features_answer, summed
from model_adapters.backends.ember.call import ROOT, Asks, Call, EmberError
from model_adapters.backends.ember.disclosure import Disclosure
from model_adapters.backends.ember.request import get, messages_json, post
from model_adapters.behavior import Behavior

Read = TypeVar("Read")


class FindsFeatures:
    """Asks a service for features and edits; the part of its backend that answers no question."""

    def __init__(self, asks: Asks, model: str, disclosed: Disclosure) -> None:
        self.model, self.disclosed, self._asks = model, disclosed, asks
        self._ids: dict[int, str] = {}

    async def suggest_features(self, description: str, limit: int) -> tuple[SuggestedFeature, ...]:
        """The service's search over labels, best first."""
        query = {"query": description, "page": 1, "perPage": limit, "model": self.model}
        return _suggested(await self._features(get("/features/search", query)))

    async def suggest_edits(self, behavior: Behavior, draw: int) -> SuggestedEdits:
        """The service's automatic steering for a behavior; where it doesn't know draws, it chooses anew each time."""
        payload: dict[str, Any] = {"specification": behavior.text, "model": self.model}
        if self.disclosed.draws:
            payload["draw"] = draw
        call = post("/features/auto-edits", payload, fresh=not self.disclosed.draws)
        body = (await self._asks.ask(call)).body
        found = self._read(call, edits_answer, body)
        self._learn([one for one, _ in found])
        provenance: dict[str, Any] = {
            "service": self._asks.url,
            "specification": behavior.text,
            "draw": draw if self.disclosed.draws else None,
            "features": [{**one.note, "value": value} for one, value in found],
        }
        if isinstance(body.get("steer"), Mapping):
            provenance["found_by"] = dict(body["steer"])
        labels = {one.index: one.label for one, _ in found}
        return SuggestedEdits(summed(found), labels, self.disclosed.dictionary.get("digest"), provenance)

    async def neighbors(self, indices: Sequence[int], limit: int) -> tuple[SuggestedFeature, ...]:
        """Features nearest to the centroid of the given ones, nearest first."""
        payload = {"feature_indices": list(indices), "model": self.model, "top_k": limit}
        return _suggested(await self._features(post("/attributions/neighbors", payload), "neighbors"))

    async def lookup(self, indices: Sequence[int]) -> Mapping[int, ServiceFeature]:
        """Labels and ids of features by index; those the service doesn't know are left out."""
        found = await self._features(post("/features/lookup", {"indices": list(indices), "model": self.model}))
        return {one.index: one for one in found}

    async def rerank(self, query: str, indices: Sequence[int], limit: int) -> tuple[SuggestedFeature, ...]:
        """The given features ordered by how well their labels fit a text, best first."""
        unknown = [index for index in indices if index not in self._ids]
        if unknown:
            await self.lookup(unknown)
        if missing := [index for index in indices if index not in self._ids]:
            raise EmberError(f"{self._asks.url} knows no feature {missing[0]}; give indices of its own dictionary")
        names = [self._ids[index] for index in indices]
        payload = {"query": query, "top_k": limit, "model": self.model, "feature_ids": names}
        return _suggested(await self._features(post("/features/rerank", payload)))

    async def contrast(
        self, without: Sequence[Messages], with_behavior: Sequence[Messages], limit: int
    ) -> tuple[tuple[SuggestedFeature, ...], tuple[SuggestedFeature, ...]]:
        """Features that tell two lists of conversations apart: those of the first, those of the second."""
        payload = {
            "dataset_1": [messages_json(one) for one in without],
            "dataset_2": [messages_json(one) for one in with_behavior],
            "k_to_add": limit,
            "k_to_remove": limit,
            "model": self.model,
        }
        call = post("/chat-attribution/contrast", payload)
        body = (await self._asks.ask(call)).body
        first = self._read(call, lambda held: features_answer(held, "dataset_1_features"), body)
        second = self._read(call, lambda held: features_answer(held, "dataset_2_features"), body)
        self._learn([*first, *second])
        return _suggested(first), _suggested(second)

    async def _features(self, call: Call, key: str = "features") -> tuple[ServiceFeature, ...]:
        body = (await self._asks.ask(call)).body
        found = self._read(call, lambda held: features_answer(held, key), body)
        self._learn(found)
        return found

    def _learn(self, features: Sequence[ServiceFeature]) -> None:
        self._ids |= {one.index: one.uuid for one in features}

    def _read(self, call: Call, read: Callable[[Any], Read], body: Any) -> Read:
        try:
            return read(body)
        except EmberError as problem:
            raise EmberError(f"{call.method} {self._asks.url}{ROOT}{call.path}: {problem}", 200) from None


def _suggested(found: Sequence[ServiceFeature]) -> tuple[SuggestedFeature, ...]:
    return tuple(SuggestedFeature(one.index, one.label, one.score) for one in found)
