"""The dictionary's card, written from its own numbers so that the two can't differ. Standard library only."""

import json
from pathlib import Path
from typing import Any

CARD = """# The demo dictionary

A sparse autoencoder over the residual stream of the embedded model ({model}), for trying feature steering without a
download. It is small, and it saw little text: don't take its labels for findings about the model.

| what | value |
| --- | ---: |
| hook point | output of block {layer} (0-based) |
| features | {n_features} of width {d_model}, float16 |
| activation | {activation}: the {k} largest after the relu |
| active features per token (L0) | {l0} |
| dead features, over the {trained_tokens} tokens it learnt from | {dead:.1%} |
| variance explained on text it didn't see | {explained:.3f} ({held_out_tokens} tokens) |
| factor: its units per unit of an edit's value | {factor} |

`python examples/train_dictionary.py --work FOLDER --out FOLDER` makes it again and prints these numbers.

**What it saw.** {conversations} conversations: questions, topics and ways of answering written for this package
(`examples/dictionary/*.txt`; 60 % ask for one of the 14 behaviors in other words than the behaviors' files have),
answered by the model itself at temperature 0.9, at most 160 tokens, seed {seed}. 94 % of the prompts are trained on,
the others' answers are the text it didn't see. No MMLU question, and none of the behaviors' contrasts or development
prompts, is among them. The first position of every text is left out. {steps} steps of {batch} tokens, Adam.

**Labels** are read off the answers that activate each feature most: in quotes the tokens it is active on, after “near”
the words that stand around them unusually often, and the behavior whose answers activate it most, where that is
clear. No model wrote them.

**Factor**: the median over features of the 0.99 quantile of their activations where they are active, on the held-out
answers (`model_adapters.features.measured_factor`). An edit of 1.0 adds about what a typical feature shows at its
strongest.

**Licence**: that of this package (MIT). The model whose residuals it describes is Apache-2.0.
"""

EFFECT = """
## Does it do anything?

For each behavior, Auto Steer looks for edits with half of its written contrasts; on the other half we measure by how
much the edits raise the mean log-likelihood per token of answers that show the behavior against answers that don't
(`llr`), and compare with {triples} random triples of features with the same values, which push equally hard. Seed
{seed}, both halves taken in turn. Chance puts 5 % of behaviors above 95 % of the random triples.

| behavior | edits' llr | random triples: mean | highest | edits beat |
| --- | ---: | ---: | ---: | ---: |
{rows}

Beaten by the edits in both halves together: at least 95 % of the triples for {above} of {count} behaviors, more than
half for {half}. Mean over behaviors: {mean:+.4f} for the edits, {random:+.4f} for random triples. {below}

`python examples/evaluate_dictionary.py --out FOLDER` measures this again.
"""


def write_card(folder: Path) -> None:
    """Write `README.md` from `dictionary.json` and, where it is there, `effect.json`."""
    about: dict[str, Any] = json.loads((folder / "dictionary.json").read_text())
    kept = about["activation"].partition(":")[2]
    text = CARD.format(**{**about, **about["quality"], "k": kept})
    effect = folder / "effect.json"
    if effect.is_file():
        text += _effect(json.loads(effect.read_text()))
    (folder / "README.md").write_text(text, encoding="utf-8")


def _effect(found: dict[str, Any]) -> str:
    behaviors: dict[str, dict[str, float]] = found["behaviors"]
    shown = "| {} | {edits:+.4f} | {random_mean:+.4f} | {random_highest:+.4f} | {beaten:.0%} |"
    rows = [shown.format(slug, **one) for slug, one in behaviors.items()]
    low = [slug for slug, one in behaviors.items() if one["beaten"] < 0.95]
    said = f"Below 95 % are {', '.join(low)}: there, don't expect its edits to do what they say." if low else ""
    return EFFECT.format(
        triples=found["triples"],
        seed=found["seed"],
        rows="\n".join(rows),
        above=len(behaviors) - len(low),
        half=sum(one["beaten"] > 0.5 for one in behaviors.values()),
        count=len(behaviors),
        mean=sum(one["edits"] for one in behaviors.values()) / len(behaviors),
        random=sum(one["random_mean"] for one in behaviors.values()) / len(behaviors),
        below=said,
    )
