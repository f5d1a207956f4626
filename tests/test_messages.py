"""What is sent: system prompts among messages, prompts that a steering can't enter, and proofs that don't fit."""

# Vectors are given as lists here, which the product takes.
# mypy: disable-error-code="arg-type"

from dataclasses import replace

import pytest

from model_adapters.backend import (
    Message,
    Messages,
    Proof,
    Sampling,
    Text,
    check_applied,
    prompt_refusals,
    with_system_prompts,
)
from model_adapters.errors import NotApplied, Refused
from model_adapters.identity import ModelIdentity
from model_adapters.steering import CONTROL, AddVector, Placement, Steering, SystemPrompt

ASK = Message("user", "What is 2 + 2?")
TALK: Messages = (Message("system", "You are a tutor."), ASK, Message("assistant", "Four."), Message("user", "Why?"))
FUNNY = SystemPrompt("Be funny.")
IDENTITY = ModelIdentity("some/model", "fake")


def prompted(*some: tuple[str, Placement]) -> Steering:
    return Steering(tuple(SystemPrompt(text, placement) for text, placement in some))


def systems(messages: Messages) -> list[str]:
    return [message.content for message in messages if message.role == "system"]


@pytest.mark.parametrize(
    ("placement", "expected"),
    [
        ("after", ["You are a tutor.\n\nBe funny."]),
        ("before", ["Be funny.\n\nYou are a tutor."]),
        ("replace", ["Be funny."]),
        ("separate", ["You are a tutor.", "Be funny."]),
    ],
)
def test_a_prompt_joins_the_system_message(placement, expected):
    """Each placement puts the text exactly where it says, and the other turns stay as they are, in order."""
    sent = with_system_prompts(TALK, prompted(("Be funny.", placement)))
    assert sent == (*(Message("system", text) for text in expected), *TALK[1:])
    assert systems(TALK) == ["You are a tutor."]


@pytest.mark.parametrize("placement", ["after", "before", "replace", "separate"])
def test_without_a_system_message_the_prompt_is_one(placement):
    """Where there is no system message, every placement makes one at the front, of the text alone."""
    assert with_system_prompts((ASK,), prompted(("Be funny.", placement))) == (Message("system", "Be funny."), ASK)


@pytest.mark.parametrize(
    ("some", "expected"),
    [
        ([("A", "after"), ("B", "after")], ["S\n\nA\n\nB"]),
        ([("A", "before"), ("B", "before")], ["B\n\nA\n\nS"]),
        ([("A", "before"), ("B", "after")], ["A\n\nS\n\nB"]),
        ([("A", "separate"), ("B", "separate")], ["S", "A", "B"]),
        ([("A", "replace"), ("B", "after")], ["A\n\nB"]),
        ([("A", "after"), ("B", "replace")], ["B\n\nA"]),
        ([("A", "separate"), ("B", "replace")], ["B", "A"]),
    ],
)
def test_several_prompts_act_in_order(some, expected):
    """Prompts act one after the other; one that replaces acts first, so that it never takes another prompt away."""
    sent = with_system_prompts((Message("system", "S"), ASK), prompted(*some))
    assert sent == (*(Message("system", text) for text in expected), ASK)


def test_a_separate_prompt_follows_all_system_messages_at_its_place():
    """A separate prompt comes after the system messages that stand together, before the next turn."""
    messages = (Message("system", "S"), Message("system", "T"), ASK, Message("system", "Later."))
    sent = with_system_prompts(messages, prompted(("A", "separate")))
    assert sent == (*messages[:2], Message("system", "A"), *messages[2:])


@pytest.mark.parametrize("steering", [CONTROL, Steering((AddVector(0, [1.0]),))])
def test_what_has_no_prompt_sends_the_same_messages(steering):
    """The control and a steering of residuals only add no message and change none."""
    assert with_system_prompts(TALK, steering) == TALK


# Refusals


def test_a_rendered_text_takes_no_system_prompt():
    """A system prompt is refused for rendered text, with the remedy; messages and prompt-free steerings pass."""
    steering = Steering((FUNNY,))
    assert prompt_refusals(Text("<s>Hi"), steering) == [
        "a system prompt can't enter a text that is already rendered; send messages, or use the chat template"
    ]
    assert prompt_refusals((ASK,), steering) == []
    assert prompt_refusals(Text("<s>Hi"), CONTROL) == []
    assert prompt_refusals(Text("<s>Hi"), Steering((AddVector(0, [1.0]),))) == []


def test_a_text_rendered_with_the_prompt_is_sent():
    """A text that was rendered with exactly the steering's prompts passes; with any others it doesn't."""
    other = SystemPrompt("Be sad.")
    assert prompt_refusals(Text("…", (FUNNY,)), Steering((FUNNY, AddVector(0, [1.0])))) == []
    for entered, steering in [
        ((other,), Steering((FUNNY,))),
        ((FUNNY,), Steering((FUNNY, FUNNY))),
        ((FUNNY, other), Steering((FUNNY,))),
        ((FUNNY,), CONTROL),
        ((FUNNY, other), Steering((other, FUNNY))),
    ]:
        assert prompt_refusals(Text("…", entered), steering) == [
            "the text was rendered with other system prompts than this steering's; render it with this one"
        ]


def test_no_messages_are_refused():
    """An empty conversation is refused."""
    assert prompt_refusals((), CONTROL) == ["there are no messages; send at least one"]


def test_a_proof_fits_the_steering_and_the_run():
    """A proof of the steering and run that were asked for passes; another steering or model is withheld by name."""
    asked, other = Steering((FUNNY,)), Steering((SystemPrompt("Be sad."),))
    run = IDENTITY.run(asked.fingerprint)
    good = Proof("sent", asked.fingerprint, run)
    check_applied(asked, good, IDENTITY)
    with pytest.raises(NotApplied) as caught:
        check_applied(asked, replace(good, fingerprint=other.fingerprint), IDENTITY)
    assert str(caught.value) == (
        f"steering {asked.fingerprint} was asked for, {other.fingerprint} was applied; the answer is withheld"
    )
    elsewhere = ModelIdentity("other/model", "fake")
    with pytest.raises(NotApplied) as caught:
        check_applied(asked, good, elsewhere)
    assert str(caught.value) == (
        f"run {elsewhere.run(asked.fingerprint)} was asked for, {run} answered; the answer is withheld"
    )
    with pytest.raises(NotApplied):
        check_applied(CONTROL, good, IDENTITY)


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"top_k": 0},
        {"stop": ("a", "")},
    ],
)
def test_impossible_sampling_is_refused(given):
    """Sampling that can't be meant is refused by the name of its field."""
    with pytest.raises(Refused, match=next(iter(given)).replace("stop", "a stop string")):
        Sampling(**given)


def test_zero_temperature_is_greedy():
    """A temperature of 0, the default, means that the most likely token is taken."""
    assert (Sampling().is_greedy, Sampling(temperature=0.6).is_greedy) == (True, False)
