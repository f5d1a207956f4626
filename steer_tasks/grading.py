"""Inspect's side of judging: the judge's model, its cache, and a verdict as a Score."""

from inspect_ai.model import (
    CachePolicy,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    Model,
    get_model,
)
from inspect_ai.scorer import Score
from inspect_ai.solver import TaskState
from inspect_ai.util import LimitExceededError

from judges.judge import Ask, Reply, Verdict, judge
from judges.rubric import Rubric, load_rubrics
from model_adapters.backend import Messages
from model_adapters.behavior import Behavior, find_behavior
from model_adapters.errors import SteerError
from model_adapters.identity import digest
from steer_tasks.turns import Turns

TEMPERATURE = 0.0
"""Greedy, as arXiv:2602.04903's judge."""

MAX_TOKENS = 1024
"""Enough for an analysis and a score. A judge that reasons at length is bound with `max_tokens` of its own."""


def grader(judge_name: str | None) -> Model:
    """The model bound to the role `grader`, else the one named. Never the model under test."""
    return get_model(role="grader", default=judge_name, required=judge_name is None)


def ask_with(model: Model, turns: Turns, repeat: int = 0, *, keep: bool = True) -> Ask:
    """Asks a judge, each conversation once: answers are kept without end, and equal questions wait for each other.

    `repeat` other than 0 asks anew, for measuring how a judge repeats itself. `keep` False neither takes kept answers
    nor keeps new ones.
    """
    config = GenerateConfig(temperature=TEMPERATURE, max_tokens=model.config.max_tokens or MAX_TOKENS)
    scopes = {"steer_tasks": "judge", **({"repeat": str(repeat)} if repeat else {})}
    policy = CachePolicy(expiry=None, per_epoch=False, scopes=scopes)

    async def ask(messages: Messages) -> Reply:
        async with turns.turn(digest([str(model), repeat, [(one.role, one.content) for one in messages]])):
            asked = [_chat(one.role, one.content) for one in messages]
            output = await model.generate(asked, config=config, cache=policy if keep else False)
        return Reply(output.completion, output.model, output.stop_reason in ("max_tokens", "model_length"))

    return ask


async def check_judge(name: str) -> None:
    """Ask a judge about one fixed answer, for which nothing kept is taken.

    Raises SteerError where it can't be reached, or can't be read even when asked twice.
    """
    try:
        ask = ask_with(get_model(name), Turns(), keep=False)
        verdict = await judge(load_rubrics().coherence, ask, prompt="Name a colour.", response="Blue is a colour.")
    except SteerError:
        raise
    except Exception as problem:
        said = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        raise SteerError(f"the judge {name} can't be asked ({said}); check its name and its key") from problem
    if verdict.score is None:
        raise SteerError(f"the judge {name} replies in no readable form ({verdict.problem}); name another judge")


def _chat(role: str, text: str) -> ChatMessage:
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return kinds[role](content=text)


async def graded(state: TaskState, rubric: Rubric, model: Model, turns: Turns) -> Score:
    """The score of a sample's answer: a judge's number, or unscored with the reason. Other scores are not touched.

    A judge that can't be reached, or answers what can't be read, is a missing score; limits of the eval pass through.
    """
    answer = state.output.completion
    about = {"judge": str(model), "rubric": rubric.digest, "wording": rubric.wording, "temperature": TEMPERATURE}
    behavior = behavior_of(state) if rubric.quality == "behavior" else None
    try:
        verdict = await judge(
            rubric, ask_with(model, turns), prompt=state.user_prompt.text, response=answer, behavior=behavior
        )
    except LimitExceededError:
        raise
    except Exception as problem:  # whatever a provider raises, the answer's other scores stand
        said = " ".join(f"{type(problem).__name__}: {problem}".split())[:500]
        return Score.unscored(reason="grader_failed", answer=answer, explanation=said, metadata=about)
    return score_of(verdict, answer, about)


def score_of(verdict: Verdict, answer: str, about: dict[str, object]) -> Score:
    """A verdict as Inspect keeps it, with who judged and how."""
    about = {**about, "served": verdict.served, "attempts": verdict.attempts, "problem": verdict.problem}
    if verdict.score is None:
        return Score.unscored(
            reason="invalid_response_format", answer=answer, explanation=verdict.reply, metadata=about
        )
    return Score(value=float(verdict.score), answer=answer, explanation=verdict.reply, metadata=about)


def behavior_of(state: TaskState) -> Behavior:
    """The behavior that a sample is judged for, by its slug and text in the metadata."""
    slug, text = state.metadata["behavior"], state.metadata.get("behavior_text")
    return Behavior(slug, text, "") if text else find_behavior(slug)
