"""Writing answers for a batch whose rows each have their own steering, sampling and end. Imports torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model_adapters.backend import Request, StopReason
from model_adapters.backends.encoding import Encoding
from model_adapters.backends.local.echo import Echo
from model_adapters.backends.local.forward import Forward
from model_adapters.backends.local.gates import Gates, guards_of, leaves_prompt, looks_back
from model_adapters.backends.local.jobs import Generation
from model_adapters.backends.local.plan import BatchPlan
from model_adapters.backends.local.progress import Tally
from model_adapters.backends.local.span import Span
from model_adapters.backends.local.tokens import Dice, drawn, likely
from model_adapters.backends.passage import Passage


@dataclass
class Row:
    """One answer being written, for one request or several equal ones; `key` is the requests', or its own alone."""

    request: Request
    prompt: list[int]
    dice: Dice | None
    jobs: list[Generation]
    key: object = field(default_factory=object)
    tokens: list[int] = field(default_factory=list)
    echo: Echo = field(default_factory=Echo)
    stop_reason: StopReason | None = None
    is_broken: bool = False
    events: tuple[str, ...] = ()
    problem: Exception | None = None
    tally: Tally = field(default_factory=Tally)

    def is_abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return all(job.is_abandoned for job in self.jobs)

    @property
    def stays(self) -> bool:
        """Whether it goes on: it has not ended, and somebody waits for it."""
        return self.stop_reason is None and not self.is_abandoned()

    @property
    def runs_alone(self) -> bool:
        """Whether its prompt must be read one token at a time, so that it may not be padded."""
        return looks_back(self.request.steering)

    @property
    def is_bare(self) -> bool:
        """Whether its prompt but for the last token is read unsteered, so that it may be shared."""
        return len(self.prompt) > 1 and leaves_prompt(self.request.steering)

    @property
    def next_read(self) -> int:
        """The token that the next step reads."""
        return self.tokens[-1] if self.tokens else self.prompt[-1]

    @property
    def most_tokens(self) -> int:
        """Tokens of prompt and answer together at most, but for the model's own limit."""
        return self.jobs[0].most_tokens

    @property
    def tokens_read(self) -> int:
        """Response positions that the model read: the last prompt token and every token but the last.

        An interrupt is seen when the last token is read, so it counts there.
        """
        return len(self.tokens) + bool(self.events)

    @property
    def is_gated(self) -> bool:
        """Whether conditions are read at its tokens."""
        return bool(guards_of(self.request.steering))

    def say(self, token: int) -> None:
        """Add a token to the answer, and tell those who listen."""
        self.tokens.append(token)
        self.tally.tokens += 1
        self.echo.add(self.tokens)
        for job in self.jobs:
            if job.heard is not None:
                job.heard(token)

    def next_token(self, logits: Tensor, greedy: int) -> int:
        """The row's next token; logits are `(vocabulary,)`, `greedy` is their most likely token."""
        if self.dice is None:
            return greedy
        return drawn(logits, self.request.sampling, self.dice.roll())


@dataclass(frozen=True)
class Ending:
    """When a row is done."""

    encoding: Encoding
    end_tokens: frozenset[int]
    max_length: int

    def reason(self, row: Row) -> StopReason | None:
        """Why the row ends after its latest token; None while it goes on."""
        if row.tokens[-1] in self.end_tokens:
            return "stop"
        if row.request.sampling.stop and self._holds_stop(row):
            return "stop_string"
        if len(row.tokens) >= row.request.sampling.max_tokens:
            return "max_tokens"
        if len(row.prompt) + len(row.tokens) >= self.max_length:
            return "context_length"
        return None

    def _holds_stop(self, row: Row) -> bool:
        # Every token of a stop string holds at least one of its bytes, so this many last tokens can't miss it.
        stops = row.request.sampling.stop
        tail = row.tokens[-max(len(text.encode()) for text in stops) - 1 :]
        shown = self.encoding.decode(tail)
        if any(text in shown for text in stops):
            return True
        # A stop string may be a special token's own spelling, which no answer shows.
        spelt = self.encoding.decode(tail, special=True)
        return spelt != shown and any(text in spelt for text in stops)

    def text(self, row: Row) -> str:
        """What the row says: its end token and special ones left out, cut before the first stop string."""
        ended = bool(row.tokens) and row.tokens[-1] in self.end_tokens
        text = self.encoding.decode(row.tokens[:-1] if ended else row.tokens)
        found = [place for stop in row.request.sampling.stop if (place := text.find(stop)) >= 0]
        return text[: min(found)] if found else text


def choose_tokens(rows: Sequence[Row], logits: Tensor, ending: Ending, gates: Gates) -> None:
    """Give each row its next token, or its end; logits are `(batch, vocabulary)`.

    A row whose logits are not finite ends and `is_broken`; one that fails by itself ends with its `problem`.
    """
    for place, (row, own, best) in enumerate(zip(rows, logits, best_tokens(logits), strict=True)):
        if best is not None and (fired := gates.fired(place)):
            row.events, row.stop_reason = fired, "interrupt"
        else:
            choose_token(row, own, best, ending)


def best_tokens(logits: Tensor) -> list[int | None]:
    """The most likely token of each row of `(batch, vocabulary)` logits; None where they are not finite."""
    greedy = likely(logits)
    finite = logits.gather(1, greedy[:, None])[:, 0].isfinite()  # NaN and infinity win every argmax
    return [best if is_finite else None for best, is_finite in zip(greedy.tolist(), finite.tolist(), strict=True)]


def choose_token(row: Row, logits: Tensor, best: int | None, ending: Ending) -> None:
    """One row's next token, or its end; logits are `(vocabulary,)`, `best` is their most likely token."""
    if best is None:
        row.is_broken, row.stop_reason = True, "unknown"
        return
    try:
        row.say(row.next_token(logits, best))
        row.stop_reason = ending.reason(row)
    except Exception as problem:
        row.problem, row.stop_reason = problem, "unknown"


def write_answers(
    rows: Sequence[Row], forward: Forward, ending: Ending, pad: int, plan: BatchPlan
) -> Iterator[tuple[Row, BatchPlan, int]]:
    """Write rows with prompts of one length together, for models whose cache can't take rows in between.

    Nothing is padded, so no mask is given: what such models make of one differs, in steps above all.

    Yields (row, plan, its place in the plan) the moment a row ends; the row then leaves the batch. Abandoned rows
    leave without being yielded.
    """
    blocks = forward.blocks
    alive = list(rows)
    blocks.use(plan)
    batch = forward.batch([Passage(row.prompt, len(row.prompt)) for row in alive], pad)
    positions = batch.positions[:, -1:]
    output = forward(batch.tokens, None, batch.positions, batch.span, use_cache=True)
    while True:
        choose_tokens(alive, output.logits[:, -1], ending, blocks.plan.gates)
        for place, row in enumerate(alive):
            if row.stop_reason is not None and not row.is_abandoned():
                yield row, blocks.plan, place
        staying = [i for i, row in enumerate(alive) if row.stays]
        if not staying:
            return
        cache = forward.cache_of(output)
        if len(staying) < len(alive):
            kept = torch.tensor(staying, device=positions.device)
            alive = [alive[i] for i in staying]
            positions = positions[kept]
            cache.reorder_cache(kept)  # the one way to choose rows that every kind of cache has
            blocks.take(kept)
        tokens = torch.tensor([[row.tokens[-1]] for row in alive], device=positions.device)
        positions = positions + 1
        span = Span(response=torch.ones_like(tokens, dtype=torch.bool))
        output = forward(tokens, None, positions, span, cache=cache, use_cache=True)
