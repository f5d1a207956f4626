"""The messages that a task of ours puts into its documents, and their plain form. No torch and no harness here.

A document with the field `steer_messages` says exactly which conversation to send; the task's prompt text is then only
the same conversation in another form, and the model adapters check that it is.
"""

import json
from collections.abc import Mapping
from typing import Any

from model_adapters.backend import Message, Messages
from model_adapters.errors import SteerError

FIELD = "steer_messages"


def to_field(messages: Messages) -> str:
    """The messages as one JSON text, for a document's field."""
    return json.dumps([[message.role, message.content] for message in messages], ensure_ascii=False)


def messages_of(document: Any) -> Messages | None:
    """The messages a document asks for, None where it isn't ours. Raises SteerError for a broken field."""
    if not isinstance(document, Mapping) or FIELD not in document:
        return None
    try:
        turns = json.loads(document[FIELD])
        messages = tuple(Message(role, content) for role, content in turns)
    except (TypeError, ValueError) as problem:
        raise SteerError(f"a document's {FIELD} is not a JSON list of [role, text]; use to_field") from problem
    if not messages:
        raise SteerError(f"a document's {FIELD} is empty; it holds at least one message")
    return messages


def plain_form(messages: Messages) -> str:
    """The messages as text without a template: each content and a blank line, so that the answer starts a line."""
    return "".join(f"{message.content}\n\n" for message in messages)


def as_chat(messages: Messages) -> list[dict[str, str]]:
    """The messages as hosts and templates take them."""
    return [{"role": message.role, "content": message.content} for message in messages]
