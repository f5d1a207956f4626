"""Between Inspect's chat messages and ours. Imports inspect_ai, no torch."""

from collections.abc import Sequence

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, ContentText

from model_adapters.backend import Message, Messages, with_system_prompts
from model_adapters.errors import Refused
from model_adapters.steering import Steering

KINDS = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}


def our_messages(input: Sequence[ChatMessage]) -> Messages:
    """The messages as text turns. Raises Refused for tools and for anything that is not text, by name."""
    return tuple(_ours(message) for message in input)


def _ours(message: ChatMessage) -> Message:
    if message.role == "tool" or getattr(message, "tool_calls", None):
        raise Refused(
            "hook_steered has no tools, and there is a tool call among the messages; use a task without tools"
        )
    if not isinstance(message.content, str):
        for part in message.content:
            if not isinstance(part, ContentText):
                raise Refused(f"hook_steered takes text, and a {message.role} message holds {part.type}; leave it out")
    return Message(message.role, message.text)


def inspect_messages(messages: Messages) -> list[ChatMessage]:
    """The same turns as Inspect's messages."""
    return [KINDS[message.role](content=message.content) for message in messages]


def sent_text(input: Sequence[ChatMessage]) -> Messages:
    """The text of messages for another provider; a tool's reply counts as the user's, other content is left out."""
    return tuple(Message("user" if message.role == "tool" else message.role, message.text) for message in input)


def with_prompts(input: Sequence[ChatMessage], steering: Steering, one_system: bool) -> list[ChatMessage]:
    """Inspect's messages with the steering's SystemPrompts placed as `backend.with_system_prompts` places them.

    Messages that stay as they are stay the same objects. `one_system` joins neighbouring system messages with a
    blank line, for a model that takes one only.
    """
    if not steering.system_prompts:
        return list(input)
    system = [message for message in input if message.role == "system"]
    others = [message for message in input if message.role != "system"]
    placed: list[ChatMessage] = []
    for message in with_system_prompts(sent_text(input), steering):
        if message.role != "system":
            placed.append(others.pop(0))
            continue
        same = next((one for one in system if one.text == message.content), None)
        if same is not None:
            system.remove(same)
        placed.append(same or ChatMessageSystem(content=message.content))
    return _joined(placed) if one_system else placed


def _joined(messages: list[ChatMessage]) -> list[ChatMessage]:
    joined: list[ChatMessage] = []
    for message in messages:
        if joined and message.role == joined[-1].role == "system":
            joined[-1] = ChatMessageSystem(content=f"{joined[-1].text}\n\n{message.text}")
        else:
            joined.append(message)
    return joined
