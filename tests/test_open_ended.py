"""The open-ended prompts."""

import re
from itertools import chain

import pytest

from model_adapters.behavior import behavior_slugs, find_behavior, neutral_prompts
from steer_tasks import open_ended
from steer_tasks.open_ended import open_ended_digest, open_prompts

ALL = (*open_prompts("common"), *chain.from_iterable(open_prompts(slug)[:10] for slug in behavior_slugs()))


def seen():
    """Every prompt that a method may have learnt from."""
    behaviors = [find_behavior(slug) for slug in behavior_slugs()]
    contrasts = [contrast.prompt for behavior in behaviors for contrast in behavior.contrasts]
    return {*contrasts, *(prompt for behavior in behaviors for prompt in behavior.dev_prompts), *neutral_prompts()}


def words(text):
    return re.findall(r"[a-z']+", text.lower())


def grams(text, n=4):
    return {tuple(words(text)[i : i + n]) for i in range(len(words(text)) - n + 1)}


def test_every_behavior_has_ten_topics_and_the_twenty_common_ones():
    """A behavior's own prompts come first, and their ids are file and line."""
    for slug in behavior_slugs():
        ids = [one.id for one in open_prompts(slug)]
        assert ids == [f"{slug}/{i}" for i in range(10)] + [f"common/{i}" for i in range(20)]


def test_prompts_are_clean_and_asked_once():
    """No prompt is empty, padded or there twice."""
    texts = [one.text for one in ALL]
    assert len(texts) == 160
    assert all(text and text == text.strip() for text in texts)
    assert len({tuple(words(text)) for text in texts}) == 160


def test_no_prompt_was_seen_by_a_method():
    """None equals a contrast, development or neutral prompt, or shares most of its four-word runs with one."""
    used = seen()
    plain = {tuple(words(text)) for text in used}
    runs = [grams(text) for text in used]
    for one in ALL:
        assert tuple(words(one.text)) not in plain
        own = grams(one.text)
        assert all(len(own & other) <= 0.6 * len(own) for other in runs if own), one


@pytest.mark.parametrize("slug", behavior_slugs())
def test_no_prompt_asks_for_its_own_behavior(slug):
    """A topic prompt doesn't hold the behavior's own adjectives, so the unsteered model isn't told to show it."""
    traits = set(words(find_behavior(slug).text)) - {"be", "and", "socially"}
    for one in open_prompts(slug)[:10]:
        assert not traits & set(words(one.text)), one


def test_a_free_behavior_gets_the_common_prompts():
    """A behavior without a file of its own is asked the common prompts alone."""
    assert open_prompts("free-0123abcd") == open_prompts("common")


def test_the_digest_covers_every_text(tmp_path, monkeypatch):
    """One changed word in one file is another digest."""
    before = open_ended_digest()
    for path in open_ended._FOLDER.glob("*.txt"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(open_ended, "_FOLDER", tmp_path)
    assert open_ended_digest() == before
    (tmp_path / "funny.txt").write_text((tmp_path / "funny.txt").read_text().replace("car wash", "dog wash"))
    assert open_ended_digest() != before
