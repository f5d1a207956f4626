"""The conversations that the dictionary is trained on: our own prompts, answered by the model itself.

Nothing of the material that behaviors are measured on may be among the prompts, and `plan` refuses to go on if it is.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from model_adapters.backend import Message, Messages, Request, Sampling
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.behavior import find_behaviors, neutral_prompts

_FOLDER = Path(__file__).parent

PLAIN = 0.25
"""Share of conversations that ask for no style."""

BEHAVIORAL = 0.8
"""Share of the styled ones whose style is one of the behaviors, in our own wording."""

QUESTION = 0.35
"""Share of prompts that stand in `questions.txt` as they are; the others join a template and a topic."""

HELD_OUT = 0.06
"""Share of the prompts whose conversations are never trained on."""

SAMPLING = {"max_tokens": 160, "temperature": 0.9, "top_k": 50}


@dataclass(frozen=True)
class Conversation:
    """A prompt, the way it should be answered (`style`, maybe empty), and the answer (empty until it is written)."""

    prompt: str
    slug: str
    style: str
    as_system: bool
    held_out: bool
    answer: str = ""

    @property
    def messages(self) -> Messages:
        """What the model reads before it answers."""
        if not self.style:
            return (Message("user", self.prompt),)
        if self.as_system:
            return Message("system", self.style), Message("user", self.prompt)
        return (Message("user", f"{self.prompt} {self.style}"),)


def lines(name: str) -> list[str]:
    """A text file's lines without comments."""
    text = (_FOLDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def styles() -> list[tuple[str, str]]:
    """(slug, request) of every style; the slug is a behavior's, or `other`."""
    parted = (line.split(" | ", 1) for line in lines("styles.txt"))
    return [(slug, request) for slug, request in parted]


def evaluation_prompts() -> set[str]:
    """Prompts that no training conversation may use, in lower case."""
    behaviors = find_behaviors("all")
    written = [one.prompt for behavior in behaviors for one in behavior.contrasts]
    tuning = [prompt for behavior in behaviors for prompt in behavior.dev_prompts]
    return {prompt.casefold() for prompt in [*written, *tuning, *neutral_prompts()]}


def plan(count: int, seed: int) -> list[Conversation]:
    """`count` conversations still to be answered, no two alike."""
    dice = np.random.default_rng(seed)
    questions, topics, templates = lines("questions.txt"), lines("topics.txt"), lines("templates.txt")
    behavioral = [one for one in styles() if one[0] != "other"]
    others = [one for one in styles() if one[0] == "other"]
    forbidden = evaluation_prompts()
    held_out: dict[str, bool] = {}
    planned: dict[tuple[str, str], Conversation] = {}
    while len(planned) < count:
        if dice.random() < QUESTION:
            prompt = questions[dice.integers(len(questions))]
        else:
            prompt = templates[dice.integers(len(templates))].format(topics[dice.integers(len(topics))])
        if prompt.casefold() in forbidden:
            raise ValueError(f"{prompt!r} belongs to the evaluation; take it out of the training prompts")
        slug, style = "", ""
        if dice.random() >= PLAIN:
            pool = behavioral if dice.random() < BEHAVIORAL else others
            slug, style = pool[dice.integers(len(pool))]
        as_system = bool(dice.random() < 0.5)
        held_out.setdefault(prompt, bool(dice.random() < HELD_OUT))
        planned.setdefault((prompt, style), Conversation(prompt, slug, style, as_system, held_out[prompt]))
    return list(planned.values())


async def answer(backend: LocalBackend, planned: Sequence[Conversation], seed: int, file: Path) -> None:
    """Let the model answer what `file` doesn't hold yet; each answer is appended as a JSON line with its place."""
    done = {place for place, _ in read(file)} if file.exists() else set()
    room = asyncio.Semaphore(4 * backend.rows)
    sampling = Sampling(seed=seed, **SAMPLING)  # type: ignore[arg-type]

    async def one(place: int, conversation: Conversation) -> None:
        async with room:
            completion = await backend.complete(Request(conversation.messages, sampling=sampling, sample_index=place))
        row = {"place": place, **asdict(conversation), "answer": completion.text, "tokens": completion.tokens_out}
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    missing = [(place, one_) for place, one_ in enumerate(planned) if place not in done]
    await asyncio.gather(*(one(place, conversation) for place, conversation in missing))


def read(file: Path) -> list[tuple[int, Conversation]]:
    """The answered conversations of a file, by place."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        row.pop("tokens")
        found.append((row.pop("place"), Conversation(**row)))
    return sorted(found, key=lambda pair: pair[0])
