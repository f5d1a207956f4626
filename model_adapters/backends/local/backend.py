"""The local backend: a transformers model whose rows are steered one by one. Imports torch."""

import asyncio
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from model_adapters.backend import Completion, Likelihood, Messages, Prompt, Proof, Request, Text, prompt_refusals
from model_adapters.backends.local.encoding import Encoding, Pair
from model_adapters.backends.local.engine import Engine
from model_adapters.backends.local.forward import Forward, Passage
from model_adapters.backends.local.generation import Ending, Row, write_answers
from model_adapters.backends.local.jobs import Batching, Generation, Reading, Scoring, by_row
from model_adapters.backends.local.layers import SteeredBlocks
from model_adapters.backends.local.proof import NOT_FINITE, joined, measured_proof
from model_adapters.backends.local.scoring import (
    Scored,
    read_activations,
    rolling_windows,
    score_passages,
    score_tails,
    token_scores,
)
from model_adapters.backends.local.tokens import Dice
from model_adapters.errors import NotApplied, Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, Steering, SystemPrompt


class LocalBackend:
    """Generation, log-likelihoods, distributions and activations of one loaded model, each row steered by itself.

    `rows` bounds the rows of one forward pass. `arguments` are further model arguments that change an answer; they
    enter the run identity. Proofs are `measured`. Raises SteerError for a model without decoder blocks.
    """

    name = "local"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        model_digest: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        template_arguments: Mapping[str, object] | None = None,
        template_mode: str | None = None,
        rows: int = 32,
        arguments: Mapping[str, str] | None = None,
    ) -> None:
        if rows < 1:
            raise Refused(f"rows is {rows}; at least 1 row is needed")
        self.model, self.tokenizer, self.rows = model.eval(), tokenizer, rows
        text_config = model.config.get_text_config()
        self.n_layers, self.d_model = int(text_config.num_hidden_layers), int(text_config.hidden_size)
        self.max_length = max_length or int(getattr(text_config, "max_position_embeddings", 2048))
        self.encoding = Encoding(tokenizer, add_bos_token, prefix_token_id, dict(template_arguments or {}))
        self._blocks = SteeredBlocks(model)
        self._forward = Forward(model, self._blocks)
        self._ending = Ending(self.encoding, _end_tokens(model, tokenizer), self.max_length)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self._pad = int(pad or 0)
        run: dict[str, Callable[[Sequence[Any]], None]] = {
            "generation": self._generate,
            "scoring": self._score,
            "reading": self._read,
        }
        self._engine = Engine(run, Batching(rows, int(text_config.vocab_size)).choose)
        named = {
            "max_length": str(self.max_length),
            "add_bos_token": str(add_bos_token),
            "prefix_token_id": str(prefix_token_id),
            "template_arguments": repr(sorted((template_arguments or {}).items())),
            **(arguments or {}),
        }
        self._identity = ModelIdentity(
            name=name,
            backend=self.name,
            model_digest=model_digest,
            revision=revision,
            dtype=str(model.dtype).removeprefix("torch."),
            template_digest=self.encoding.template_digest,
            template_mode=template_mode,
            arguments=named,
        )

    @property
    def identity(self) -> ModelIdentity:
        """Weights, dtype, template and arguments of this model."""
        return self._identity

    @property
    def has_template(self) -> bool:
        """Whether messages can be sent."""
        return self.encoding.has_template

    @property
    def template_opening(self) -> str:
        """The text every rendered conversation starts with; empty without a template."""
        return self.encoding.template_opening

    def render(self, messages: Messages) -> str:
        """The conversation as the model will read it, ending where the assistant's turn begins."""
        return self.encoding.render(messages)

    def refusals(self, steering: Steering) -> list[str]:
        """Layers out of range and vectors of the wrong width, by name."""
        reasons = []
        for one in steering.interventions:
            kind = type(one).__name__
            if isinstance(one, SystemPrompt):
                continue
            if one.layer >= self.n_layers:
                reasons.append(f"{kind}: layer {one.layer} is out of range; {self._identity.name} has layers 0 to "
                               f"{self.n_layers - 1}")
            for field_name in ("vector", "encoder", "direction"):
                vector = getattr(one, field_name, None)
                if vector is not None and vector.shape != (self.d_model,):
                    reasons.append(f"{kind}: {field_name} has width {vector.size}, {self._identity.name} has "
                                   f"{self.d_model}; prepare the steering on this model")
        return reasons

    async def complete(self, request: Request) -> Completion:
        """Write one answer. Raises Refused before any token is spent, NotApplied when the proof fails."""
        self._refuse(request.prompt, request.steering)
        prompt, sent = self.encoding.prompt(request.prompt, request.steering)
        if not prompt:
            raise Refused("the prompt is empty; give at least one token")
        if len(prompt) >= self.max_length:
            raise Refused(f"the prompt has {len(prompt)} tokens, the model takes {self.max_length}; shorten it")
        job = Generation(request, prompt, sent)
        self._engine.submit(job)
        completion: Completion = await job.answer()
        return completion

    async def score(
        self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering = CONTROL
    ) -> Likelihood:
        """Log-probabilities of `continuation` after `prompt`."""
        scored = self._scored(prompt, continuation, steering)
        return (await self._submit_scoring([scored], steering))[0]

    async def score_rolling(self, text: str, steering: Steering = CONTROL) -> Likelihood:
        """Log-probabilities of a whole text; every token is response, windows are disjoint."""
        self._refuse(Text(""), steering)
        windows = rolling_windows(self.encoding.encode(text), self.encoding.prefix, self.max_length)
        if not windows:
            raise Refused("the text is empty; there is nothing to score")
        parts = await self._submit_scoring(windows, steering)
        logprobs = tuple(value for part in parts for value in part.logprobs)
        return Likelihood(logprobs, all(part.is_greedy for part in parts), joined([part.proof for part in parts]))

    async def distributions(
        self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Log-probabilities that predict each token of `continuation`: `(tokens, vocabulary)`, float32."""
        job = Scoring(self._scored(prompt, continuation, steering), steering, wants_distribution=True)
        self._engine.submit(job)
        table: np.ndarray = await asyncio.wrap_future(job.future)
        return table

    async def activations(
        self, prompt: Prompt, response: str | Sequence[int], steering: Steering = CONTROL
    ) -> np.ndarray:
        """Outputs of all blocks at the response's own tokens: `(n_layers, tokens, d_model)`, float32."""
        self._refuse(prompt, steering)
        tokens, _ = self.encoding.prompt(prompt, steering)
        said = self.encoding.encode_bare(response) if isinstance(response, str) else response
        passage = Passage([*tokens, *said][: self.max_length], len(tokens))
        if len(passage.tokens) <= max(len(tokens), 1):
            raise Refused(f"after a prompt of {len(tokens)} tokens the response has none to read; the model takes "
                          f"{self.max_length}, and the first position of a text is never read")
        job = Reading(passage, steering)
        self._engine.submit(job)
        return await asyncio.wrap_future(job.future)

    async def aclose(self) -> None:
        """Stop the engine and take the hooks off the model."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """The same, outside an event loop."""
        self._engine.close()
        self._blocks.remove()

    def _refuse(self, prompt: Prompt, steering: Steering) -> None:
        reasons = prompt_refusals(prompt, steering) + self.refusals(steering)
        if isinstance(prompt, tuple) and not self.has_template:
            reasons.append(f"{self._identity.name}: no chat template for messages; send rendered text")
        if reasons:
            raise Refused("; ".join(reasons))

    def _scored(self, prompt: Prompt, continuation: str | Sequence[int], steering: Steering) -> Scored:
        self._refuse(prompt, steering)
        pair: Pair = self.encoding.pair(prompt, continuation, steering)
        if not pair.continuation:
            raise Refused("the continuation is empty; there is nothing to score")
        if len(pair.continuation) > self.max_length:
            raise Refused(f"the continuation has {len(pair.continuation)} tokens, the model takes {self.max_length}")
        return Scored(pair.context, pair.continuation, pair.prompt_tokens).fitted(self.max_length)

    async def _submit_scoring(self, scored: Sequence[Scored], steering: Steering) -> list[Likelihood]:
        jobs = [Scoring(one, steering) for one in scored]
        for job in jobs:
            self._engine.submit(job)
        return await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))

    # What follows runs in the engine's thread.

    def _generate(self, jobs: Sequence[Generation]) -> None:
        rows, job_of = [], {}
        for job in jobs:
            sampling, dice = job.request.sampling, None
            if not sampling.is_greedy:
                seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
                dice = Dice(seed, job.request.sample_index)
            row = Row(job.request, job.prompt, dice, lambda job=job: job.is_abandoned)  # type: ignore[misc]
            rows.append(row)
            job_of[id(row)] = job
        try:
            self._blocks.plan([row.request.steering for row in rows], self.d_model)
            for row, place in write_answers(rows, self._forward, self._ending, self._pad):
                job = job_of[id(row)]
                try:
                    job.future.set_result(self._completion(job, row, place))
                except Exception as problem:
                    job.future.set_exception(problem)
        finally:
            self._blocks.clear()
        for job in jobs:
            if job.is_abandoned and not job.future.done():
                job.future.set_exception(asyncio.CancelledError())

    def _completion(self, job: Generation, row: Row, place: int) -> Completion:
        steering = job.request.steering
        if row.is_broken:
            raise NotApplied(f"after {len(row.tokens)} tokens the model's output {NOT_FINITE}")
        proof = measured_proof(
            steering, self._identity, self._blocks.plans, place, len(row.prompt) - 1, len(row.tokens)
        )
        return Completion(
            text=self._ending.text(row),
            tokens_in=len(row.prompt),
            tokens_out=len(row.tokens),
            stop_reason=row.stop_reason or "unknown",
            messages_sent=job.sent,
            proof=proof,
            seed=row.dice.seed if row.dice else None,
            token_ids=tuple(row.tokens),
        )

    def _score(self, jobs: Sequence[Scoring]) -> None:
        groups = by_row(jobs)
        leaders = [group[0] for group in groups]
        try:
            tables = self._tables(leaders)
            for row, (group, table) in enumerate(zip(groups, tables, strict=True)):
                for job in group:
                    try:
                        job.future.set_result(self._scored_result(job, row, table[-len(job.scored.continuation) :]))
                    except Exception as problem:
                        job.future.set_exception(problem)
        finally:
            self._blocks.clear()

    def _tables(self, rows: Sequence[Scoring]) -> Iterator[Tensor]:
        """Log-probabilities for each row, `(continuation, vocabulary)`. Rows with one stem read it once."""
        stems = {job.stem: job for job in rows}
        if len(stems) == len(rows):
            self._blocks.plan([job.steering for job in rows], self.d_model)
            wanted = [len(job.scored.continuation) for job in rows]
            return score_passages([job.scored.passage for job in rows], wanted, self._forward, self._pad)
        self._blocks.plan([job.steering for job in stems.values()], self.d_model)
        places = {stem: place for place, stem in enumerate(stems)}
        passages = [job.scored.stem for job in stems.values()]
        wanted = [job.scored.stem_tokens - len(job.scored.context) + 1 for job in stems.values()]
        tails = [(places[job.stem], job.scored.tail) for job in rows]
        return score_tails(passages, wanted, tails, self._forward, self._pad)

    def _scored_result(self, job: Scoring, row: int, table: Tensor) -> "Likelihood | np.ndarray":
        proof = self._passage_proof(job.scored.passage, job.steering, row)
        if bool(table.isnan().any()):
            raise NotApplied(f"the model's output {NOT_FINITE}")
        if job.wants_distribution:
            return table.cpu().numpy().copy()  # two jobs of one row don't share memory
        scores = token_scores(table, job.scored.continuation)
        return Likelihood(scores.logprobs, scores.is_greedy, proof)

    def _read(self, jobs: Sequence[Reading]) -> None:
        for job in jobs:
            try:
                self._blocks.plan([job.steering], self.d_model)
                read = read_activations(job.passage, self._forward, self._pad)
                self._passage_proof(job.passage, job.steering, 0)
                job.future.set_result(read)
            finally:
                self._blocks.clear()

    def _passage_proof(self, passage: Passage, steering: Steering, row: int) -> Proof:
        prompt = max(0, passage.prompt_tokens - 1)
        held = len(passage.tokens) - prompt
        return measured_proof(steering, self._identity, self._blocks.plans, row, prompt, held)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config and the tokenizer's end of sequence."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(int(token) for token in [*found, tokenizer.eos_token_id] if token is not None)
