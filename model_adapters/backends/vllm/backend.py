"""The vLLM backend: requests with their own steering, run by a server that we are a client of. No torch here."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from model_adapters.backend import (
    Completion,
    Likelihood,
    Messages,
    Prompt,
    Proof,
    Request,
    StopReason,
    Text,
    prompt_refusals,
)
from model_adapters.backends.encoding import Encoding
from model_adapters.backends.passage import Scored, rolling_windows
from model_adapters.backends.vllm.probe import Probe
from model_adapters.backends.vllm.server import Lost, VllmServer
from model_adapters.backends.vllm.vectors import added, steering_vectors, unsupported
from model_adapters.errors import NotApplied, Refused, SteerError
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, Steering

SEEDS = 2**31
"""vLLM takes seeds below 2^63; these fit every sampler behind it."""

WAITS_S = (0.5, 2.0, 8.0)
"""Pauses before a request that was lost is asked again. A server that is gone for longer ends the run, which goes on
when it is started again."""

Answer = TypeVar("Answer")


class VllmBackend:
    """Runs steered requests on a vLLM server with the plugin vllm-lens; `open_vllm` makes one and probes the server.

    Added vectors and SystemPrompts only. Prompts are rendered and tokenized here and sent as token ids, so that what
    is steered is counted on the tokens that the model reads. Requests of one steering share a prefix cache on the
    server, of two never. Proofs are `probed`: every steering's layers are probed before its first answer, and again
    after a connection was lost, as the server may have been started anew.
    """

    name = "vllm"

    def __init__(
        self,
        server: VllmServer,
        encoding: Encoding,
        probe: Probe,
        *,
        served_as: str,
        shape: tuple[int, int],
        max_length: int,
        identity: ModelIdentity,
    ) -> None:
        self.server, self.encoding, self.served_as, self.max_length = server, encoding, served_as, max_length
        self.n_layers, self.d_model = shape
        self._probe, self._identity = probe, identity
        self._proved: dict[tuple[str, int], asyncio.Task[None]] = {}

    @property
    def identity(self) -> ModelIdentity:
        """The server's address and model, its version, and the template that prompts are rendered with."""
        return self._identity

    @property
    def has_template(self) -> bool:
        """Whether messages can be sent."""
        return self.encoding.has_template

    def render(self, messages: Messages) -> str:
        """The conversation as the model will read it, ending where the assistant's turn begins."""
        return self.encoding.render(messages)

    def refusals(self, steering: Steering) -> list[str]:
        """Whatever is not an added vector or a prompt, layers out of range, and vectors of the wrong width."""
        reasons = unsupported(steering)
        for name, layer, vector in steering.sites:
            if layer >= self.n_layers:
                reasons.append(f"{name}: layer {layer} is out of range; the model has layers 0 to {self.n_layers - 1}")
            if vector.shape != (self.d_model,):
                reasons.append(
                    f"{name} has width {vector.size}, the model has {self.d_model}; prepare it on this model"
                )
        return list(dict.fromkeys(reasons))

    async def complete(self, request: Request) -> Completion:
        """One answer. Raises Refused before anything is sent, NotApplied where the probe fails, SteerError else."""
        self._refuse(request.prompt, request.steering)
        prompt, sent = self.encoding.prompt(request.prompt, request.steering)
        if not prompt:
            raise Refused("the prompt is empty; give at least one token")
        if len(prompt) >= self.max_length:
            raise Refused(f"the prompt has {len(prompt)} tokens, the server takes {self.max_length}; shorten it")
        sampling = request.sampling
        room = min(sampling.max_tokens, self.max_length - len(prompt))
        seed = None
        asked: dict[str, object] = {"max_tokens": room, "stop": list(sampling.stop), "return_token_ids": True}
        if not sampling.is_greedy:
            seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
            asked |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k or 0}
            asked["seed"] = row_seed(seed, request.sample_index)
        body = await self._run(prompt, len(prompt), len(prompt) + room - 1, request.steering, asked)
        choice = body["choices"][0]
        tokens = choice.get("token_ids")
        return Completion(
            text=str(choice.get("text") or ""),
            tokens_in=len(prompt),
            tokens_out=int((body.get("usage") or {}).get("completion_tokens") or 0),
            stop_reason=_stop_reason(choice, room < sampling.max_tokens),
            messages_sent=sent,
            proof=self._proof(request.steering),
            seed=seed,
            token_ids=tuple(int(token) for token in tokens) if isinstance(tokens, list) else None,
        )

    async def score(
        self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering = CONTROL
    ) -> Likelihood:
        """Log-probabilities of `continuation` after `prompt`."""
        self._refuse(prompt, steering)
        pair = self.encoding.pair(prompt, continuation, steering)
        if not pair.continuation:
            raise Refused("the continuation is empty; there is nothing to score")
        if len(pair.continuation) >= self.max_length - 1:
            raise Refused(f"the continuation has {len(pair.continuation)} tokens, the server takes {self.max_length}")
        return await self._scored(Scored(pair.context, pair.continuation, pair.prompt_tokens), steering)

    async def score_rolling(self, text: str, steering: Steering = CONTROL) -> Likelihood:
        """Log-probabilities of a whole text; every token is response, windows are disjoint."""
        self._refuse(Text(""), steering)
        # The server writes a token after what it scores, and needs room for it.
        windows = rolling_windows(self.encoding.encode(text), self.encoding.prefix, self.max_length - 2)
        if not windows:
            raise Refused("the text is empty; there is nothing to score")
        parts = await asyncio.gather(*(self._scored(one, steering) for one in windows))
        logprobs = tuple(value for part in parts for value in part.logprobs)
        return Likelihood(logprobs, all(part.is_greedy for part in parts), self._proof(steering))

    async def activations(
        self, prompt: Prompt, response: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Outputs of all blocks at the response's own tokens: `(n_layers, tokens, d_model)`, float32."""
        self._refuse(prompt, steering)
        tokens, _ = self.encoding.prompt(prompt, steering)
        said = self.encoding.encode_bare(response) if isinstance(response, str) else list(response)
        whole = [*tokens, *said][: self.max_length - 1]
        start = max(len(tokens), 1)
        if len(whole) <= start:
            raise Refused(f"after a prompt of {len(tokens)} tokens the response has none to read")
        vectors = steering_vectors(added(steering), len(tokens), len(whole))
        return (await self._proven(steering, lambda: self._probe.captured(whole, True, vectors)))[:, start:]

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self.server.aclose()

    def close(self) -> None:
        """Nothing is held outside an event loop."""

    def _refuse(self, prompt: Prompt, steering: Steering) -> None:
        reasons = prompt_refusals(prompt, steering) + self.refusals(steering)
        if isinstance(prompt, tuple) and not self.has_template:
            reasons.append(f"{self._identity.name}: no chat template for messages; send rendered text")
        if reasons:
            raise Refused("; ".join(reasons))

    async def _scored(self, scored: Scored, steering: Steering) -> Likelihood:
        scored = scored.fitted(self.max_length - 2)
        tokens = [*scored.context, *scored.continuation]
        asked = {"max_tokens": 1, "prompt_logprobs": 1}
        body = await self._run(tokens, scored.prompt_tokens, len(tokens), steering, asked)
        table = body["choices"][0].get("prompt_logprobs") or body.get("prompt_logprobs")
        if not isinstance(table, list) or len(table) != len(tokens):
            raise SteerError(f"vLLM at {self.server.url} gives no prompt_logprobs; serve with a version that does")
        first = len(scored.context)  # the first token of a text has no log-probability
        held = [_entry(row, token) for row, token in zip(table[first:], tokens[first:], strict=True)]
        logprobs = tuple(float(one["logprob"]) for one in held)
        return Likelihood(logprobs, all(int(one["rank"]) == 1 for one in held), self._proof(steering))

    async def _run(
        self,
        tokens: Sequence[int],
        prompt_tokens: int,
        read_tokens: int,
        steering: Steering,
        asked: Mapping[str, object],
    ) -> dict[str, Any]:
        """One completion under a steering whose layers were probed."""
        vectors = steering_vectors(added(steering), prompt_tokens, read_tokens)
        extra = {"apply_steering_vectors": vectors} if vectors else {}
        # Keys and values that one steering left in the server's prefix cache must not serve another.
        more = {**asked, "cache_salt": self._identity.run(steering.fingerprint)}
        body = await self._proven(steering, lambda: self.server.complete(self.served_as, tokens, extra, more))
        if not body.get("choices"):
            raise SteerError(f"vLLM at {self.server.url} answers without a choice")
        return body

    async def _proven(self, steering: Steering, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """What is asked for after the steering was probed; both again where the connection is lost meanwhile."""
        waits = iter(WAITS_S)
        while True:
            seen = self.server.losses
            try:
                await self._prove(steering)
                answer = await ask()
                if self.server.losses != seen:  # another process may have answered
                    await self._prove(steering)
                return answer
            except Lost:
                wait = next(waits, None)
                if wait is None:
                    raise
                await asyncio.sleep(wait)

    async def _prove(self, steering: Steering) -> None:
        """Probe each layer that the steering changes, once; after a loss first whether it still is the same model."""
        losses = self.server.losses
        if losses:
            await self._once(("", losses), self._probe.check_same)
        if added(steering):
            await self._once((steering.fingerprint, losses), lambda: self._probe_layers(steering))

    async def _once(self, key: tuple[str, int], probe: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a probe unless it was passed; requests that come meanwhile wait for it."""
        task = self._proved.get(key)
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            return
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._proved[key] = asyncio.ensure_future(probe())
        await asyncio.shield(task)

    async def _probe_layers(self, steering: Steering) -> None:
        for one in added(steering):
            await self._probe.check(one)

    def _proof(self, steering: Steering) -> Proof:
        return Proof("probed", steering.fingerprint, self._identity.run(steering.fingerprint))


def row_seed(seed: int, sample_index: int) -> int:
    """The seed that a server gets for one of several samples: from both numbers, as the local engine's dice."""
    return int(np.random.SeedSequence([seed % 2**64, sample_index]).generate_state(1)[0]) % SEEDS


def _entry(row: Any, token: int) -> Mapping[str, Any]:
    held = row.get(str(token)) if isinstance(row, dict) else None
    if not isinstance(held, dict) or held.get("logprob") is None:
        raise NotApplied(f"vLLM gives no log-probability of token {token}")
    return held


def _stop_reason(choice: Mapping[str, Any], is_cut: bool) -> StopReason:
    match choice.get("finish_reason"):
        case "length":
            return "context_length" if is_cut else "max_tokens"
        case "stop":
            return "stop_string" if isinstance(choice.get("stop_reason"), str) else "stop"
    return "unknown"
