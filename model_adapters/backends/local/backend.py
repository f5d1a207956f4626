"""The local backend: a transformers model whose rows are steered one by one. Imports torch."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import numpy as np

from model_adapters.backend import Completion, Likelihood, Messages, Prompt, Request, Text, prompt_refusals
from model_adapters.backends.encoding import Encoding, Pair
from model_adapters.backends.local.blocks import SteeredBlocks
from model_adapters.backends.local.engine import Engine
from model_adapters.backends.local.forward import Forward
from model_adapters.backends.local.gates import looks_back
from model_adapters.backends.local.generation import Ending
from model_adapters.backends.local.jobs import Batching, Generation, Reading, Scoring
from model_adapters.backends.local.memory import MEGABYTE, footprint, prefix_bytes
from model_adapters.backends.local.packed import PackedWeights
from model_adapters.backends.local.passes import Passes
from model_adapters.backends.local.places import knows_places
from model_adapters.backends.local.prefixes import Prefixes
from model_adapters.backends.local.progress import Progress, Tally
from model_adapters.backends.local.prompts import PromptReader
from model_adapters.backends.local.proof import joined
from model_adapters.backends.local.spelling import Spelling
from model_adapters.backends.local.writer import Writer
from model_adapters.backends.passage import Passage, Scored, rolling_windows
from model_adapters.errors import Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, Steering


class LocalBackend:
    """Generation, log-likelihoods, distributions and activations of one loaded model, each row steered by itself.

    `rows` bounds the rows of one forward pass, `kv_memory_mb` the memory of their keys and values.
    `arguments` are further model arguments that change an answer; they
    enter the run identity. `interrupts` lets a steering's events end answers. Proofs are `measured`.
    Raises SteerError for a model without decoder blocks.
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
        interrupts: bool = False,
        kv_memory_mb: int | None = None,
    ) -> None:
        if rows < 1:
            raise Refused(f"rows is {rows}; at least 1 row is needed")
        self.model, self.tokenizer, self.rows = model.eval(), tokenizer, rows
        text_config = model.config.get_text_config()
        self.n_layers, self.d_model = int(text_config.num_hidden_layers), int(text_config.hidden_size)
        self.max_length = max_length or int(getattr(text_config, "max_position_embeddings", 2048))
        self.encoding = Encoding(tokenizer, add_bos_token, prefix_token_id, dict(template_arguments or {}))
        self._interrupts = interrupts
        self._blocks = SteeredBlocks(model)
        self._packed = PackedWeights(model)
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
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        ending = Ending(self.encoding, _end_tokens(model, tokenizer), self.max_length)
        forward = Forward(model, self._blocks, rounds=len(self._packed) > 0)
        cost = footprint(model, forward.device) if knows_places(model, forward.device) else None
        budget = None if kv_memory_mb is None else kv_memory_mb * MEGABYTE
        forward.rounds = forward.rounds and cost is not None
        kept = 0 if cost is None else prefix_bytes(cost, budget, forward.device)
        prompts = None if cost is None else PromptReader(forward, int(pad or 0), Prefixes(kept))
        tally = Tally()
        passes = Passes(forward, self._identity, self.d_model, int(pad or 0), prompts, tally)
        parts = (forward, ending, self._identity, self.d_model, int(pad or 0), rows, cost, budget, prompts)
        run: dict[str, Callable[[Sequence[Any]], None]] = {"scoring": passes.score, "reading": passes.read}
        writer = Writer(*parts, tally=tally)
        self._engine = Engine(writer, run, Batching(rows, int(text_config.vocab_size)).choose, tally)

    @property
    def identity(self) -> ModelIdentity:
        """Weights, dtype, template and arguments of this model."""
        return self._identity

    @property
    def has_template(self) -> bool:
        """Whether messages can be sent."""
        return self.encoding.has_template

    def render(self, messages: Messages) -> str:
        """The conversation as the model will read it, ending where the assistant's turn begins."""
        return self.encoding.render(messages)

    def refusals(self, steering: Steering) -> list[str]:
        """Features by index, interrupts, layers out of range and vectors of the wrong width, by name."""
        reasons = []
        if steering.needs_dictionary:
            reasons.append(
                "features are edited by index, which needs a dictionary: give dictionary=…, or resolve the "
                "steering with model_adapters.features.resolve"
            )
        if steering.events and not self._interrupts:
            reasons.append("an interrupt ends answers early, which only a service does; leave the event out")
        for name, layer, vector in steering.sites:
            if layer >= self.n_layers:
                reasons.append(
                    f"{name}: layer {layer} is out of range; {self._identity.name} has layers 0 to {self.n_layers - 1}"
                )
            if vector.shape != (self.d_model,):
                reasons.append(
                    f"{name} has width {vector.size}, {self._identity.name} has {self.d_model}; prepare the "
                    "steering on this model"
                )
        return list(dict.fromkeys(reasons))

    async def complete(self, request: Request) -> Completion:
        """Write one answer. Raises Refused before any token is spent, NotApplied when the proof fails."""
        job = self._generation(request)
        self._engine.submit(job)
        completion: Completion = await job.answer()
        return completion

    async def stream(self, request: Request) -> "AsyncIterator[str | Completion]":
        """The same answer piece by piece, as it is written: texts, then the whole Completion.

        The texts together are `Completion.text`. Closing the iterator gives the answer up. Raises as `complete`, and
        a failed proof comes after text has been given.
        """
        loop, tokens = asyncio.get_running_loop(), asyncio.Queue[int | None]()
        job = self._generation(request, lambda token: loop.call_soon_threadsafe(tokens.put_nowait, token))
        spelling = Spelling(self.encoding.decode, request.sampling.stop)
        self._engine.submit(job)
        answer = asyncio.ensure_future(job.answer())
        answer.add_done_callback(lambda _: tokens.put_nowait(None))
        try:
            while (token := await tokens.get()) is not None:
                if piece := spelling.add(token):
                    yield piece
            completion: Completion = await answer
            if rest := completion.text[len(spelling.given) :]:
                yield rest
            yield completion
        finally:
            answer.cancel()

    def _generation(self, request: Request, heard: Callable[[int], object] | None = None) -> Generation:
        self._refuse(request.prompt, request.steering)
        prompt, sent = self.encoding.prompt(request.prompt, request.steering)
        if not prompt:
            raise Refused("the prompt is empty; give at least one token")
        if request.sample_index < 0:
            raise Refused(f"sample_index is {request.sample_index}; samples are counted from 0")
        if len(prompt) >= self.max_length:
            raise Refused(f"the prompt has {len(prompt)} tokens, the model takes {self.max_length}; shorten it")
        return Generation(request, prompt, sent, heard)

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
        tokens, _ = self._readable(prompt, steering)
        said = self.encoding.encode_bare(response) if isinstance(response, str) else response
        passage = Passage([*tokens, *said][: self.max_length], len(tokens))
        if len(passage.tokens) <= max(len(tokens), 1):
            raise Refused(
                f"after a prompt of {len(tokens)} tokens the response has none to read; the model takes "
                f"{self.max_length}, and the first position of a text is never read"
            )
        return await self._read_from(max(len(tokens), 1), passage, steering)

    async def prompt_activations(self, prompt: Prompt, layer: int, steering: Steering = CONTROL) -> np.ndarray:
        """Output of block `layer` at every token of the prompt, the first included: `(tokens, d_model)`, float32."""
        tokens, _ = self._readable(prompt, steering)
        if not 0 < len(tokens) <= self.max_length:
            raise Refused(f"the prompt has {len(tokens)} tokens, the model takes 1 to {self.max_length}")
        read: np.ndarray = (await self._read_from(0, Passage(tokens, len(tokens)), steering))[layer]
        return read

    def tokenize(self, prompt: Prompt) -> list[tuple[int, str]]:
        """The prompt's tokens as ids and texts; the texts of messages join to the rendered conversation."""
        tokens, _ = self.encoding.prompt(prompt, CONTROL)
        return [(token, self.encoding.decode([token], special=True)) for token in tokens]

    def _readable(self, prompt: Prompt, steering: Steering) -> tuple[list[int], Messages | None]:
        self._refuse(prompt, steering)
        if looks_back(steering):
            raise Refused("activations can't be read under a condition that lies above what it guards")
        return self.encoding.prompt(prompt, steering)

    async def _read_from(self, start: int, passage: Passage, steering: Steering) -> np.ndarray:
        job = Reading(passage, steering, start)
        self._engine.submit(job)
        return await asyncio.wrap_future(job.future)

    def progress(self) -> Progress:
        """How far the engine is with all that it was asked."""
        return self._engine.tally.progress()

    async def aclose(self) -> None:
        """Stop the engine and give the model back as it was."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    def close(self) -> None:
        """The same, outside an event loop."""
        self._engine.close()
        self._blocks.remove()
        self._packed.remove()

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


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config and the tokenizer's end of sequence."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = configured if isinstance(configured, (list, tuple)) else [configured]
    return frozenset(int(token) for token in [*found, tokenizer.eos_token_id] if token is not None)
