"""Makes the demo dictionary of the embedded model: conversations, residuals, training, labels, and its numbers.

    python examples/train_dictionary.py --work FOLDER --out model_adapters/features/demo
    python examples/evaluate_dictionary.py --out model_adapters/features/demo

About an hour on two cores, most of it for the answers; what is in the work folder already is not made again. The same
seeds on the same machine give the same dictionary; another machine's rounding gives another one of the same kind.
"""

import argparse
import asyncio
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the examples are no installed package

from examples.dictionary import conversations, residuals
from examples.dictionary.autoencoder import Autoencoder, Training, train
from examples.dictionary.card import write_card
from examples.dictionary.labels import labels, top_places
from examples.dictionary.quality import Quality, quality
from examples.dictionary.residuals import Residuals
from model_adapters.backends.local import open_local
from model_adapters.backends.local.backend import LocalBackend
from model_adapters.features.units import measured_factor

LAYER = 14
"""The middle block, (30 - 1) // 2, which is where methods steer by default."""

COUNT, SEED = 2000, 0

PROMPT_SHARE = 0.1
"""Share of prompts' tokens among those trained on: few prompts are seen often, the answers are all different."""

SETTINGS = Training(n_features=2048, k=48, steps=4000, seed=0)


def collected(backend: LocalBackend, work: Path) -> tuple[list[conversations.Conversation], Residuals]:
    """The conversations, answered, and their residuals at `LAYER`; both kept in the work folder."""
    answers, kept = work / "conversations.jsonl", work / "residuals.npz"
    asyncio.run(conversations.answer(backend, conversations.plan(COUNT, SEED), SEED, answers))
    spoken = [one for _, one in conversations.read(answers)]
    if not kept.is_file():
        read = residuals.read(backend, spoken, LAYER)
        np.savez(kept, values=read.values, tokens=read.tokens, places=read.places, said=read.said)
    with np.load(kept, allow_pickle=False) as held:
        return spoken, Residuals(held["values"], held["tokens"], held["places"], held["said"])


def measured(made: Autoencoder, held: Residuals, trained: Residuals) -> dict[str, float]:
    """What the card says of quality: on answers to prompts that were never trained on, and dead features overall."""
    unseen: Quality = quality(made, held.values)
    seen = quality(made, trained.values)
    return {
        "explained": round(unseen.explained, 4),
        "l0": round(unseen.active, 2),
        "held_out_tokens": unseen.tokens,
        "dead": round(seen.dead, 4),
        "trained_tokens": seen.tokens,
    }


def main() -> None:
    """Make the dictionary and write its folder."""
    from safetensors.torch import save_file

    given = argparse.ArgumentParser(description="Train the demo dictionary of the embedded model.")
    given.add_argument("--work", type=Path, required=True, help="folder for conversations and residuals")
    given.add_argument("--out", type=Path, required=True, help="folder of the dictionary")
    asked = given.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    backend = open_local("embedded", dtype="bfloat16")
    spoken, read = collected(backend, asked.work)
    held = np.array([one.held_out for one in spoken])[read.places]
    some = np.random.default_rng(SEED).random(len(read.said)) < PROMPT_SHARE
    trained, unseen = read.only(~held & (read.said | some)), read.only(held & read.said)
    print(f"{len(spoken)} conversations, {len(trained.values)} tokens to learn from, {len(unseen.values)} held out")
    made = train(trained.values, SETTINGS)
    made = Autoencoder.from_tensors(made.tensors(), SETTINGS.k)  # as saved: the numbers are those of float16
    numbers = measured(made, unseen, trained)
    active = made.activations(_floats(unseen.values)).numpy()
    said = read.only(~held & read.said)
    top = top_places(made, said, len(spoken))
    named = labels(top, said, spoken, lambda ids: backend.tokenizer.decode(ids, skip_special_tokens=True))
    backend.close()
    about = {
        "name": "demo",
        "model": "SmolLM2-135M-Instruct",
        "layer": LAYER,
        "activation": f"topk:{SETTINGS.k}",
        "factor": round(measured_factor(active), 1),
        "d_model": read.values.shape[1],
        "n_features": SETTINGS.n_features,
        "conversations": len(spoken),
        "seed": SEED,
        "steps": SETTINGS.steps,
        "batch": SETTINGS.batch,
        "quality": numbers,
    }
    save_file(made.tensors(), asked.out / "dictionary.safetensors")
    (asked.out / "labels.json").write_text(
        json.dumps({str(index): label for index, label in named.items()}, ensure_ascii=False, indent=0) + "\n"
    )
    (asked.out / "dictionary.json").write_text(json.dumps(about, indent=2) + "\n")
    write_card(asked.out)
    print(json.dumps(numbers))


def _floats(values: np.ndarray):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(values.astype(np.float32))


if __name__ == "__main__":
    main()
