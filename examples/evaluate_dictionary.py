"""Whether Auto Steer over a dictionary does anything: its edits against random triples of equal push, per behavior.

    python examples/evaluate_dictionary.py --out model_adapters/features/demo

Finds edits with one half of a behavior's written contrasts and measures them on the other half, both ways round.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the examples are no installed package

from examples.dictionary.card import write_card
from model_adapters.auto_steer import AutoSteerOptions, find_edits
from model_adapters.backend import Message
from model_adapters.backends.local import open_local
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.behavior import Behavior, Contrast, find_behaviors
from model_adapters.features import Dictionary, open_dictionary
from model_adapters.steering import CONTROL, AddVector, FeatureEdit, Steering

TRIPLES, SEED = 20, 0


def pushes(edits: Sequence[FeatureEdit], dictionary: Dictionary) -> Steering:
    """The edits as vectors."""
    rows = dictionary.rows([edit.index for edit in edits])
    return Steering(
        tuple(
            AddVector(dictionary.layer, decoder, dictionary.factor * edit.value)
            for decoder, edit in zip(rows.decoder, edits, strict=True)
        )
    )


def total_push(steering: Steering) -> np.ndarray:
    """The sum of what is added, `(d_model,)`."""
    return np.sum([one.vector * one.coefficient for one in steering.on_residuals], axis=0)  # type: ignore[union-attr]


def random_triples(edits: Sequence[FeatureEdit], dictionary: Dictionary, seed: int) -> list[Steering]:
    """As many random features with the same values, scaled so that what is added has the same norm."""
    random, wanted = np.random.default_rng(seed), np.linalg.norm(total_push(pushes(edits, dictionary)))
    made = []
    for _ in range(TRIPLES):
        indices = random.choice(dictionary.n_features, len(edits), replace=False)
        one = pushes([replace(edit, index=int(i)) for edit, i in zip(edits, indices, strict=True)], dictionary)
        made.append(one.scaled(float(wanted / np.linalg.norm(total_push(one)))))
    return made


async def llr(backend: LocalBackend, contrasts: Sequence[Contrast], steering: Steering) -> float:
    """Mean log-likelihood per token of answers with the behavior, minus that of answers without it."""

    async def mean(prompt: str, text: str) -> float:
        scored = await backend.score((Message("user", prompt),), text, steering)
        return scored.total / len(scored.logprobs)

    found = await asyncio.gather(
        *(mean(pair.prompt, text) for pair in contrasts for text in (pair.positive, pair.negative))
    )
    return float(np.mean(found[0::2]) - np.mean(found[1::2]))


async def measured(behavior: Behavior, backend: LocalBackend, dictionary: Dictionary) -> dict[str, float]:
    """Edits' and random triples' gain in llr, averaged over the two halves."""
    edited, random = [], []
    for half in (0, 1):
        finding, judging = behavior.contrasts[half::2], behavior.contrasts[1 - half :: 2]
        options = AutoSteerOptions(pairs=len(finding))
        found = await find_edits(replace(behavior, contrasts=finding), backend, dictionary, options, draw=0)
        steerings = [CONTROL, pushes(found.edits, dictionary), *random_triples(found.edits, dictionary, SEED + half)]
        plain, ours, *others = await asyncio.gather(*(llr(backend, judging, one) for one in steerings))
        edited.append(ours - plain)
        random.append([other - plain for other in others])
    triples = np.mean(random, axis=0)
    return {
        "edits": round(float(np.mean(edited)), 5),
        "random_mean": round(float(triples.mean()), 5),
        "random_highest": round(float(triples.max()), 5),
        "beaten": round(float((triples < np.mean(edited)).mean()), 4),
    }


def main() -> None:
    """Measure every behavior, print a line for each, and write the card."""
    given = argparse.ArgumentParser(description="Measure what Auto Steer's edits do, against random ones.")
    given.add_argument("--out", type=Path, required=True, help="folder of the dictionary")
    asked = given.parse_args()
    backend, dictionary = open_local("embedded"), open_dictionary(asked.out)
    found = {}
    for behavior in find_behaviors("all"):
        found[behavior.slug] = asyncio.run(measured(behavior, backend, dictionary))
        print(behavior.slug, json.dumps(found[behavior.slug]), flush=True)
    backend.close()
    about = {"triples": TRIPLES, "seed": SEED, "dtype": backend.identity.dtype, "behaviors": found}
    (asked.out / "effect.json").write_text(json.dumps(about, indent=2) + "\n")
    write_card(asked.out)


if __name__ == "__main__":
    main()
