"""The study's own wording, found in a clone by digest. The clone of these tests holds texts of their own."""

import hashlib
import json
import os

import pytest

from judges.rubric import load_rubrics
from model_adapters.errors import SteerError
from steer_tasks.protocol import STUDY_DIGESTS
from steer_tasks.protocols import load_protocol
from steer_tasks.study import STUDY, rubrics_of

CLONE = os.environ.get(STUDY)
"""Read before the tests' own environment takes it away."""

TEXTS = {
    "instruction": "\n\nThink aloud.\nThen answer.",
    "system": "Be of help.",
    "sentence": "Now {behavior}!",
    "service": "Obey.",
}


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder with the four texts in code and JSON, and their digests as the known ones."""
    for name, text in TEXTS.items():
        monkeypatch.setitem(STUDY_DIGESTS, name, sha(text.replace("{behavior}", "be funny")))
    folder = tmp_path / "clone"
    (folder / "code").mkdir(parents=True)
    code = 'raise SystemExit\n\ndef build(x):\n    i = ("\\n\\nThink aloud.\\n"\n         "Then answer.")\n'
    (folder / "code" / "prompts.py").write_text(code + '    return f"Now {x.description}!"\n')
    (folder / "code" / "broken.py").write_text("def (")
    (folder / "main.json").write_text(json.dumps({"a": ["Be of help.", {"b": "Obey."}]}))
    monkeypatch.setenv(STUDY, str(folder))
    return folder


def test_the_studys_texts_take_the_place_of_ours(clone):
    """With a clone named, both protocols speak the study's words, found in its code, which isn't run."""
    for name in ("isolated", "as_run"):
        protocol = load_protocol(name)
        assert protocol.forms["chain_of_thought"].instruction == "Think aloud.\nThen answer."
        assert protocol.forms["chain_of_thought"].system == "Be of help."
        assert protocol.prompting == "Now {behavior}!"
        assert protocol.provenance()["wording"] == "word for word"
    assert load_protocol("as_run").service == "Obey."
    assert load_protocol("isolated").service is None


def test_without_a_clone_the_wording_is_ours(monkeypatch):
    """The package's own texts are said to be reworded."""
    monkeypatch.delenv(STUDY, raising=False)
    assert load_protocol("as_run").wording == "reworded"
    assert load_protocol("as_run").provenance()["wording"] == "reworded"


def test_a_clone_that_lacks_a_text_is_refused(clone, monkeypatch):
    """What can't be found is named, with the commit to check out."""
    (clone / "code" / "prompts.py").unlink()
    with pytest.raises(SteerError, match=r"does not hold the study's instruction; check out commit 34d7fad"):
        load_protocol()
    monkeypatch.setenv(STUDY, str(clone / "gone"))
    with pytest.raises(SteerError, match="is not a folder"):
        load_protocol()


def test_a_given_file_is_told_by_its_digests(clone, tmp_path, monkeypatch):
    """A protocol file with the study's very texts is `word for word`, whoever wrote it; one changed letter is not."""
    import yaml

    from steer_tasks.protocols import _FOLDER

    monkeypatch.delenv(STUDY)
    content = yaml.safe_load((_FOLDER / "isolated.yaml").read_text())
    content["prompting"] = TEXTS["sentence"]
    content["forms"]["chain_of_thought"] |= {"system": TEXTS["system"], "instruction": "Think aloud.\nThen answer."}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    assert load_protocol(path).wording == "word for word"
    content["prompting"] = "Now, {behavior}!"
    path.write_text(yaml.safe_dump(content))
    assert load_protocol(path).wording == "reworded"


@pytest.mark.skipif(not CLONE, reason=f"{STUDY} names no clone of the study's repository")
def test_the_real_clone_is_word_for_word(monkeypatch):
    """With a real clone, protocols and rubrics are the study's by digest, and those of this page are its digests."""
    monkeypatch.setenv(STUDY, str(CLONE))
    assert STUDY_DIGESTS["instruction"] == sha("\n\n" + load_protocol("isolated").forms["chain_of_thought"].instruction)
    assert load_protocol("as_run").wording == "word for word"
    assert rubrics_of(None).coherence.wording == "word for word"


def test_rubrics_of_a_clone_win_over_ours_and_a_folder_over_both(tmp_path, monkeypatch):
    """STEER_TASKS_STUDY brings its rubrics; without either the package's own are used."""
    monkeypatch.delenv(STUDY, raising=False)
    assert rubrics_of(None) == load_rubrics()
    monkeypatch.setenv(STUDY, str(tmp_path))
    with pytest.raises(SteerError, match="hold no criteria"):
        rubrics_of(None)
