"""How well each judge-free signal tracks a judge's coherence score, on answers that a judge has scored.

`python examples/signal_validity.py FILE [--reference MODEL] [--limit N]`

FILE is a CSV with the columns user_prompt, response and coherence (1 to 5), such as the public per-answer results of
arXiv:2602.04903's authors. Intervals are percentile bootstraps over prompts, as answers to one prompt go together.
"""

import argparse
import asyncio
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from tqdm import tqdm  # type: ignore[import-untyped]

from judges.signals import SIGNALS, Signals, text_signals, with_reference_nll
from model_adapters.backend import Message
from model_adapters.backends.local import open_local
from model_adapters.errors import SteerError
from model_adapters.steering import CONTROL

WORSE_WHEN_HIGH = {"repeated_ngrams", "compression_ratio", "truncated", "language_drift", "reference_nll"}
"""Signals whose high values were expected to go with low coherence, before anything was measured."""

LOW = (2, 3)
RESAMPLES = 1000


async def reference(rows: pd.DataFrame, name: str) -> list[tuple[float | None, str | None]]:
    """Mean negative log-likelihood per token of each answer after its prompt, in nats, or the reason for none."""
    backend = open_local(name, dtype="bfloat16")
    bar = tqdm(total=len(rows), desc="likelihoods")

    async def one(prompt: str, answer: str) -> tuple[float | None, str | None]:
        try:
            found = await backend.score((Message("user", prompt),), answer, CONTROL)
            return -found.total / len(found.logprobs), None
        except SteerError as problem:
            return None, str(problem)
        finally:
            bar.update()

    try:
        return list(await asyncio.gather(*map(one, rows["user_prompt"], rows["response"])))
    finally:
        bar.close()
        await backend.aclose()


def measured(rows: pd.DataFrame, likelihoods: list[tuple[float | None, str | None]] | None) -> list[Signals]:
    """The signals of every row."""
    found = [
        text_signals(answer, prompt=prompt, truncated=None, tagged=False)
        for prompt, answer in zip(rows["user_prompt"], rows["response"], strict=True)
    ]
    if likelihoods is None:
        return found
    return [with_reference_nll(one, *nll) for one, nll in zip(found, likelihoods, strict=True)]


def interval(frame: pd.DataFrame, statistic: str, seed: int = 0) -> str:
    """The statistic of columns value and coherence, with its 95 % bootstrap interval over prompts."""
    clusters = [group for _, group in frame.groupby("user_prompt")]
    generator = np.random.default_rng(seed)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(len(clusters), size=len(clusters))
        drawn.append(computed(pd.concat([clusters[index] for index in chosen]), statistic))
    known = [value for value in drawn if value is not None]
    value = computed(frame, statistic)
    if value is None or len(known) < RESAMPLES / 2:
        return "–"
    low, high = np.percentile(known, [2.5, 97.5])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def computed(frame: pd.DataFrame, statistic: str) -> float | None:
    """Spearman's rank correlation, or the area under the curve for coherence at most 2 or 3; None if undefined."""
    if frame["value"].nunique() < 2:
        return None
    if statistic == "spearman":
        return float(spearmanr(frame["value"], frame["coherence"]).statistic)
    is_low = frame["coherence"] <= int(statistic)
    return float(roc_auc_score(is_low, frame["worse"])) if 0 < is_low.sum() < len(frame) else None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--reference", default="embedded", help="local model of the likelihood signal, or `none`")
    parser.add_argument("--limit", type=int, help="only the first rows")
    given = parser.parse_args()
    rows = pd.read_csv(given.file, keep_default_na=False).head(given.limit)
    rows["coherence"] = pd.to_numeric(rows["coherence"])
    likelihoods = None if given.reference == "none" else asyncio.run(reference(rows, given.reference))
    signals = measured(rows, likelihoods)
    table = Table(
        title=f"{len(rows)} answers; coherence at most 2: {(rows['coherence'] <= 2).sum()}, "
        f"at most 3: {(rows['coherence'] <= 3).sum()}"
    )
    for column in ("signal", "missing", "Spearman with coherence", *(f"AUC for coherence ≤ {low}" for low in LOW)):
        table.add_column(column)
    for name in SIGNALS:
        values = [getattr(one, name) for one in signals]
        frame = rows[["user_prompt", "coherence"]].assign(value=values).dropna().astype({"value": float})
        frame["worse"] = frame["value"] * (1.0 if name in WORSE_WHEN_HIGH else -1.0)
        shown = [interval(frame, statistic) for statistic in ("spearman", *map(str, LOW))] if len(frame) else ["–"] * 3
        table.add_row(name, str(len(rows) - len(frame)), *shown)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
