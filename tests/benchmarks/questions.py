"""The questions that are timed: drawn by a seed, as lm-eval's requests. Imports lm-eval."""

import random
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance

from model_adapters.harnesses.documents import as_chat, messages_of
from steer_tasks.lm_eval_support import document
from steer_tasks.protocols import load_protocol
from steer_tasks.questions import Question, load_questions

DRAWN, SEED = 48, 20260204

Render = Callable[[list[dict[str, str]]], str]


def drawn_questions(count: int = DRAWN, part: int = 0) -> list[Question]:
    """So many of the study's questions, the same ones every time; two parts of one size share none."""
    questions = list(load_questions("mmlu_171").questions)
    shuffled = random.Random(SEED).sample(questions, len(questions))
    return shuffled[part * count : (part + 1) * count]


def drawn_numbers(count: int) -> list[int]:
    """Their places among the task's documents, for lm-eval's `--samples`."""
    places = {question.id: place for place, question in enumerate(load_questions("mmlu_171").questions)}
    return sorted(places[question.id] for question in drawn_questions(count))


def written(questions: Sequence[Question], render: Render, tokens: int) -> list[Any]:
    """Chain-of-thought requests, greedy, in the chat form that `render` gives."""
    return [
        _instance("generate_until", number, found, (render(_chat(found)), {"until": [], "max_gen_toks": tokens}))
        for number, found in enumerate(_documents(questions, "chain_of_thought"))
    ]


def chosen(questions: Sequence[Question], render: Render) -> list[Any]:
    """Log-likelihood requests: the four letters of each question."""
    return [
        _instance("loglikelihood", number, found, (render(_chat(found)), letter))
        for number, found in enumerate(_documents(questions, "letter"))
        for letter in "ABCD"
    ]


def conversations(questions: Sequence[Question]) -> list[Any]:
    """The messages of the chain-of-thought form, for backends that are asked directly."""
    return [messages_of(found) for found in _documents(questions, "chain_of_thought")]


def _documents(questions: Sequence[Question], form: Any) -> list[dict[str, Any]]:
    protocol = load_protocol("isolated")
    return [document(question, protocol, form, "control") for question in questions]


def _chat(found: dict[str, Any]) -> list[dict[str, str]]:
    messages = messages_of(found)
    assert messages is not None
    return as_chat(messages)


def _instance(kind: Any, number: int, found: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    return Instance(request_type=kind, doc=found, arguments=arguments, idx=0, metadata=("mmlu_171", number, 1))
