"""What a grid would ask for: requests, tokens, and dollars where it has prices. Imports inspect_ai for types only."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from model_adapters.behavior import find_behavior
from steer_tasks.grid import Cell, Grid
from steer_tasks.study import rubrics_of

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.dataset import Sample

CHARACTERS_PER_TOKEN = 4.0
"""Of English text in the vocabularies of current models, roughly; a rule of thumb, good to a fifth."""

MILLION = 1e6


def estimate_text(grid: Grid, tasks: Mapping[str, Sequence[tuple[Cell, "Task"]]], limit: int | None) -> str:
    """Lines with the requests and tokens of the model under test and of the judge, and their cost.

    Prompts are counted in characters; the lengths of answers and verdicts are the grid's own guess. A prompt that asks
    for a behavior, and what a search for a steering costs, are not in it. The same answer isn't judged twice, and
    equal greedy requests of the control are asked once.
    """
    assumed = grid.estimate
    rubrics = rubrics_of(grid.rubrics)
    overhead = len(rubrics.coherence.asked(prompt="", response="")) / CHARACTERS_PER_TOKEN
    behavior = find_behavior("funny" if isinstance(grid.behaviors, str) else grid.behaviors[0])
    overhead_behavior = len(rubrics.behavior.asked(prompt="", response="", behavior=behavior)) / CHARACTERS_PER_TOKEN
    asked = judged = 0
    tokens_in = judge_in = 0.0
    for made in tasks.values():
        for cell, task in made:
            samples = list(task.dataset)[:limit]
            prompts = [_prompt(sample) for sample in samples]
            is_shared = cell.arguments["method"] == "control" and not task.config.temperature
            distinct = sorted(set(prompts)) if is_shared else prompts
            asked += len(distinct)
            tokens_in += sum(map(len, distinct)) / CHARACTERS_PER_TOKEN
            judged += len(samples) + len(distinct)
            per_answer = assumed.answer_tokens
            judge_in += sum(overhead_behavior + len(one) / CHARACTERS_PER_TOKEN + per_answer for one in prompts)
            judge_in += sum(overhead + len(one) / CHARACTERS_PER_TOKEN + per_answer for one in distinct)
    tokens_out, judge_out = asked * assumed.answer_tokens, judged * assumed.judge_tokens
    cells = sum(map(len, tasks.values()))
    return "\n".join(
        [
            f"{grid.name}: {cells} cells",
            f"model  {asked:>9,} requests  {_line(tokens_in, tokens_out, assumed.model_price)}",
            f"judge  {judged:>9,} requests  {_line(judge_in, judge_out, assumed.judge_price)}",
            f"       counted at {CHARACTERS_PER_TOKEN:g} characters a token, {assumed.answer_tokens} tokens an answer "
            f"and {assumed.judge_tokens} a verdict",
        ]
    )


def _line(tokens_in: float, tokens_out: float, price: tuple[float, float] | None) -> str:
    tokens = f"{tokens_in / MILLION:8.2f} M tokens in  {tokens_out / MILLION:8.2f} M out"
    if price is None:
        return f"{tokens}  cost: no price in the grid"
    return f"{tokens}  about ${(tokens_in * price[0] + tokens_out * price[1]) / MILLION:,.2f}"


def _prompt(sample: "Sample") -> str:
    return "\n".join(message.text for message in sample.input) if isinstance(sample.input, list) else sample.input
