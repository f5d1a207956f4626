"""A backend behind a response store: what was answered before is not asked again. The seam, pydantic and diskcache."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, TypeVar

from pydantic import TypeAdapter

from model_adapters.backend import (
    Backend,
    Completion,
    Likelihood,
    Prompt,
    Request,
    ScoresText,
    Text,
    check_applied,
)
from model_adapters.backends.response_store import ResponseStore
from model_adapters.identity import ModelIdentity
from model_adapters.steering import Steering

FORM = 1
"""Of keys and values; another number means that no older entry is found."""

Answer = TypeVar("Answer", Completion, Likelihood)

COMPLETIONS = TypeAdapter(Completion)
LIKELIHOODS = TypeAdapter(Likelihood)


def completion_key(request: Request, identity: ModelIdentity) -> str | None:
    """What the answer to a request is kept by; None for one that is never kept.

    Those are samples without a seed, which must differ from each other, and answers to a steering with events, whose
    names are no content.
    """
    sampling = request.sampling
    if request.steering.events or (not sampling.is_greedy and sampling.seed is None):
        return None
    index = None if sampling.is_greedy else request.sample_index
    return _key(
        "completion", request.steering, identity, _prompt(request.prompt), sampling=asdict(sampling), sample_index=index
    )


def score_key(prompt: Prompt, continuation: str | Sequence[int], steering: Steering, identity: ModelIdentity) -> str:
    """What the likelihood of a continuation is kept by."""
    scored = continuation if isinstance(continuation, str) else list(map(int, continuation))
    return _key("score", steering, identity, _prompt(prompt), continuation=scored)


def divergence_key(prompt: Prompt, answer: str | Sequence[int], steering: Steering, identity: ModelIdentity) -> str:
    """What the divergence of a steering from the control on an answer is kept by."""
    said = answer if isinstance(answer, str) else list(map(int, answer))
    return _key("divergence", steering, identity, _prompt(prompt), continuation=said)


def rolling_key(text: str, steering: Steering, identity: ModelIdentity) -> str:
    """What the likelihood of a whole text is kept by."""
    return _key("rolling", steering, identity, text)


def _key(kind: str, steering: Steering, identity: ModelIdentity, prompt: object, **asked: object) -> str:
    content = {"form": FORM, "kind": kind, "run": identity.run(steering.fingerprint), "prompt": prompt, **asked}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _prompt(prompt: Prompt) -> object:
    if isinstance(prompt, Text):
        return {"text": prompt.text, "entered": [[one.text, one.placement] for one in prompt.entered]}
    return [[message.role, message.content] for message in prompt]


class Stored:
    """A backend whose completions are kept in a store, with their proofs, and come out of it marked `stored`.

    Keys hold the whole request and the run identity, so another model, steering or package version finds nothing.
    Samples are kept by seed and index; of those that are alike in all of it, the nth of a run is given what the nth of
    an earlier one was, so that two samples stay two.
    """

    def __init__(self, backend: Backend, store: ResponseStore) -> None:
        self.backend, self.store, self.name = backend, store, backend.name

    @property
    def identity(self) -> ModelIdentity:
        """The backend's."""
        return self.backend.identity

    def refusals(self, steering: Steering) -> list[str]:
        """The backend's."""
        return self.backend.refusals(steering)

    async def complete(self, request: Request) -> Completion:
        """The kept answer, or the backend's, which is kept then."""
        key = completion_key(request, self.identity)
        if key is None:
            return await self.backend.complete(request)
        if not request.sampling.is_greedy:
            key = f"{key} {self.store.occurrence(key)}"
        return await self._kept(key, COMPLETIONS, request.steering, partial(self.backend.complete, request))

    async def _kept(
        self, key: str, form: "TypeAdapter[Answer]", steering: Steering, ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        def read(value: Any) -> Answer:
            kept = form.validate_python(value)
            check_applied(steering, kept.proof, self.identity)
            return replace(kept, stored=True)

        kept: Answer | None = await self.store.get(key, read)
        if kept is not None:
            return kept
        answer = await ask()
        await self.store.put(key, asdict(answer))
        return answer

    async def aclose(self) -> None:
        """Close the store and the backend."""
        self.store.close()
        await self.backend.aclose()


class StoredTexts(Stored):
    """The same for a backend that scores texts."""

    backend: Any

    async def score(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Likelihood:
        """The kept likelihood of `continuation` after `prompt`, or the backend's, which is kept then."""
        key = score_key(prompt, continuation, steering, self.identity)
        ask = partial(self.backend.score, prompt, continuation, steering)
        return await self._kept(key, LIKELIHOODS, steering, ask)

    async def score_rolling(self, text: str, steering: Steering) -> Likelihood:
        """The kept likelihood of a whole text, or the backend's, which is kept then."""
        key = rolling_key(text, steering, self.identity)
        return await self._kept(key, LIKELIHOODS, steering, partial(self.backend.score_rolling, text, steering))


def stored(backend: Any, store: ResponseStore | None) -> Any:
    """The backend behind a store; the backend itself where there is none."""
    if store is None:
        return backend
    kind = StoredTexts if isinstance(backend, ScoresText) else Stored
    return kind(backend, store)
