"""Ids of features, as the protocol writes them. Standard library only."""

import uuid

from model_adapters.errors import SteerError

MARK = 0x5AE
"""What tells our ids from other people's: the twelve free bits after a UUID's version."""


def feature_id(digest: str, index: int) -> str:
    """The id of one feature: a canonical UUID of version 8 (RFC 9562, section 5.8) that holds both arguments.

    First the dictionary's digest (its first 12 hexadecimal digits), then a mark of ours, then the index. So an id
    can be read back, and one of another dictionary is told apart.
    """
    number = int(digest[:12], 16) << 80 | 8 << 76 | MARK << 64 | 0b10 << 62 | index
    return str(uuid.UUID(int=number))


def read_id(identifier: str) -> tuple[str, int] | None:
    """(first 12 digits of the dictionary's digest, index) of an id in any spelling; None where it isn't one of ours."""
    try:
        number = uuid.UUID(identifier).int
    except (ValueError, AttributeError, TypeError):
        return None
    if (number >> 76) & 0xF != 8 or (number >> 64) & 0xFFF != MARK or (number >> 62) & 0b11 != 0b10:
        return None
    return f"{number >> 80:012x}", number & (2**62 - 1)


def feature_index(digest: str, identifier: str, n_features: int) -> int:
    """The index that an id of this dictionary holds; SteerError for any other id."""
    read = read_id(identifier)
    if read is None:
        raise SteerError(f"feature id {identifier[:80]!r} is none of this service; search again and use its ids")
    if read[0] != digest[:12]:
        raise SteerError(f"feature id {identifier} is of another dictionary ({read[0]}…); search again on this service")
    if read[1] >= n_features:
        raise SteerError(f"feature id {identifier} holds index {read[1]}; the dictionary has {n_features} features")
    return read[1]
