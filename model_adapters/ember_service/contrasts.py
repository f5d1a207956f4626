"""Conversations with a behavior and without it, in the protocol's layout. No fastapi here."""

import asyncio

from model_adapters.backend import Message, Request, Sampling
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.behavior import Behavior, neutral_prompts
from model_adapters.steering import CONTROL, Steering, SystemPrompt

FREE_PROMPTS = 8
FREE_TOKENS = 32
"""For a free behavior: how many everyday prompts the model answers, and how long; in time for the SDK's 30 seconds."""

Conversations = tuple[list[list[dict[str, str]]], list[list[dict[str, str]]]]
"""Without the behavior, with it, paired by position."""


async def contrasting(behavior: Behavior, backend: LocalBackend) -> Conversations:
    """A behavior's written contrasts; for a free one the model's own greedy answers, asked for it and not."""
    if behavior.contrasts:
        written = behavior.contrasts
        without = [_conversation(one.prompt, one.negative) for one in written]
        return without, [_conversation(one.prompt, one.positive) for one in written]
    prompts = neutral_prompts()[:FREE_PROMPTS]
    asked = Steering((SystemPrompt(f"Answer so that your answer shows this: {behavior.text}."),))
    plain, shown = await asyncio.gather(*(_answers(backend, prompts, steering) for steering in (CONTROL, asked)))
    return plain, shown


async def _answers(backend: LocalBackend, prompts: tuple[str, ...], steering: Steering) -> list[list[dict[str, str]]]:
    sampling = Sampling(max_tokens=FREE_TOKENS)
    requests = [Request((Message("user", prompt),), steering, sampling) for prompt in prompts]
    done = await asyncio.gather(*map(backend.complete, requests))
    return [_conversation(prompt, one.text) for prompt, one in zip(prompts, done, strict=True)]


def _conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
