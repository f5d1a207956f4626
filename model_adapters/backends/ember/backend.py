"""Client of an Ember service, hosted or local: steered chat, logits, and what the service finds by itself. No torch."""

import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from model_adapters.backend import Completion, Message, Messages, Proof, ProofLevel, Request, check_applied
from model_adapters.backends.ember.answer import chat_answer, logits_answer, touched
from model_adapters.backends.ember.call import ROOT, Asks, Call
from model_adapters.backends.ember.cassette import Cassette, Exchange, Recorder
from model_adapters.backends.ember.disclosure import Disclosure, ask_disclosure, identity_of, mismatches
from model_adapters.backends.ember.features import FindsFeatures
from model_adapters.backends.ember.http import EmberHttp
from model_adapters.backends.ember.key import Key
from model_adapters.backends.ember.patience import Patience
from model_adapters.backends.ember.request import (
    CHAT,
    LOGITS,
    chat_payload,
    event_names,
    logits_payload,
    post,
    request_refusals,
)
from model_adapters.backends.ember.response import Answered
from model_adapters.controller import steering_of
from model_adapters.controller_json import controller_of, wire_refusals
from model_adapters.errors import NotApplied, Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, Steering

HOSTED = "https://api.goodfire.ai"
IN_PROCESS = "http://in-process"
"""Stands for the address of a service behind a given transport."""


class EmberBackend(FindsFeatures):
    """Runs steered chat requests on a service; `open_ember` makes one.

    Edits of features travel as a controller, SystemPrompts in the messages; nothing else is added to them. Proofs are
    `acknowledged` where a controller was sent; our own service's counts and doses are in them. Also finds features
    and edits, where the service does.
    """

    name = "ember"

    def __init__(
        self,
        asks: Asks,
        model: str,
        disclosed: Disclosure | None = None,
        *,
        stream: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        disclosed = disclosed or Disclosure()
        super().__init__(asks, model, disclosed)
        self._stream, self._recorder = stream, recorder
        self._identity = identity_of(asks.url, model, disclosed)

    @property
    def identity(self) -> ModelIdentity:
        """The service's address and model, and what it discloses of itself."""
        return self._identity

    def refusals(self, steering: Steering) -> list[str]:
        """Interventions a service can't do, and edits meant for another dictionary, layer, factor or positions."""
        reasons = wire_refusals(steering)
        for one in steering.interventions:
            reasons += mismatches(one, self.disclosed, self._asks.url)
        return list(dict.fromkeys(reasons))

    def payload(self, request: Request) -> dict[str, Any]:
        """The body that `complete` sends for a request, but for a fresh seed, which is null here. Raises Refused."""
        self._refuse(request_refusals(request) + self.refusals(request.steering))
        return chat_payload(request, self.model, stream=self._stream)

    async def complete(self, request: Request) -> Completion:
        """One answer. Raises Refused before anything is sent, EmberError when none came, NotApplied when unproved."""
        payload, sampling = self.payload(request), request.sampling
        fresh = not sampling.is_greedy and payload["seed"] is None
        if fresh:
            payload["seed"] = secrets.randbits(31)
        call = post(CHAT, payload, stream=self._stream, fresh=fresh)
        reply = await self._asks.ask(call)
        answer = self._read(call, chat_answer, reply.body)
        if answer.steer is None and "controller" in payload and self.disclosed:
            raise NotApplied(f"{self._asks.url} does not say that it applied the edits; the answer is withheld")
        proof = self._proof(request.steering, payload.get("controller"), answer.steer)
        # A replay answers with the events' names of the recorded request.
        names = zip(event_names(reply.asked.get("controller")), event_names(payload.get("controller")), strict=True)
        ours = {theirs: mine for theirs, mine in names if theirs is not None and mine is not None}
        events = tuple(ours[name] for name in answer.events if name in ours)
        return Completion(
            text=answer.text,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            stop_reason="interrupt" if events else answer.stop_reason,
            messages_sent=tuple(Message(one["role"], one["content"]) for one in payload["messages"]),
            proof=proof,
            seed=None if sampling.is_greedy else reply.asked.get("seed"),
            events=events,
        )

    async def logits(
        self, messages: Messages, vocabulary: Sequence[str], steering: Steering = CONTROL
    ) -> Mapping[str, float]:
        """Logits of the given token texts for the answer's first token, in their order."""
        self._refuse(self.refusals(steering))
        payload = logits_payload(messages, vocabulary, steering, self.model)
        call = post(LOGITS, payload)
        body = (await self._asks.ask(call)).body
        logits = self._read(call, lambda held: logits_answer(held, vocabulary), body)
        if isinstance(body.get("steer"), Mapping):
            self._proof(steering, payload.get("controller"), body["steer"])
        return logits

    def acknowledged(self, steering: Steering) -> Proof:
        """The proof that an answered request of this steering gives where the service measures nothing."""
        return self._proof(steering, controller_of(steering), None)

    async def aclose(self) -> None:
        """Close the connections and the cassette."""
        await self._asks.aclose()
        if self._recorder is not None:
            self._recorder.close()

    def _refuse(self, reasons: list[str]) -> None:
        if reasons:
            raise Refused("; ".join(dict.fromkeys(reasons)))

    def _proof(self, steering: Steering, controller: Any, steer: Mapping[str, Any] | None) -> Proof:
        """The proof of an answer. Raises NotApplied where our own service says that it applied something else."""
        sent = CONTROL if controller is None else steering_of(controller)
        if steer is not None and steer.get("source_fingerprint") != sent.fingerprint:
            raise NotApplied(
                f"edits {sent.fingerprint} were sent, {self._asks.url} applied {steer.get('source_fingerprint')}; "
                "the answer is withheld"
            )
        measured = touched(steer) if controller is not None else {}
        level: ProofLevel = "sent" if controller is None else "acknowledged"
        fingerprint = steering.fingerprint
        proof = Proof(level, fingerprint, self._identity.run(fingerprint), **measured)
        check_applied(steering, proof, self._identity)
        return proof


async def open_ember(
    model: str,
    *,
    base_url: str | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    record: str | Path | None = None,
    replay: str | Path | None = None,
    concurrency: int = 16,
    request_seconds: float = 900.0,
    attempt_seconds: float | None = None,
    run_seconds: float = math.inf,
    attempts: int = 8,
    first_wait: float = 1.0,
    longest_wait: float = 60.0,
    stream: bool = False,
) -> EmberBackend:
    """The backend of `model` on a service, after one request that asks what the service discloses of itself.

    The address is `base_url`, else `GOODFIRE_BASE_URL`, else the hosted one where a key is set; the key comes from
    `GOODFIRE_API_KEY` only. `transport` stands in for the network. `record` appends every exchange to a file,
    `replay` answers from one and connects to nothing. Times are those of `Patience`. Raises Refused for arguments
    that can't be, EmberError for a service that doesn't answer or doesn't serve the model.
    """
    if not model:
        raise Refused("no model is named; give the one that the service serves")
    if record is not None and replay is not None:
        raise Refused("record and replay exclude each other; give one of them")
    if concurrency < 1:
        raise Refused(f"concurrency is {concurrency}; it is at least 1")
    patience = Patience(
        attempts=attempts,
        first_wait=first_wait,
        longest_wait=longest_wait,
        request_seconds=request_seconds,
        attempt_seconds=attempt_seconds,
        run_seconds=run_seconds,
    )
    recorder = None
    asks: Asks
    if replay is not None:
        asks = Cassette(replay)
        if base_url is not None and service_address(base_url) != asks.url:
            raise Refused(f"{replay} was recorded from {asks.url}, not {service_address(base_url)}; leave the URL out")
    else:
        key = Key.from_environment()
        url = _address(base_url, key, transport)
        recorder = Recorder(record) if record is not None else None
        keep = None if recorder is None else _keeper(url, recorder)
        asks = EmberHttp(url, key, patience=patience, concurrency=concurrency, transport=transport, keep=keep)
    try:
        disclosed = await ask_disclosure(asks, model)
    except BaseException:
        await asks.aclose()
        if recorder is not None:
            recorder.close()
        raise
    return EmberBackend(asks, model, disclosed, stream=stream, recorder=recorder)


def service_address(text: str) -> str:
    """A base URL as it is kept: scheme, host, port and path, without the protocol's own path. Raises Refused."""
    try:
        url = httpx.URL(text.strip())
    except httpx.InvalidURL:
        raise Refused("the base URL can't be read; give one like https://host:port") from None
    if url.userinfo or url.query or url.fragment:
        raise Refused("the base URL holds a user, a query or a fragment; leave them out, the key has its own place")
    if url.scheme not in ("http", "https") or not url.host:
        raise Refused(f"base URL {text!r} is not one of HTTP; give one like https://host:port")
    return str(url).rstrip("/").removesuffix(ROOT).rstrip("/")


def _address(base_url: str | None, key: Key, transport: httpx.AsyncBaseTransport | None) -> str:
    given = base_url or (None if transport is not None else os.environ.get("GOODFIRE_BASE_URL"))
    if given:
        return service_address(given)
    if transport is not None:
        return IN_PROCESS
    if not key:
        raise Refused("neither GOODFIRE_API_KEY nor a base URL is set; set one, or start a service with `steer serve`")
    return HOSTED


def _keeper(url: str, recorder: Recorder) -> Callable[[Call, Answered], None]:
    def keep(call: Call, answered: Answered) -> None:
        final = answered.passing is None
        about = (answered.location, answered.wrong, final)
        recorder.keep(Exchange(url, call, answered.status, answered.body, *about))

    return keep
