"""Answers: what the engine's thread does with generations. Imports torch."""

import asyncio
import errno
import logging
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from model_adapters.backend import Completion
from model_adapters.backends.local.decoder import Decoder
from model_adapters.backends.local.forward import Forward
from model_adapters.backends.local.generation import Ending, Row, write_answers
from model_adapters.backends.local.jobs import Generation
from model_adapters.backends.local.memory import Footprint
from model_adapters.backends.local.plan import BatchPlan
from model_adapters.backends.local.progress import Tally
from model_adapters.backends.local.prompts import PromptReader
from model_adapters.backends.local.proof import NOT_FINITE, measured_proof
from model_adapters.backends.local.tokens import Dice
from model_adapters.errors import NotFinite, Refused
from model_adapters.identity import ModelIdentity

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Greedy completions that are kept for requests that ask the same again; a few kilobytes each."""


@dataclass
class Writer:
    """Turns generations into rows, and rows into completions. Equal greedy requests are written once.

    `cost` and `prompts` are None for a model whose cache can't take rows in between; `budget` bounds the bytes of keys
    and values, None leaves it to `memory.SHARE`.
    """

    forward: Forward
    ending: Ending
    identity: ModelIdentity
    d_model: int
    pad: int
    rows: int
    cost: Footprint | None
    budget: int | None
    prompts: PromptReader | None
    tally: Tally = field(default_factory=Tally)
    _writing: dict[object, Row] = field(default_factory=dict)
    _known: "OrderedDict[object, Completion]" = field(default_factory=OrderedDict)
    _decoder: Decoder | None = None

    def __post_init__(self) -> None:
        if self.cost is None or self.prompts is None:
            log.warning("%s: its cache is not one of plain keys and values; static batches", self.identity.name)
            return
        parts = (self.forward, self.ending, self.pad, self.d_model, self.rows, self.cost, self.budget, self.prompts)
        self._decoder = Decoder(*parts, finish=self._finish)

    @property
    def is_busy(self) -> bool:
        """Whether rows are being written."""
        return self._decoder is not None and bool(self._decoder.alive)

    def admit(self, waiting: Sequence[Generation]) -> list[Generation]:
        """Start what there is room for; returns the jobs that must wait. What fails, fails in its own future."""
        decoder = self._decoder
        room = self.rows if decoder is None else decoder.room
        rows: list[Row] = []
        left: list[Generation] = []
        for job in waiting:
            if self._is_settled(job):
                continue
            twin = self._writing.get(job.key) if job.key is not None else None
            if twin is not None and job.start():
                twin.jobs.append(job)
                self.tally.begin(job.future)
            elif twin is None and not left and len(rows) < room and (decoder is None or decoder.fits(job.most_tokens)):
                if not self._is_refused(job) and job.start():
                    rows.append(self._row(job))
            elif twin is None:
                left.append(job)  # whoever comes behind waits too, so that nobody waits for ever
        if rows and decoder is None:
            self._write_statically(rows)
        elif rows and decoder is not None:
            return [*self._join(decoder, rows), *left]
        return left

    def step(self) -> list[Generation]:
        """One token for every row. Where memory is too short for that, half of them go on; returns the jobs of the
        others, which must wait and begin again."""
        assert self._decoder is not None
        again: list[Generation] = []
        try:
            self._decoder.step()
        except Exception as problem:
            rows, decoder = self._decoder.clear(), self._decoder
            if _is_out_of_memory(problem) and len(rows) > 1:
                log.warning("out of memory with %d rows; going on with %d", len(rows), len(rows) // 2)
                self.rows = decoder.rows = len(rows) // 2
                again = self._begin_again(rows, problem)
            else:
                self._fail(rows, problem)
        self._forget_abandoned()
        return again

    def fail(self, problem: BaseException) -> None:
        """Let all rows go, and tell those who wait for them."""
        if self._decoder is not None:
            self._decoder.clear()
        self._fail(list(self._writing.values()), problem)

    def _begin_again(self, rows: Sequence[Row], problem: Exception) -> list[Generation]:
        """The jobs of rows that must be written from the start; one that was heard by tokens can't be, and fails."""
        unended = [row for row in rows if row.stop_reason is None]
        silent = [row for row in unended if all(job.heard is None for job in row.jobs)]
        self._fail([row for row in unended if not any(row is one for one in silent)], problem)
        return self._sent_back(silent)

    def _sent_back(self, rows: Sequence[Row]) -> list[Generation]:
        """The jobs of rows that are not written now, and wait again."""
        for row in rows:
            self._writing.pop(row.key, None)
        jobs = [job for row in rows for job in row.jobs]
        for job in jobs:
            self.tally.wait(job.future)
        return jobs

    def _is_settled(self, job: Generation) -> bool:
        """Whether the job needs no row: nobody waits for it, or its answer is known."""
        if job.is_abandoned:
            job.settle(asyncio.CancelledError())
            return True
        known = self._known.get(job.key) if job.key is not None else None
        if known is not None and job.start():
            job.settle(replace(known, messages_sent=job.sent))
        return known is not None

    def _is_refused(self, job: Generation) -> bool:
        """Whether the memory has no room for the job even by itself; it is told so, and nobody else is."""
        try:
            if self._decoder is not None:
                self._decoder.check(job.most_tokens)
        except Refused as problem:
            job.settle(problem)
            return True
        return False

    def _row(self, job: Generation) -> Row:
        sampling, dice = job.request.sampling, None
        if not sampling.is_greedy:
            seed = sampling.seed if sampling.seed is not None else secrets.randbits(63)
            dice = Dice(seed, job.request.sample_index)
        row = Row(job.request, job.prompt, dice, [job], tally=self.tally)
        self.tally.begin(job.future)
        if job.key is not None:
            row.key = job.key
        self._writing[row.key] = row
        return row

    def _join(self, decoder: Decoder, rows: Sequence[Row]) -> list[Generation]:
        """Admit rows; returns the jobs of those that memory was too short for.

        Where several fail together, each is tried by itself, so that only those fail that must.
        """
        left: Sequence[Row] = ()
        again: list[Generation] = []
        try:
            left = decoder.admit(rows)
        except Exception as problem:
            alive = {id(row) for row in decoder.alive}
            unwritten = [row for row in rows if row.stop_reason is None and id(row) not in alive]
            fewer = (len(alive) + len(unwritten)) // 2
            if _is_out_of_memory(problem) and fewer > 0:
                log.warning("out of memory with %d rows; going on with %d", len(alive) + len(unwritten), fewer)
                self.rows = decoder.rows = fewer
                left = unwritten
            elif len(unwritten) == 1:
                self._fail(unwritten, problem)
            if decoder.is_torn:
                again = self._begin_again(decoder.clear(), problem)
            if not left and len(unwritten) > 1:
                again += [job for row in unwritten for job in self._join(decoder, [row])]
        jobs = [*self._sent_back(left), *again]
        self._forget_abandoned()
        return jobs

    def _write_statically(self, rows: Sequence[Row]) -> None:
        """Rows with prompts of one length together: not every such model knows what padding is."""
        for length in dict.fromkeys(len(row.prompt) for row in rows):
            self._write_batch([row for row in rows if len(row.prompt) == length])

    def _write_batch(self, rows: Sequence[Row]) -> None:
        blocks = self.forward.blocks
        try:
            plan = blocks.planned([row.request.steering for row in rows], self.d_model)
            for row, running, place in write_answers(rows, self.forward, self.ending, self.pad, plan):
                self._finish(row, running, place)
        except Exception as problem:
            unended = [row for row in rows if row.stop_reason is None]
            if len(unended) > 1 and not any(row.tokens for row in unended):
                for row in unended:
                    self._write_batch([row])
            else:
                self._fail(unended, problem)
        finally:
            blocks.clear()
        self._forget_abandoned()

    def _finish(self, row: Row, plan: BatchPlan, place: int) -> None:
        key = row.jobs[0].key
        self._writing.pop(row.key, None)
        try:
            done = self._completion(row, plan, place)
        except Exception as problem:
            for job in row.jobs:
                job.settle(problem)
            return
        if key is not None:
            self._known[key] = done
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        for job in row.jobs:
            job.settle(replace(done, messages_sent=job.sent))

    def _completion(self, row: Row, plan: BatchPlan, place: int) -> Completion:
        if row.problem is not None:
            raise row.problem
        steering = row.request.steering
        if row.is_broken:
            raise NotFinite(f"after {len(row.tokens)} tokens the model's output {NOT_FINITE}")
        proof = measured_proof(steering, self.identity, plan, place, len(row.prompt) - 1, row.tokens_read)
        return Completion(
            text=self.ending.text(row),
            tokens_in=len(row.prompt),
            tokens_out=len(row.tokens),
            stop_reason=row.stop_reason or "unknown",
            messages_sent=None,
            proof=proof,
            seed=row.dice.seed if row.dice else None,
            token_ids=tuple(row.tokens),
            events=row.events,
        )

    def _fail(self, rows: Sequence[Row], problem: BaseException) -> None:
        for row in rows:
            self._writing.pop(row.key, None)
            for job in row.jobs:
                job.settle(problem)

    def _forget_abandoned(self) -> None:
        """Rows that nobody waits for leave by themselves; who asks the same again must get a row of their own."""
        for key, row in list(self._writing.items()):
            if row.is_abandoned():
                del self._writing[key]
                for job in row.jobs:
                    job.settle(asyncio.CancelledError())


def _is_out_of_memory(problem: Exception) -> bool:
    if isinstance(problem, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(problem, OSError):
        return problem.errno == errno.ENOMEM
    return isinstance(problem, RuntimeError) and "memory" in str(problem) and "allocate" in str(problem)
