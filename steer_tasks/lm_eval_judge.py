"""Judging inside lm-eval: a filter that sees all answers of a task at once. Imports lm-eval and inspect_ai.

The judge is the Inspect model that STEER_TASKS_JUDGE names. It never raises: what can't be judged is a missing score
with its reason, and the answers stay in the sample log.
"""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lm_eval.api.filter import Filter

from judges.judge import judge
from judges.rubric import Rubric
from judges.signals import SIGNALS, text_signals
from model_adapters.behavior import Behavior, find_behavior
from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import messages_of
from model_adapters.harnesses.loop import LoopThread
from model_adapters.steering_file import load_steering
from steer_tasks.lm_eval_support import score_text
from steer_tasks.study import rubrics_of
from steer_tasks.turns import Turns

JUDGE = "STEER_TASKS_JUDGE"
"""The environment variable that names the judge."""

UNDER_WAY = 16
"""Answers judged at once; Inspect's own connection limits hold beside it."""

JUDGED = ("behavior", "coherence")
TEXT_SIGNALS = tuple(name for name in SIGNALS if name not in ("reference_nll", "truncated"))
"""The signals that lm-eval's answers give; the others need the model, and are in the proof file."""


def judge_name(metadata: Mapping[str, Any]) -> str | None:
    """The judge of this run, None for none. Raises SteerError where it can't be opened or is the model under test.

    `metadata` is the task's, in which lm-eval puts the model's arguments.
    """
    name = os.environ.get(JUDGE)
    if not name:
        return None
    from inspect_ai.model import get_model

    try:
        get_model(name)
    except Exception as problem:  # whatever a provider raises: nothing was spent yet
        said = " ".join(str(problem).split())[:300]
        raise SteerError(f"{JUDGE}={name} can't be opened ({said}); name an Inspect model and give its key") from None
    tested = metadata.get("pretrained") or metadata.get("model")
    if tested is not None and name.partition("/")[2] == tested:
        raise SteerError(f"{JUDGE}={name} is the model under test; name another")
    return name


def behavior_in(metadata: Mapping[str, Any]) -> str | None:
    """The text of the behavior that the model's arguments, or `--metadata`, or a steering file, name."""
    if metadata.get("behavior"):
        return find_behavior(str(metadata["behavior"])).text
    if metadata.get("steering"):
        found = load_steering(str(metadata["steering"])).provenance.get("behavior")
        return str(found["text"]) if isinstance(found, dict) and found.get("slug") != "none" else None
    return None


class JudgeFilter(Filter):
    """Makes of each answer a JSON text: the answer, and, where there is a judge, its verdicts or why there is none."""

    def apply(self, resps: Any, docs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
        """One JSON text for each response, in the same order."""
        answers = [[str(one) for one in answers] for answers in resps]
        name = os.environ.get(JUDGE)
        verdicts: list[list[dict[str, Any]]] = [[{} for _ in row] for row in answers]
        if name:
            pairs = [(row, place) for row, found in enumerate(answers) for place in range(len(found))]
            turns = Turns()
            calls = [partial(_verdicts, name, turns, docs[row], answers[row][place]) for row, place in pairs]
            loop = LoopThread()
            try:
                found = loop.run(_at_once(calls))
            except Exception as problem:  # the generations must not be lost with the judge
                found = [{quality: _missing("grader_failed", problem) for quality in JUDGED}] * len(calls)
            finally:
                loop.close()
            for (row, place), verdict in zip(pairs, found, strict=True):
                verdicts[row][place] = verdict
        return [
            [json.dumps({"text": text, **said}, ensure_ascii=False) for text, said in zip(row, found, strict=True)]
            for row, found in zip(answers, verdicts, strict=True)
        ]


async def _at_once(calls: Sequence[Any]) -> list[dict[str, Any]]:
    limit = asyncio.Semaphore(UNDER_WAY)

    async def one(call: Any) -> dict[str, Any]:
        async with limit:
            found: dict[str, Any] = await call()
            return found

    return list(await asyncio.gather(*map(one, calls)))


async def _verdicts(name: str, turns: Turns, doc: Mapping[str, Any], answer: str) -> dict[str, Any]:
    rubrics = rubrics_of(None)
    text = doc.get("behavior")
    behavior = find_behavior(text) if text else None
    said = {"coherence": await _verdict(name, turns, rubrics.coherence, doc, answer, None)}
    if behavior is None:
        said["behavior"] = {"score": None, "reason": 'no behavior is named; add --metadata \'{"behavior": "funny"}\''}
    else:
        said["behavior"] = await _verdict(name, turns, rubrics.behavior, doc, answer, behavior)
    return said


async def _verdict(
    name: str, turns: Turns, rubric: Rubric, doc: Mapping[str, Any], answer: str, behavior: Behavior | None
) -> dict[str, Any]:
    from inspect_ai.model import get_model

    from steer_tasks.grading import ask_with

    about = {"judge": name, "rubric": rubric.digest, "temperature": 0.0}
    asked = next((one.content for one in reversed(messages_of(doc) or ()) if one.role == "user"), "")
    try:
        ask = ask_with(get_model(name), turns)
        found = await judge(rubric, ask, prompt=asked, response=answer, behavior=behavior)
    except Exception as problem:
        return {**about, **_missing("grader_failed", problem)}
    reason = None if found.score is not None else "invalid_response_format"
    attempted = {"served": found.served, "attempts": found.attempts, "problem": found.problem, "reply": found.reply}
    return {**about, "score": found.score, "reason": reason, **attempted}


def _missing(reason: str, problem: BaseException) -> dict[str, Any]:
    said = " ".join(f"{type(problem).__name__}: {problem}".split())[:500]
    return {"score": None, "reason": reason, "problem": said}


def score_tradeoff(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | None]:
    """Accuracy, the text's signals, and where there is a judge its scores and which of them are missing."""
    held = json.loads(results[0])
    asked = next((one.content for one in reversed(messages_of(doc) or ()) if one.role == "user"), "")
    signals = text_signals(held["text"], prompt=asked, truncated=None, tagged=True).as_dict()
    scores: dict[str, float | None] = {**score_text(doc, [held["text"]])}
    scores |= {name: signals[name] for name in TEXT_SIGNALS}
    for quality in JUDGED:
        if quality in held:
            scores[quality] = held[quality]["score"]
            scores[f"{quality}_missing"] = float(held[quality]["score"] is None)
    return scores


def mean_of_known(values: Sequence[float | None]) -> float:
    """Mean over the values that are there; NaN where none is. How many are missing is a metric of its own."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else float("nan")
