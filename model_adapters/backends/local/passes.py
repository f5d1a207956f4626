"""Scores and activations: what the engine's thread does with a batch of such jobs. Imports torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from model_adapters.backend import Likelihood, Proof
from model_adapters.backends.local.blocks import SteeredBlocks
from model_adapters.backends.local.forward import Forward
from model_adapters.backends.local.jobs import Reading, Scoring, by_row
from model_adapters.backends.local.memory import give_back
from model_adapters.backends.local.prefixes import Past
from model_adapters.backends.local.progress import Tally
from model_adapters.backends.local.prompts import PromptReader
from model_adapters.backends.local.proof import measured_proof
from model_adapters.backends.local.scoring import (
    log_probabilities,
    read_activations,
    score_behind,
    score_passages,
    score_tails,
    token_scores,
)
from model_adapters.backends.passage import Passage
from model_adapters.identity import ModelIdentity
from model_adapters.steering import Steering


@dataclass
class Passes:
    """Runs batches of scoring or of reading. Every job's future is settled; nothing of a batch stays behind.

    `prompts` reads beginnings that several texts share; None where the model's cache can't be put together.
    """

    forward: Forward
    identity: ModelIdentity
    d_model: int
    pad: int
    prompts: PromptReader | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def blocks(self) -> SteeredBlocks:
        """The hooked blocks."""
        return self.forward.blocks

    def score(self, jobs: Sequence[Scoring]) -> None:
        """Score continuations, or give their distributions."""
        for groups in self._batches(by_row(jobs)):
            self._score(groups)

    def _batches(self, groups: Sequence[list[Scoring]]) -> list[list[list[Scoring]]]:
        """Rows that share a pass: all, or those of one length where the model may not know what padding is."""
        if self.prompts is not None:
            return [list(groups)]
        lengths = dict.fromkeys(group[0].length for group in groups)
        return [[group for group in groups if group[0].length == length] for length in lengths]

    def _score(self, groups: Sequence[list[Scoring]]) -> None:
        jobs = [job for group in groups for job in group]
        leaders = [group[0] for group in groups]
        try:
            tables = self._tables(leaders)
            self.tally.tokens += sum(job.length for job in jobs)
            for row, (group, table) in enumerate(zip(groups, tables, strict=True)):
                for job in group:
                    try:
                        job.future.set_result(self._scored_result(job, row, table[-len(job.scored.continuation) :]))
                    except Exception as problem:
                        job.future.set_exception(problem)
        finally:
            self.blocks.clear()
            give_back()

    def _tables(self, rows: Sequence[Scoring]) -> Iterator[Tensor]:
        """Logits for each row, `(continuation, vocabulary)`. Rows with one stem read it once."""
        stems = {job.stem: job for job in rows}
        is_shared = len(stems) < len(rows) and self.prompts is not None
        if not is_shared:
            passages, leaders = [job.scored.passage for job in rows], list(rows)
            wanted = [len(job.scored.continuation) for job in rows]
            tails: list[tuple[int, list[int]]] = [(place, []) for place in range(len(rows))]
        else:
            passages, leaders = [job.scored.stem for job in stems.values()], list(stems.values())
            wanted = [job.scored.stem_tokens - len(job.scored.context) + 1 for job in leaders]
            places = {stem: place for place, stem in enumerate(stems)}
            tails = [(places[job.stem], job.scored.tail) for job in rows]
        pasts = self._known(leaders, passages, wanted)
        self._use(leaders)
        if any(past is not None for past in pasts):
            return score_behind(pasts, passages, wanted, tails, self.forward, self.pad)
        if not is_shared:
            return score_passages(passages, wanted, self.forward, self.pad)
        return score_tails(passages, wanted, tails, self.forward, self.pad)

    def _known(
        self, jobs: Sequence[Scoring], passages: Sequence[Passage], wanted: Sequence[int]
    ) -> Sequence[Past | None]:
        """Keys and values of what these passages begin with, where that was read before or several begin alike.

        Only for steerings that leave the prompt alone, and up to the first position that is response or wanted.
        """
        none = [None] * len(jobs)
        if self.prompts is None or not all(job.is_bare for job in jobs):
            return none
        ends = [
            max(0, min(passage.prompt_tokens - 1, len(passage.tokens) - count))
            for passage, count in zip(passages, wanted, strict=True)
        ]
        return self.prompts.begun([tuple(one.tokens[:end]) for one, end in zip(passages, ends, strict=True)])

    def _scored_result(self, job: Scoring, row: int, table: Tensor) -> "Likelihood | np.ndarray":
        proof = self._passage_proof(job.scored.passage, job.steering, row)
        if job.wants_distribution:
            return log_probabilities(table).cpu().numpy()
        scores = token_scores(table, job.scored.continuation)
        return Likelihood(scores.logprobs, scores.is_greedy, proof)

    def read(self, jobs: Sequence[Reading]) -> None:
        """Read activations."""
        for job in jobs:
            try:
                self._use([job])
                read = read_activations(job.passage, job.start, self.forward, self.pad)
                self.tally.tokens += job.length
                self._passage_proof(job.passage, job.steering, 0)
                job.future.set_result(read)
            finally:
                self.blocks.clear()

    def _passage_proof(self, passage: Passage, steering: Steering, row: int) -> Proof:
        prompt = max(0, passage.prompt_tokens - 1)
        held = len(passage.tokens) - prompt
        return measured_proof(steering, self.identity, self.blocks.plan, row, prompt, held)

    def _use(self, jobs: Iterable[Scoring | Reading]) -> None:
        self.blocks.use(self.blocks.planned([job.steering for job in jobs], self.d_model))
