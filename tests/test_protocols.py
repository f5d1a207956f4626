"""Protocols: the messages a question becomes."""

from dataclasses import dataclass

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from model_adapters.backend import Message
from model_adapters.errors import SteerError
from model_adapters.harnesses.documents import FIELD, messages_of, plain_form, to_field
from steer_tasks.protocol import FORMS
from steer_tasks.protocols import load_protocol, protocol_names

OPTIONS = ("1", "2", "four", "5")


@dataclass(frozen=True)
class Asked:
    question: str = "  What is 2 + 2?\n"
    choices: tuple[str, ...] = OPTIONS


def test_chain_of_thought_has_the_studys_layout_in_our_words():
    """The user message is the stripped question, lettered options, a blank line and the tag instruction."""
    protocol = load_protocol()
    system, user = protocol.messages(Asked(), "chain_of_thought")
    instruction = protocol.forms["chain_of_thought"].instruction
    assert user.content == f"What is 2 + 2?\nA. 1\nB. 2\nC. four\nD. 5\n\n{instruction}"
    assert (system.role, user.role) == ("system", "user")
    for tag in ("<thinking>", "</thinking>", "<answer>", "</answer>"):
        assert tag in instruction


def test_letter_form_shows_options_and_cloze_form_does_not():
    """By letter the options are in the message, by option text only the question is."""
    protocol = load_protocol()
    assert "C. four" in protocol.messages(Asked(), "letter")[1].content
    assert "four" not in protocol.messages(Asked(), "cloze")[1].content


def test_no_form_names_a_behavior():
    """What an arm asks for is in none of the protocol's messages, so it can't leak between arms."""
    protocol = load_protocol()
    assert "{behavior}" in protocol.prompting
    for form in FORMS:
        assert "behavior" not in "".join(message.content for message in protocol.messages(Asked(), form))


def test_results_say_that_the_wording_is_ours():
    """The provenance names protocol and wording, and its digest changes with any text."""
    protocol = load_protocol("isolated")
    assert protocol.provenance() == {"name": "isolated", "wording": "reworded", "digest": protocol.digest}
    assert len(protocol.digest) == 16
    assert protocol_names() == ("as_run", "isolated")


def written(tmp_path, change):
    """A copy of the protocol's file with a change made to its content."""
    content = yaml.safe_load(load_file().read_text())
    change(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def load_file():
    from steer_tasks import protocols

    return protocols._FOLDER / "isolated.yaml"


def test_a_file_of_ones_own_is_read(tmp_path):
    """A protocol file of the user's gives its own messages and another digest."""
    path = written(tmp_path, lambda content: content["forms"]["letter"].update(instruction="Only the letter."))
    assert load_protocol(path).messages(Asked(), "letter")[1].content.endswith("\n\nOnly the letter.")
    assert load_protocol(str(path)).digest != load_protocol().digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("prompting"), "'prompting' is missing"),
        (lambda content: content.update(extra=1), "unknown key 'extra'"),
        (lambda content: content["forms"].pop("cloze"), "give chain_of_thought, letter, cloze, open_ended"),
        (lambda content: content["forms"]["cloze"].update(shows_options="no"), "'shows_options' is missing or not"),
        (lambda content: content["forms"]["cloze"].update(system=""), "'system' is missing"),
    ],
)
def test_a_faulty_file_is_refused_by_name(tmp_path, change, said):
    """A protocol file with a missing, unknown, empty or mistyped entry is refused, the file and the entry named."""
    path = written(tmp_path, change)
    with pytest.raises(SteerError, match=said) as caught:
        load_protocol(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_closest(tmp_path):
    """A misspelt protocol is refused with a suggestion, a missing file by its path, a form by the known ones."""
    with pytest.raises(SteerError, match="did you mean 'isolated'"):
        load_protocol("isolate")
    with pytest.raises(SteerError, match=r"gone\.yaml does not exist"):
        load_protocol(tmp_path / "gone.yaml")
    with pytest.raises(SteerError, match="form 'essay' is unknown"):
        load_protocol().messages(Asked(), "essay")


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text()), min_size=1))
def test_messages_survive_a_documents_field(turns):
    """Messages written into a document's field are read back as they were."""
    messages = tuple(Message(role, content) for role, content in turns)
    assert messages_of({FIELD: to_field(messages)}) == messages


def test_plain_form_ends_with_a_blank_line():
    """Without a template the texts stand one after the other, each followed by a blank line."""
    assert plain_form((Message("system", "S"), Message("user", "U"))) == "S\n\nU\n\n"
    assert messages_of({"question": "q"}) is None
    with pytest.raises(SteerError, match=FIELD):
        messages_of({FIELD: "not json"})
