"""The demo dictionary is what its card says it is."""

import json
from pathlib import Path

import numpy as np
import pytest

from examples.dictionary import card
from model_adapters.backend import Message
from model_adapters.behavior import find_behaviors
from model_adapters.features import open_dictionary

FOLDER = Path(__file__).parent.parent / "model_adapters" / "features" / "demo"
ABOUT = json.loads((FOLDER / "dictionary.json").read_text())
EFFECT = json.loads((FOLDER / "effect.json").read_text())


def test_it_is_small_and_whole():
    """The folder is under 6 MB, and every feature has finite weights, a direction of length 1 and a label."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6_000_000
    dictionary = open_dictionary("demo")
    assert (dictionary.n_features, dictionary.d_model, dictionary.layer) == (2048, 576, 14)
    rows = dictionary.rows(range(dictionary.n_features))
    assert all(np.isfinite(part).all() for part in (rows.encoder, rows.bias, rows.decoder))
    assert np.allclose(rows.decoder_norms, 1, atol=2e-3)
    assert set(dictionary.labels) == set(range(2048))
    assert all(label.strip() for label in dictionary.labels.values())


def test_the_card_is_written_from_the_numbers(tmp_path):
    """The committed card is exactly what the committed numbers give."""
    for name in ("dictionary.json", "effect.json"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    card.write_card(tmp_path)
    assert (tmp_path / "README.md").read_text() == (FOLDER / "README.md").read_text()


def test_the_card_says_where_the_edits_do_nothing():
    """Every behavior is reported, and those whose edits don't beat 95 % of random triples are named."""
    text = (FOLDER / "README.md").read_text()
    assert set(EFFECT["behaviors"]) == {behavior.slug for behavior in find_behaviors("all")}
    assert EFFECT["triples"] == 20
    weak = [slug for slug, one in EFFECT["behaviors"].items() if one["beaten"] < 0.95]
    named = text.split("Below 95 % are ")[1].split(":")[0].split(", ") if weak else []
    assert named == weak


@pytest.mark.embedded
def test_it_explains_the_models_own_text():
    """On answers it never saw, written here, it explains about the share of variance that the card states."""
    import asyncio

    from model_adapters.backends.local import open_local

    texts = [
        ("How do bees make honey?", "Bees collect nectar from flowers, carry it home, and fan it until it thickens."),
        ("What is a loan?", "A loan is money that somebody lends you and that you pay back over time, with interest."),
        ("Describe the sea.", "The sea is wide and blue, and it moves all day long under the wind and the moon."),
    ]

    async def residuals():
        backend = open_local("embedded")
        read = [await backend.activations((Message("user", prompt),), answer) for prompt, answer in texts]
        await backend.aclose()
        return np.concatenate([one[14] for one in read])

    hidden, dictionary = asyncio.run(residuals()), open_dictionary("demo")
    active = dictionary.encode(hidden)
    assert (np.count_nonzero(active, axis=1) <= 48).all()
    error = ((hidden - dictionary.decode(active)) ** 2).sum()
    explained = 1 - error / ((hidden - hidden.mean(axis=0)) ** 2).sum()
    assert explained == pytest.approx(ABOUT["quality"]["explained"], abs=0.12)
