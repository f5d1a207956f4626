"""Judging an answer: ask, read, ask once more, and otherwise say why there is no score. No harness here.

Who answers for the judge is the caller's `Ask`: a function of a conversation. The judge sees what was asked and what
was answered, and neither system prompt nor steering, right answer nor arm.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from judges.reply import Problem, read_score, reminder
from judges.rubric import Rubric
from model_adapters.backend import Message, Messages
from model_adapters.behavior import Behavior

ATTEMPTS = 2
"""How often a judge is asked about one answer: once, and once again with a reminder of the format."""


@dataclass(frozen=True)
class Reply:
    """What a judge said. `served` is the model that its service names; `truncated` if a token limit cut it."""

    text: str
    served: str
    truncated: bool = False


Ask = Callable[[Messages], Awaitable[Reply]]


@dataclass(frozen=True)
class Verdict:
    """A judge's score of one answer, 1 to 5, or None with the `problem` of its last reply.

    `rubric` is the rubric's digest, `served` the model that answered last, `reply` its words.
    """

    score: int | None
    problem: Problem | None
    reply: str
    served: str
    attempts: int
    rubric: str


async def judge(rubric: Rubric, ask: Ask, *, prompt: str, response: str, behavior: Behavior | None = None) -> Verdict:
    """The verdict on `response` to `prompt`. What `ask` raises is the caller's."""
    conversation: Messages = (Message("user", rubric.asked(prompt=prompt, response=response, behavior=behavior)),)
    attempt = 0
    while True:
        attempt += 1
        reply = await ask(conversation)
        reading = read_score(reply.text, rubric.quality, truncated=reply.truncated)
        if reading.problem is None or attempt == ATTEMPTS:
            return Verdict(reading.score, reading.problem, reply.text, reply.served, attempt, rubric.digest)
        again = reminder(rubric.quality, reading.problem)
        # An empty turn is refused by some services.
        conversation += (Message("assistant", reply.text or "(nothing)"), Message("user", again))
