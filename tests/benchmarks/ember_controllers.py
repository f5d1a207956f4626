"""32 concurrent chat requests with 8 different controllers against the same with one, on the local Ember."""

import asyncio
from collections.abc import Sequence

import httpx

from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.ember import EmberBackend, open_ember
from model_adapters.backends.local import open_local
from model_adapters.behavior import neutral_prompts
from model_adapters.ember_service import create_app
from model_adapters.features import open_dictionary
from model_adapters.steering import EditFeatures, FeatureEdit, Steering
from tests.benchmarks.bars import Bar, Line
from tests.benchmarks.pairs import paired, timed

REQUESTS, CONTROLLERS, TOKENS, PAIRS = 32, 8, 32, 7


def steering(number: int) -> Steering:
    """One of the controllers: two nudges, small enough that answers go on."""
    return Steering((EditFeatures((FeatureEdit(100 + number, 0.2), FeatureEdit(500 + number, -0.2))),))


def requests(run: int, controllers: int) -> list[Request]:
    """Prompts that no run before had, so that none is answered from memory; all of one length."""
    prompts = neutral_prompts()
    sampling = Sampling(max_tokens=TOKENS)
    return [
        Request(
            (Message("user", f"Note {run:04d}-{number:02d}. {prompts[number % len(prompts)]} Explain it at length."),),
            steering(number % controllers),
            sampling,
        )
        for number in range(REQUESTS)
    ]


async def answered(client: EmberBackend, asked: Sequence[Request]) -> int:
    """How many tokens came back."""
    done = await asyncio.gather(*map(client.complete, asked))
    return sum(one.tokens_out or 0 for one in done)


def controller_lines() -> list[Line]:
    """Throughput with eight controllers over throughput with one."""
    backend, dictionary = open_local("embedded", interrupts=True), open_dictionary("demo")
    transport = httpx.ASGITransport(create_app(backend, dictionary, names=("embedded",)))
    client = asyncio.run(open_ember("embedded", transport=transport, concurrency=REQUESTS, attempt_seconds=600))
    runs = iter(range(10_000))

    def per_token(controllers: int) -> float:
        tokens = []
        asked = requests(next(runs), controllers)
        seconds = timed(lambda: tokens.append(asyncio.run(answered(client, asked))))
        return seconds / tokens[0]

    ratio = paired(lambda: per_token(1), lambda: per_token(CONTROLLERS), PAIRS)
    backend.close()
    sampled = f"{REQUESTS} concurrent chat requests of {TOKENS} tokens"
    measure = f"local Ember, throughput: {CONTROLLERS} controllers / 1"
    return [Line(measure, ratio, Bar(0.9, 1.0, at_least=True), sampled)]
