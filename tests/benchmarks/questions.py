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


def drawn_questions(count: int = DRAWN) -> list[Question]:
    """So many of the study's questions, as many as this machine has at most; the same ones every time."""
    questions = load_questions("mmlu_171").questions
    return random.Random(SEED).sample(list(questions), count)


def written(questions: Sequence[Question], render: Callable[[list[dict[str, str]]], str], tokens: int) -> list[Any]:
    """Chain-of-thought requests, greedy, in the chat form that `render` gives."""
    return [
        _instance("generate_until", number, found, (render(_chat(found)), {"until": [], "max_gen_toks": tokens}))
        for number, found in enumerate(_documents(questions, "chain_of_thought"))
    ]


def chosen(questions: Sequence[Question], render: Callable[[list[dict[str, str]]], str]) -> list[Any]:
    """Log-likelihood requests: the four letters of each question."""
    return [
        _instance("loglikelihood", number, found, (render(_chat(found)), letter))
        for number, found in enumerate(_documents(questions, "letter"))
        for letter in "ABCD"
    ]


def _documents(questions: Sequence[Question], form: Any) -> list[dict[str, Any]]:
    protocol = load_protocol("isolated")
    return [document(question, protocol, form, "control") for question in questions]


def _chat(found: dict[str, Any]) -> list[dict[str, str]]:
    messages = messages_of(found)
    assert messages is not None
    return as_chat(messages)


def _instance(kind: Any, number: int, found: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    return Instance(request_type=kind, doc=found, arguments=arguments, idx=0, metadata=("mmlu_171", number, 1))
