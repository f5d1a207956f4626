"""Ours against lm-eval's own models: chain-of-thought answers unsteered, steered and derailing, letters, and memory."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from model_adapters.backends.local import open_local
from model_adapters.backends.local.embedded import embedded_model_path
from model_adapters.behavior import find_behavior
from model_adapters.methods import build_method
from model_adapters.preparation import prepare
from model_adapters.steering import AddVector, Steering
from model_adapters.steering_file import save_steering
from tests.benchmarks.bars import Bar, Line
from tests.benchmarks.pairs import Ratio
from tests.benchmarks.side import Done, Order, Side

ROWS, TOKENS, QUESTIONS = 16, 512, 48
BEHAVIOR, LAYER, DOSE, DERAILING_DOSE = "funny", 14, 0.1, 0.165
LETTER_PAIRS = 5


def caa_vector() -> np.ndarray:
    """The direction that both sides are steered by, of relative norm 1: `(d_model,)`, float32."""

    async def made() -> Steering:
        backend = open_local("embedded")
        try:
            method = build_method("caa", {"layer": LAYER, "dose": 1.0})
            return (await prepare(method, find_behavior(BEHAVIOR), backend)).steering
        finally:
            await backend.aclose()

    (one,) = asyncio.run(made()).interventions
    assert isinstance(one, AddVector)
    return (one.vector * np.float32(one.coefficient)).astype(np.float32)


def steering_files(folder: Path, vector: np.ndarray, dose: float) -> tuple[Path, Path]:
    """The same steering at every position, as ours and as lm-eval's `steered` reads it."""
    ours, theirs = folder / f"{dose}.json", folder / f"{dose}.pt"
    save_steering(Steering((AddVector(LAYER, vector, dose, "all"),)), ours)
    plain = {"steering_vector": torch.tensor(vector), "steering_coefficient": dose, "action": "add", "bias": None}
    torch.save({f"layers.{LAYER}": plain}, theirs)
    return ours, theirs


def ours_arguments(more: Mapping[str, object]) -> dict[str, object]:
    """How our model is opened: the rows of the other side, the dtype that both have on this processor."""
    return {"pretrained": "embedded", "dtype": "bfloat16", "max_rows": ROWS, **more}


def theirs_arguments(more: Mapping[str, object]) -> dict[str, object]:
    """How lm-eval's own model is opened."""
    return {"pretrained": str(embedded_model_path()), "dtype": "bfloat16", "batch_size": ROWS, **more}


@contextmanager
def both(ours: Mapping[str, object], model: str, theirs: Mapping[str, object]) -> Iterator[tuple[Side, Side]]:
    """Our side and the other one, open at the same time and asked in turns."""
    sides = [Side.of_lm_eval(model, theirs_arguments(theirs))]
    try:
        sides.append(Side.of_lm_eval("hook_steered", ours_arguments(ours)))
        yield sides[1], sides[0]
    finally:
        for side in sides:
            side.close()


def compared(
    ours: Side, theirs: Side, order: Callable[[int], Order], pairs: int
) -> tuple[Ratio, list[Done], list[Done]]:
    """Their time over ours, in pairs whose order alternates. No question comes twice: ours would know its answer."""
    mine, other = [], []
    for number in range(pairs):
        asked = order(number)
        if number % 2:
            other.append(theirs.ask(asked))
            mine.append(ours.ask(asked))
        else:
            mine.append(ours.ask(asked))
            other.append(theirs.ask(asked))
    ratio = Ratio(tuple(b.seconds / a.seconds for a, b in zip(mine, other, strict=True)))
    return ratio, mine, other


def at_limit(done: Sequence[Done]) -> int:
    """How many answers have about as many tokens as they may: read again from text, a token more or less."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_path())
    lengths = [len(tokenizer(text, add_special_tokens=False).input_ids) for one in done for text in one.answers]
    return sum(length >= TOKENS - 8 for length in lengths)


def answer_lines() -> Iterator[Line]:
    """Unsteered with letters and memory, steered, derailing. Both sides do the same: our model adds no signal."""
    sampled = f"{QUESTIONS} of the questions a pair, greedy, {TOKENS} tokens, {ROWS} rows a side"

    def asked(part: int) -> Order:
        return Order(QUESTIONS, part, TOKENS, bare=True)

    with both({"method": "control"}, "hf", {}) as (ours, theirs):
        ratio, mine, other = compared(ours, theirs, asked, 2)
        yield Line("chain of thought, unsteered: `hf` / ours", ratio, Bar(2.0, 3.0, at_least=True), sampled)
        memory = mine[-1].peak_mb / other[-1].peak_mb
        said = f"highest resident memory of either process after these answers, {mine[-1].peak_mb:.0f} MB ours"
        yield Line("memory: ours / `hf`", memory, Bar(1.1, 0.9), said)
        count = 168 // LETTER_PAIRS
        ratio, _, _ = compared(ours, theirs, lambda part: Order(count, part, letters=True), LETTER_PAIRS)
        said = f"{count} questions a pair, four letters each"
        yield Line("`mmlu_171_mc`: `hf` / ours", ratio, Bar(1.0, 2.0, at_least=True), said)
    with tempfile.TemporaryDirectory() as name:
        vector = caa_vector()
        for measure, dose, bar in (
            ("chain of thought, one steering: `steered` / ours", DOSE, Bar(2.0, 3.0, at_least=True)),
            ("the same, derailing: `steered` / ours", DERAILING_DOSE, Bar(3.0, 5.0, at_least=True)),
        ):
            mine_file, their_file = steering_files(Path(name), vector, dose)
            with both({"steering": str(mine_file)}, "steered", {"steer_path": str(their_file)}) as (ours, theirs):
                ratio, mine, other = compared(ours, theirs, asked, 1)
            with_signal = other[0].seconds / signalled(mine_file)
            said = f"{sampled}; CAA at dose {dose}, all positions: {at_limit(mine)} answers run to the limit"
            yield Line(measure, ratio, bar, f"{said}; with our likelihood signal {with_signal:.2f}")


def signalled(steering: Path) -> float:
    """Our seconds for the same answers with the likelihood signal, in a process that doesn't know them yet."""
    side = Side.of_lm_eval("hook_steered", ours_arguments({"steering": str(steering)}))
    try:
        return side.ask(Order(QUESTIONS, 0, TOKENS)).seconds
    finally:
        side.close()
