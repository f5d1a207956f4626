"""One steering measured on some items: everything is asked at once, so that a backend can batch it. No torch."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judges.signals import repeated_ngrams
from model_adapters.backend import Completion, Message, Messages, Request, Sampling, ScoresText
from model_adapters.errors import Refused, SteerError
from model_adapters.steering import CONTROL, Steering
from steer_tasks.answers import is_right, parse_answer
from steer_tasks.calibrate.cost import Counted, together
from steer_tasks.calibrate.judging import Judging
from steer_tasks.calibrate.material import Half, Pair, Prompt
from steer_tasks.calibrate.outcomes import Outcome
from steer_tasks.options import score_options
from steer_tasks.protocol import LETTERS, Protocol
from steer_tasks.questions import Question

Scored = dict[str, dict[str, float | None]]
"""By outcome and item: a score, or None where it is missing."""


@dataclass(frozen=True)
class OpenEnded:
    """A development prompt as protocols take it."""

    question: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measuring:
    """What is measured and by whom. `judging` is None where no outcome is judged."""

    model: Counted
    protocol: Protocol
    outcomes: tuple[Outcome, ...]
    sampling: Sampling
    judging: Judging | None = None

    def check(self) -> None:
        """Raise Refused where the backend can't score texts and an outcome needs it."""
        needed = [one.name for one in self.outcomes if one.source in ("letters", "texts") or one.name == "nll"]
        if needed and not isinstance(self.model.source, ScoresText):
            raise Refused(f"{needed[0]} needs a backend that scores text; {self.model.source.name!r} doesn't")

    @property
    def names(self) -> frozenset[str]:
        """Of the outcomes."""
        return frozenset(one.name for one in self.outcomes)

    async def measure(self, steering: Steering, items: Half) -> Scored:
        """Every outcome but KL on these items. Raises what the backend raises: an answer that failed is not a score."""
        sources = {one.source for one in self.outcomes}
        tasks: list[Coroutine[Any, Any, list[tuple[str, str, float | None]]]] = []
        if "letters" in sources:
            tasks += [self._letters(steering, question) for question in items.questions]
        if "answers" in sources:
            asked: tuple[Question | Prompt, ...] = (*items.questions, *items.prompts)
            tasks += [self._answered(steering, one) for one in asked]
        if "texts" in sources:
            tasks += [self._texts(steering, pair) for pair in items.pairs]
        found: Scored = {name: {} for name in sorted(self.names)}
        for outcome, item, score in (entry for entries in await together(tasks) for entry in entries):
            if outcome in found:
                found[outcome][item] = score
        return found

    async def _letters(self, steering: Steering, asked: Question) -> list[tuple[str, str, float | None]]:
        prompt = self.protocol.messages(asked, "letter")
        scores = await asyncio.gather(*(self.model.score(prompt, letter, steering) for letter in LETTERS))
        read = score_options([one.total for one in scores], LETTERS, asked.answer)
        return [("letter", asked.id, read["acc"]), ("margin", asked.id, read["margin"])]

    async def _texts(self, steering: Steering, pair: Pair) -> list[tuple[str, str, float | None]]:
        prompt: Messages = (Message("user", pair.contrast.prompt),)
        texts = (pair.contrast.positive, pair.contrast.negative)
        own, neutral = await asyncio.gather(*(self.model.score(prompt, text, steering) for text in texts))
        rates = [one.total / len(one.logprobs) for one in (own, neutral)]
        return [("llr", pair.id, rates[0] - rates[1])]

    async def _answered(self, steering: Steering, asked: Question | Prompt) -> list[tuple[str, str, float | None]]:
        prompt = self._prompt(asked)
        said = await self.model.complete(Request(prompt, steering, self.sampling))
        read: dict[str, Callable[[], Coroutine[Any, Any, float | None]]] = {
            "nll": lambda: self._nll(prompt, said),
            "behavior": lambda: self._judged("behavior", prompt, said),
            "coherence": lambda: self._judged("coherence", prompt, said),
        }
        wanted = [name for name in read if name in self.names]
        scores = await asyncio.gather(*(read[name]() for name in wanted))
        found = [(name, asked.id, score) for name, score in zip(wanted, scores, strict=True)]
        # Fewer than four words repeat nothing.
        found.append(("repeated", asked.id, repeated_ngrams(said.text) or 0.0))
        if isinstance(asked, Question):
            found.append(("accuracy", asked.id, float(is_right(parse_answer(said.text), asked.letter))))
        return found

    def _prompt(self, asked: Question | Prompt) -> Messages:
        if isinstance(asked, Question):
            return self.protocol.messages(asked, "chain_of_thought")
        return self.protocol.messages(OpenEnded(asked.text), "open_ended")

    async def _nll(self, prompt: Messages, said: Completion) -> float | None:
        """Mean negative log-likelihood of an answer's tokens under the unsteered model; None where there are none."""
        if not said.text:
            return None
        try:
            found = await self.model.score(prompt, said.text, CONTROL)
        except SteerError:  # longer than the model takes
            return None
        return -found.total / len(found.logprobs) if found.logprobs else None

    async def _judged(self, quality: str, prompt: Messages, said: Completion) -> float | None:
        assert self.judging is not None
        self.model.judged()
        return await self.judging.score(quality, prompt[-1].content, said.text)


def merged(parts: Iterable[Mapping[str, Mapping[str, float | None]]]) -> Scored:
    """The scores of several measurements of one steering, which have no item in common."""
    found: Scored = {}
    for part in parts:
        for outcome, scores in part.items():
            found.setdefault(outcome, {}).update(scores)
    return found


def batches(items: Half, count: int) -> list[Half]:
    """The items in `count` parts that are asked one after the other; prompts and contrasts are all in the first."""
    size = -(-len(items.questions) // count)
    parts: Sequence[tuple[Question, ...]] = [
        items.questions[start : start + size] for start in range(0, len(items.questions), size)
    ]
    return [Half(part, items.prompts if not at else (), items.pairs if not at else ()) for at, part in enumerate(parts)]
