"""Behaviors: the package's fourteen, a user's own file, free text, and what is refused."""

import json
import os
import re
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from model_adapters import behavior as module
from model_adapters.behavior import (
    Behavior,
    Contrast,
    behavior_slugs,
    find_behavior,
    find_behaviors,
    neutral_prompts,
)
from model_adapters.errors import SteerError

FOLDER = Path(module.__file__).parent / "behaviors"

STUDY = {
    "funny": "be funny",
    "professional": "be professional and formal",
    "imaginative": "be creative and imaginative",
    "concise": "be concise and direct",
    "empathetic": "be empathetic and supportive",
    "educational": "be educational and accessible",
    "analytical": "be skeptical and analytical",
    "motivational": "be motivational and inspiring",
    "technical": "be technical and detailed",
    "diplomatic": "be diplomatic and balanced",
    "persuasive": "be persuasive and socially influential",
    "emotional": "be emotional and empathetic",
    "authoritative": "be authoritative and confident",
    "misleading": "be misleading and ambiguous",
}

GOOD: dict[str, Any] = {
    "slug": "pirate",
    "text": "talk like a pirate",
    "description": "Salty words.",
    "contrasts": [{"prompt": "Hello?", "positive": "Ahoy, matey!", "negative": "Hello there!"}],
    "dev_prompts": ["Where is the harbour?"],
}


def same(text: str) -> str:
    return " ".join(text.split()).casefold()


def words(text: str) -> int:
    return len(text.split())


def first_word(text: str) -> str:
    return re.sub(r"[^\w']", "", text.split()[0])


def written(folder: Path, content: object) -> str:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def refusal(name: object) -> str:
    with pytest.raises(SteerError) as caught:
        find_behavior(name)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# The package's fourteen


def test_slugs_and_texts_are_the_study_s_in_its_order():
    """The package has the study's 14 behaviors, in its order and wording, and `all` means exactly those."""
    assert list(behavior_slugs()) == list(STUDY)
    assert {b.slug: b.text for b in find_behaviors("all")} == STUDY
    assert [b.slug for b in find_behaviors("all")] == list(STUDY)
    assert {path.stem for path in FOLDER.iterdir()} == set(STUDY)


@pytest.mark.parametrize("slug", STUDY)
def test_each_behavior_has_twelve_contrasts_and_six_dev_prompts(slug):
    """Each behavior holds 12 contrasts over different prompts and 6 dev prompts, all on one line each."""
    behavior = find_behavior(slug)
    assert len({same(c.prompt) for c in behavior.contrasts}) == len(behavior.contrasts) == 12
    assert len({same(p) for p in behavior.dev_prompts}) == len(behavior.dev_prompts) == 6
    texts = [behavior.description, *behavior.dev_prompts]
    texts += [text for c in behavior.contrasts for text in (c.prompt, c.positive, c.negative)]
    assert [text for text in texts if text != " ".join(text.split())] == []


@pytest.mark.parametrize("slug", STUDY)
def test_answers_differ_in_the_behavior_and_not_in_length(slug):
    """Both answers have 25 to 60 words and a similar count, except under `concise`, where brevity is the behavior."""
    for contrast in find_behavior(slug).contrasts:
        positive, negative = words(contrast.positive), words(contrast.negative)
        assert 25 <= negative <= 60, contrast
        if slug == "concise":
            assert positive * 3 < negative, contrast
        else:
            assert 25 <= positive <= 60, contrast
            assert 1 / 1.6 <= positive / negative <= 1.6, contrast


@pytest.mark.parametrize("slug", STUDY)
def test_answers_open_with_different_words(slug):
    """No two positive and no two negative answers of a behavior share their first word, nor do the two of a pair."""
    contrasts = find_behavior(slug).contrasts
    for side in ("positive", "negative"):
        counts = Counter(first_word(getattr(c, side)) for c in contrasts)
        assert [word for word, n in counts.items() if n > 1] == []
    assert [c for c in contrasts if first_word(c.positive) == first_word(c.negative)] == []


def test_dev_prompts_never_overlap_contrasts_or_neutral_prompts():
    """Over all behaviors, contrast prompts, dev prompts and neutral prompts are three disjoint sets."""
    behaviors = find_behaviors("all")
    kinds = [
        {same(c.prompt) for b in behaviors for c in b.contrasts},
        {same(p) for b in behaviors for p in b.dev_prompts},
        {same(p) for p in neutral_prompts()},
    ]
    assert [one & other for one, other in combinations(kinds, 2)] == [set(), set(), set()]


def test_neutral_prompts_are_twenty_four_fixed_lines():
    """There are 24 different neutral prompts, the same object at each call, and none is blank."""
    prompts = neutral_prompts()
    assert len({same(p) for p in prompts}) == len(prompts) == 24
    assert all(p == p.strip() and p for p in prompts)
    assert neutral_prompts() is prompts


def test_no_prompt_is_a_test_question():
    """No contrast, dev or neutral prompt equals an MMLU question, so nothing learnt here leaks into the test."""
    shared = Path(os.environ.get("STEER_TASKS_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data" / "mmlu_dev.json"
    if not path.is_file():
        pytest.skip(f"the MMLU development questions are not at {path}")
    questions = {same(row["question"]) for row in json.loads(path.read_text(encoding="utf-8"))}
    assert len(questions) > 250
    behaviors = find_behaviors("all")
    prompts = [c.prompt for b in behaviors for c in b.contrasts] + [p for b in behaviors for p in b.dev_prompts]
    assert [p for p in [*prompts, *neutral_prompts()] if same(p) in questions] == []


# Names


@pytest.mark.parametrize(("slug", "text"), STUDY.items())
def test_a_slug_and_the_study_s_text_name_the_same_behavior(slug, text):
    """`funny`, `be funny` and ` Be  FUNNY ` are one behavior, and so is the path of its file."""
    expected = find_behavior(slug)
    assert expected.slug == slug
    for name in (text, f"  {text.upper().replace(' ', '  ')} ", slug.title(), str(FOLDER / f"{slug}.yaml")):
        assert find_behavior(name) == expected


def test_other_text_is_a_free_behavior():
    """Any other text of several words is a behavior with a slug of its own and nothing to learn from."""
    free = find_behavior("  talk like   a pirate ")
    # sha256("talk like a pirate"), first 8 digits, by sha256sum
    assert free.slug == "free-371b20bd"
    assert (free.text, free.contrasts, free.dev_prompts) == ("talk like a pirate", (), ())
    assert find_behavior("talk like a pirate") == free
    assert find_behavior("talk like a parrot").slug != free.slug


def test_a_misspelt_slug_is_an_error_that_names_the_close_one():
    """A single unknown word is taken for a typo, never for a behavior."""
    assert refusal("fuuny") == (
        "Unknown behavior 'fuuny'; did you mean 'funny'? `steer behaviors` lists them; "
        "free text needs more than one word"
    )
    assert refusal("qqq") == (
        "Unknown behavior 'qqq'; `steer behaviors` lists them; free text needs more than one word"
    )


@pytest.mark.parametrize("name", ["funny,concise", "be funny, concise", " Funny , be concise and direct"])
def test_a_comma_list_is_not_mistaken_for_free_text(name):
    """Several known behaviors in one text are refused with the remedy instead of becoming one strange behavior."""
    assert refusal(name).endswith("give them as a list")
    assert find_behavior("be calm, kind").text == "be calm, kind"


@pytest.mark.parametrize("name", ["", "  ", 3, True, None])
def test_a_name_that_is_no_text_is_refused(name):
    """An empty name, or a value that a command line turned into a number or a truth value, is refused."""
    assert "`steer behaviors`" in refusal(name)


def test_find_behaviors_takes_one_a_list_or_all():
    """One name, a list in its own order, and `all` are understood; nothing and repetition are refused."""
    assert [b.slug for b in find_behaviors("be funny")] == ["funny"]
    assert [b.slug for b in find_behaviors(["technical", "be funny"])] == ["technical", "funny"]
    assert find_behaviors([" ALL "]) == find_behaviors("all")
    with pytest.raises(SteerError, match="No behavior is named"):
        find_behaviors([])
    with pytest.raises(SteerError, match="'funny' is named twice"):
        find_behaviors(["funny", "be funny"])
    with pytest.raises(SteerError, match="'concise' is named twice"):
        find_behaviors(["concise", "all"])
    with pytest.raises(SteerError, match="did you mean 'funny'"):
        find_behaviors(["technical", "fuuny"])


# Files


def test_a_user_s_file_is_a_behavior(tmp_path):
    """A YAML file of the same form names a behavior of the user's own, in .yaml and .yml alike."""
    expected = Behavior(
        "pirate",
        "talk like a pirate",
        "Salty words.",
        (Contrast("Hello?", "Ahoy, matey!", "Hello there!"),),
        ("Where is the harbour?",),
    )
    path = Path(written(tmp_path, GOOD))
    assert find_behavior(str(path)) == expected
    renamed = path.rename(tmp_path / "two words.YML")
    assert find_behavior(str(renamed)) == expected


def test_empty_lists_are_allowed(tmp_path):
    """A user's behavior may come without contrasts and dev prompts, said by empty lists."""
    behavior = find_behavior(written(tmp_path, {**GOOD, "contrasts": [], "dev_prompts": []}))
    assert (behavior.contrasts, behavior.dev_prompts) == ((), ())


@pytest.mark.parametrize("key", list(GOOD))
def test_a_missing_key_is_named(tmp_path, key):
    """A file that lacks a key is refused, and the error names file and key."""
    path = written(tmp_path, {k: v for k, v in GOOD.items() if k != key})
    assert refusal(path).startswith(f"{path} lacks the key {key!r}; ")


def test_an_unknown_key_is_named(tmp_path):
    """A misspelt key is refused by name at the top and inside a contrast, instead of being ignored."""
    path = written(tmp_path, {**GOOD, "contrast": []})
    assert refusal(path).startswith(f"{path} has the unknown key 'contrast'; the keys are slug, text, ")
    path = written(tmp_path, {**GOOD, "contrasts": [{**GOOD["contrasts"][0], "postive": "Arr"}]})
    assert refusal(path).startswith(f"{path}: contrasts[0] has the unknown key 'postive'; ")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"slug": 7}, ": slug must be text, not int 7; put it in quotes"),
        ({"slug": "Two Words"}, ": slug 'Two Words' must be at most 64 lower-case letters, digits and single hyphens"),
        ({"slug": "a/b"}, ": slug 'a/b' must be at most 64 lower-case letters, digits and single hyphens"),
        ({"slug": "a" * 65}, f": slug '{'a' * 65}' must be at most 64 lower-case letters, digits and single hyphens"),
        ({"slug": "all"}, ": slug 'all' has a meaning of its own; choose another"),
        ({"slug": "free-0"}, ": slug 'free-0' has a meaning of its own; choose another"),
        ({"slug": "funny"}, ": slug 'funny' belongs to a behavior of the package; choose another"),
        ({"text": " "}, ": text is empty; write some text"),
        ({"description": None}, ": description must be text, not NoneType None; put it in quotes"),
        ({"contrasts": None}, ": contrasts must be a list, not NoneType; write [] for none"),
        ({"contrasts": ["x"]}, ": contrasts[0] must be a mapping of prompt, positive, negative, not str"),
        (
            {"contrasts": [{"prompt": "Is it?", "positive": True, "negative": "b"}]},
            ": contrasts[0]: positive must be text, not bool True; put it in quotes",
        ),
        (
            {"contrasts": [{"prompt": "Is it?", "positive": "a", "negative": "a"}]},
            ": contrasts[0]: positive and negative are the same answer; only the first may show the behavior",
        ),
        ({"dev_prompts": "Why?"}, ": dev_prompts must be a list, not str; write [] for none"),
        ({"dev_prompts": ["Why?", 1.5]}, ": dev_prompts[1] must be text, not float 1.5; put it in quotes"),
        (
            {"dev_prompts": ["  hello? "]},
            ": dev prompt '  hello? ' is used already; dev and contrast prompts must differ",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_place(tmp_path, change, expected):
    """A value of the wrong type or meaning is refused with file, place, what came and what to do."""
    path = written(tmp_path, {**GOOD, **change})
    assert refusal(path) == path + expected


def test_a_file_that_is_no_behavior_is_refused(tmp_path):
    """A missing, empty, foreign, undecodable or unsafe file, a folder and a key given twice are refused by name."""
    assert refusal(str(tmp_path / "none.yaml")).endswith("none.yaml does not exist; check the path")
    assert "must be a mapping of slug, text, " in refusal(written(tmp_path, ""))
    assert "must be a mapping of slug, text, " in refusal(written(tmp_path, "- a\n- b\n"))
    assert "key 'text' is given twice" in refusal(written(tmp_path, yaml.safe_dump(GOOD) + "text: another\n"))
    assert "is not valid YAML" in refusal(written(tmp_path, "slug: !!python/object/apply:os.getcwd []\n"))
    assert "is not valid YAML" in refusal(written(tmp_path, "[" * 5000))
    (tmp_path / "latin.yaml").write_bytes("slug: caf\u00e9".encode("latin-1"))
    assert refusal(str(tmp_path / "latin.yaml")).endswith("is not UTF-8 text; save it as UTF-8")
    (tmp_path / "folder.yaml").mkdir()
    assert "can't be read" in refusal(str(tmp_path / "folder.yaml"))
    assert "can't be read" in refusal("nul\0.yaml")
    assert "has a line break in its name" in refusal("two\nlines.yaml")


def test_an_alias_bomb_is_refused_in_a_short_line(tmp_path):
    """Nested YAML aliases that would unfold to millions of items end in one short line."""
    bomb = "\n".join(["a: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])
    assert len(refusal(written(tmp_path, bomb))) < 300
    lines = ["slug: s", "text: t", "description: d", "contrasts: []", "dev_prompts:", "  - &b0 [x, x]"]
    lines += [f"  - &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 12)]
    lines.append(lines.pop(5))
    assert len(refusal(written(tmp_path, "\n".join(lines)))) < 300


@pytest.mark.parametrize("slug", ["funny", "technical"])
def test_a_truncated_file_is_never_taken_for_a_whole_one(tmp_path, slug):
    """A file cut off before its last list is refused; cut inside it, what loads differs in digest from the whole."""
    whole = (FOLDER / f"{slug}.yaml").read_text(encoding="utf-8").replace(f"slug: {slug}", "slug: mine")
    digest = find_behavior(written(tmp_path, whole)).digest
    last_list = whole.index("dev_prompts:")
    for cut in range(0, len(whole) - 1, 487):
        path = written(tmp_path, whole[:cut])
        if cut <= last_list:
            refusal(path)
        else:
            assert find_behavior(path).digest != digest


# Identity

# Shared machines are slow at times; how long one example takes says nothing about the product.
unhurried = settings(deadline=None)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
CONTRAST = st.builds(Contrast, TEXT, TEXT, TEXT)
BEHAVIOR = st.builds(Behavior, TEXT, TEXT, TEXT, st.lists(CONTRAST).map(tuple), st.lists(TEXT).map(tuple))


def test_a_behavior_can_not_be_changed():
    """Behaviors and contrasts are frozen, so one arm can't alter what the next one sees."""
    behavior = find_behavior("funny")
    with pytest.raises(FrozenInstanceError):
        behavior.text = "be sad"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        behavior.contrasts[0].positive = "x"  # type: ignore[misc]


def test_the_digest_is_the_same_on_every_machine():
    """A digest is the first 16 digits of SHA-256 over key-sorted compact JSON, hand-made here."""
    behavior = Behavior("s", "t", "d", (Contrast("p", "é", "n"),), ("v",))
    # printf '{"contrasts":[{"negative":"n","positive":"\\u00e9","prompt":"p"}],…,"text":"t"}' | sha256sum
    assert behavior.digest == "b7e246ad22f32fcb"


@unhurried
@given(BEHAVIOR, BEHAVIOR)
def test_equal_digests_mean_equal_content(one, other):
    """Two behaviors have the same digest exactly when all of their content is the same."""
    assert (one.digest == other.digest) == (one == other)
    assert replace(one).digest == one.digest
    assert re.fullmatch("[0-9a-f]{16}", one.digest)


@unhurried
@given(BEHAVIOR, CONTRAST, TEXT)
def test_every_part_of_a_behavior_counts_in_its_digest(behavior, contrast, text):
    """Changing, adding, moving or dropping any text of a behavior changes its digest."""
    variants = [
        replace(behavior, slug=behavior.slug + text),
        replace(behavior, text=behavior.text + text),
        replace(behavior, description=behavior.description + text),
        replace(behavior, contrasts=(*behavior.contrasts, contrast)),
        replace(behavior, contrasts=(*behavior.contrasts, replace(contrast, positive=contrast.positive + text))),
        replace(behavior, contrasts=(*behavior.contrasts, replace(contrast, negative=contrast.negative + text))),
        replace(behavior, contrasts=(*behavior.contrasts, replace(contrast, prompt=contrast.prompt + text))),
        replace(behavior, dev_prompts=(*behavior.dev_prompts, text)),
        replace(behavior, dev_prompts=(*behavior.dev_prompts, text, text)),
    ]
    digests = {behavior.digest, *(variant.digest for variant in variants)}
    assert len(digests) == 1 + len(variants)


@unhurried
@given(BEHAVIOR, st.from_regex(r"[a-z0-9]{1,20}(-[a-z0-9]{1,20}){0,2}", fullmatch=True))
def test_a_behavior_survives_its_file(tmp_path_factory, behavior, slug):
    """A behavior written as YAML and read back is equal, digest included."""
    prompts = [same(c.prompt) for c in behavior.contrasts] + [same(p) for p in behavior.dev_prompts]
    assume(len(set(prompts)) == len(prompts))
    assume(all(c.positive != c.negative for c in behavior.contrasts))
    assume(slug not in (*STUDY, "all") and not slug.startswith("free-"))
    behavior = replace(behavior, slug=slug)
    content = {
        "slug": slug,
        "text": behavior.text,
        "description": behavior.description,
        "contrasts": [{"prompt": c.prompt, "positive": c.positive, "negative": c.negative} for c in behavior.contrasts],
        "dev_prompts": list(behavior.dev_prompts),
    }
    read = find_behavior(written(tmp_path_factory.mktemp("yaml"), content))
    assert read == behavior
    assert read.digest == behavior.digest


@unhurried
@given(st.text() | st.text().map("{}.yaml".format))
def test_any_text_is_a_behavior_or_one_line_of_refusal(name):
    """No text whatever ends in anything but a behavior or a SteerError."""
    try:
        found, line = find_behavior(name), "one line"
    except SteerError as error:
        found, line = None, str(error)
    assert len(line.splitlines()) == 1
    assert found == (find_behavior(name) if found else None)
