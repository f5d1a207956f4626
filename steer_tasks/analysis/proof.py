"""What proofs and reports on answers hold, as logs keep them. Standard library only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from steer_tasks.analysis.record import Message


def doses(proofs: Iterable[Mapping[str, Any]]) -> float | None:
    """Mean relative dose over the proofs' layers and, as each layer's is one over its tokens, over touched tokens."""
    found = [layer["dose"] for proof in proofs for layer in proof.get("doses") or () if layer.get("dose") is not None]
    return sum(found) / len(found) if found else None


def messages_of(sent: Sequence[Mapping[str, Any]] | None, held: dict[str, str]) -> tuple[Message, ...] | None:
    """The messages that were sent; `held` keeps one copy of texts that many answers share."""
    if sent is None:
        return None
    return tuple(Message(str(one["role"]), held.setdefault(text := str(one["content"]), text)) for one in sent)
