"""Continuous batching: rows that end leave at once, and waiting ones take their place. Imports torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from model_adapters.backends.local import echo
from model_adapters.backends.local.attention import RowAttention
from model_adapters.backends.local.forward import Forward, rounded_down
from model_adapters.backends.local.generation import Ending, Row, best_tokens, choose_token, choose_tokens
from model_adapters.backends.local.memory import Footprint, give_back, slots
from model_adapters.backends.local.plan import BatchPlan
from model_adapters.backends.local.prefixes import Past, rows_of
from model_adapters.backends.local.prompts import PREFILL_TOKENS, PromptReader
from model_adapters.backends.local.span import Span
from model_adapters.backends.local.store import SLACK, KeyValueStore
from model_adapters.backends.passage import Passage

Finish = Callable[[Row, BatchPlan, int], None]
"""Told of a row that ended, the plan it ran by and its place in it, while the measurements are there."""


@dataclass
class Decoder:
    """The rows that are being written. `rows` is the ceiling, `budget` the bytes that keys and values may take.

    `is_torn` after an error that came while keys and values were moved: no row can go on then.
    """

    forward: Forward
    ending: Ending
    pad: int
    d_model: int
    rows: int
    cost: Footprint
    budget: int | None
    prompts: PromptReader
    finish: Finish
    alive: list[Row] = field(default_factory=list)
    plan: BatchPlan = field(default_factory=BatchPlan)
    store: KeyValueStore | None = None
    is_torn: bool = False
    _longest: int = 0
    _ones: Tensor | None = None

    def __post_init__(self) -> None:
        self._attention = RowAttention(self.forward.model)

    @property
    def room(self) -> int:
        """How many more rows may join."""
        return max(0, self.rows - len(self.alive))

    def check(self, tokens: int) -> None:
        """Raises Refused where the memory has no room for a row of so many tokens even by itself."""
        self._slots(self._columns(tokens))

    def fits(self, tokens: int) -> bool:
        """Whether one more row of so many tokens fits the memory beside those that are being written."""
        if not self.alive or self.store is None:
            return True
        most = max([tokens, *(row.most_tokens for row in self.alive)])
        return self._slots(self._columns(most), at_least=0) > len(self.alive)

    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Read the prompts of `rows` and write their first tokens; returns those that the memory has no room for now.

        Raises Refused where it has no room for a row even by itself.
        """
        with self._moving():
            most = self._make_room(rows)
        room = max(0, most - len(self.alive))
        joining = [row for row in rows[:room] if row.stays]
        # By length, as rows that lie beside each other are attended to together.
        self._join(sorted((row for row in joining if row.is_bare), key=lambda one: -len(one.prompt)))
        for group in self._groups([row for row in joining if not row.is_bare]):
            self._prefill(group)
        return list(rows[room:])

    def step(self) -> None:
        """One token for every row."""
        self._leave()
        if not self.alive or self.store is None:
            return
        if len(self.alive) == 1 and self._run_ahead(self.alive[0], echo.HINT):
            self._leave()
            return
        store, device = self.store, self.forward.device
        if store.end == store.columns:
            self.store = store = store.resized(store.slots, min(store.width + SLACK, self._longest))
            give_back()
        store.begin_step()
        tokens = torch.tensor([[row.next_read] for row in self.alive], device=device)
        positions = torch.tensor([[length] for length in store.lengths], device=device)
        self.forward.blocks.use(self.plan)
        with self._attention.on():
            output = self.forward(tokens, store.attention, positions, self._span(), cache=store.cache, use_cache=True)
        store.end_step()
        self._write(output.logits[:, -1])
        for row in list(self.alive):
            self._run_ahead(row, echo.STREAK)
        self._leave()

    def _run_ahead(self, row: Row, streak: int) -> bool:
        """Check in one pass how far a row goes on repeating itself, if it has for `streak` tokens; whether it was done.

        Every token is chosen as in steps of one.
        """
        store, sampling, device = self.store, row.request.sampling, self.forward.device
        limit = min(sampling.max_tokens, self.ending.max_length - len(row.prompt)) - len(row.tokens)
        most = rounded_down(max(1, min(row.echo.reach, limit)))
        guesses = [] if row.is_gated or not row.stays else row.echo.guess(row.tokens, most - 1, streak)
        if store is None or not guesses:
            return False
        place = next(number for number, one in enumerate(self.alive) if one is row)
        tokens = torch.tensor([[row.next_read, *guesses]], device=device)
        store = self._with_room(store.columns_ahead(place, tokens.shape[1]))
        attention = store.begin_ahead(place, tokens.shape[1])
        positions = store.lengths[place] + torch.arange(tokens.shape[1], device=device)[None, :]
        span = Span(response=torch.ones_like(tokens, dtype=torch.bool), is_tentative=True)
        plan = self.plan.take(torch.tensor([place], device=device))
        self.forward.blocks.use(plan)
        keep = torch.arange(tokens.shape[1], device=device)
        with self._attention.on():
            output = self.forward(tokens, attention, positions, span, cache=store.cache, keep=keep, use_cache=True)
        read = 0
        best = best_tokens(output.logits[0])
        for logits, token, guess in zip(output.logits[0], best, [*guesses, None], strict=True):
            choose_token(row, logits, token, self.ending)
            read += 1
            if not row.stays or row.tokens[-1] != guess:
                break
        plan.take_back(read)
        self.plan.put(place, plan)
        store.end_ahead(read)
        self._end([row], plan)
        return True

    def clear(self) -> list[Row]:
        """Forget everything; returns the rows that were being written."""
        if self.store is not None:
            self.store.release()
        alive, self.alive, self.plan, self.store = self.alive, [], BatchPlan(), None
        self.is_torn = False
        self.forward.blocks.clear()
        return alive

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Within it keys and values are moved; an error leaves them torn, unless no row had any."""
        self.is_torn = bool(self.alive)
        yield
        self.is_torn = False

    def _columns(self, tokens: int) -> int:
        return min(tokens, self.ending.max_length) + SLACK

    def _slots(self, columns: int, at_least: int = 1) -> int:
        held = 0 if self.store is None else self.store.held_bytes
        return slots(self.cost, columns, self.rows, self.budget, self.forward.device, held, at_least)

    def _make_room(self, rows: Sequence[Row]) -> int:
        """A store with columns for all rows as they are now, and how many rows may be written at a time.

        So many that each could become as long as it may; the columns for that are taken when they are needed.
        """
        self._longest = max(self._columns(row.most_tokens) for row in [*self.alive, *rows])
        most = self._slots(self._longest)
        store, device = self.store, self.forward.device
        columns = min(max(len(row.prompt) for row in rows) + SLACK, self._longest)
        if store is None or not self.alive:
            if store is None or store.columns < columns or store.slots < most:
                if store is not None:
                    store.release()  # before the new one is made: both need not fit
                self.store = KeyValueStore(self.cost.layers, most, columns, device)
        elif store.columns < columns or store.slots < most:
            self.store = store.resized(max(most, store.slots), max(columns, store.columns))
        return most

    def _with_room(self, columns: int) -> KeyValueStore:
        """The store, wider where it has fewer columns than these and its rows may become so long."""
        store = self.store
        assert store is not None
        if store.columns < min(columns, self._longest):
            self.store = store = store.resized(store.slots, min(columns + SLACK, self._longest))
        return store

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows whose prompts are read in one pass: of like length, within the token budget; some must be alone."""
        groups: list[list[Row]] = []
        for row in sorted(rows, key=lambda one: -len(one.prompt)):
            last = groups[-1] if groups else None
            fits = last and (len(last) + 1) * len(last[0].prompt) <= PREFILL_TOKENS
            if last and fits and not (row.runs_alone or last[0].runs_alone):
                last.append(row)
            else:
                groups.append([row])
        return groups

    def _join(self, rows: list[Row]) -> None:
        """Rows whose prompts are read unsteered: all but the last token, which the next step reads as response."""
        if not rows:
            return
        plan = self.forward.blocks.planned([row.request.steering for row in rows], self.d_model)
        self._add(rows, plan, self.prompts.read([tuple(row.prompt[:-1]) for row in rows]))

    def _add(self, rows: Sequence[Row], plan: BatchPlan, pasts: Sequence[Past]) -> None:
        assert self.store is not None
        joined = self.plan.joined(plan)  # before anything is moved: what fails here leaves the others as they are
        with self._moving():
            self.store.insert(pasts)
        self.plan = joined
        self.alive += rows

    def _prefill(self, rows: list[Row]) -> None:
        blocks = self.forward.blocks
        plan = blocks.planned([row.request.steering for row in rows], self.d_model)
        blocks.use(plan)
        batch, cache = (
            self.forward.batch([Passage(row.prompt, len(row.prompt)) for row in rows], self.pad),
            DynamicCache(),
        )
        output = self.forward(batch.tokens, batch.attention, batch.positions, batch.span, cache=cache, use_cache=True)
        choose_tokens(rows, output.logits[:, -1], self.ending, plan.gates)
        self._end(rows, plan)
        staying = [place for place, row in enumerate(rows) if row.stays]
        if not staying:
            return
        kept = torch.tensor(staying, device=self.forward.device)
        pasts = rows_of(cache, staying, [len(rows[place].prompt) for place in staying])
        self._add([rows[place] for place in staying], plan if len(staying) == len(rows) else plan.take(kept), pasts)

    def _write(self, logits: Tensor) -> None:
        choose_tokens(self.alive, logits, self.ending, self.plan.gates)
        self._end(self.alive, self.plan)
        self._leave()

    def _end(self, rows: Sequence[Row], plan: BatchPlan) -> None:
        for place, row in enumerate(rows):
            if row.stop_reason is not None and not row.is_abandoned():
                self.finish(row, plan, place)

    def _leave(self) -> None:
        """Let go of the rows that ended or that nobody waits for any more."""
        staying = [place for place, row in enumerate(self.alive) if row.stays]
        if len(staying) == len(self.alive) or self.store is None:
            return
        order = self.store.keep(staying)
        self.alive = [self.alive[place] for place in order]
        if not order:
            self.plan = BatchPlan()
            return
        self.plan = self.plan.take(torch.tensor(order, dtype=torch.long, device=self.forward.device))

    def _span(self) -> Span:
        if self._ones is None or len(self._ones) < len(self.alive):
            self._ones = torch.ones(max(self.rows, len(self.alive)), 1, dtype=torch.bool, device=self.forward.device)
        begins = [0 if not row.tokens else -1 for row in self.alive]
        last_prompt = torch.tensor(begins, device=self.forward.device) if 0 in begins else None
        return Span(response=self._ones[: len(self.alive)], last_prompt=last_prompt)
