# SPDX-License-Identifier: Apache-2.0
"""Names on the wire: from labels to the one spelling that policy judges, without ever guessing.

A name becomes text in a way that cannot collide: lower case, a trailing dot, and every byte outside ``[-_a-z0-9]`` as
``\\DDD``. A dot, a NUL or a star *inside* a label therefore never looks like a separator or a wildcard, and since no
pattern's alphabet holds a backslash, such a name matches no selector at all, not even ``*``: where names are limited it
is refused, and it is never learnt.

May not do I/O. Failure verdict: `WireError`, which the callers turn into FORMERR or into a withheld answer.
"""

from functools import lru_cache
from typing import Final

MAX_NAME: Final = 255
MAX_LABEL: Final = 63
_POINTER: Final = 0xC0
_HEADER: Final = 12
_PLAIN: Final = frozenset(b"-_abcdefghijklmnopqrstuvwxyz0123456789")


class WireError(Exception):
    """A DNS message that cannot be read in exactly one way."""


@lru_cache(maxsize=4096)
def text(name: bytes) -> str:
    """The canonical spelling of a name in wire form (length-prefixed labels, not compressed)."""
    if name == b"\0":
        return "."
    labels: list[str] = []
    position = 0
    while length := name[position]:
        label = name[position + 1 : position + 1 + length].lower()
        position += 1 + length
        if _PLAIN.issuperset(label):
            labels.append(label.decode("ascii"))
        else:
            labels.append("".join(chr(byte) if byte in _PLAIN else f"\\{byte:03d}" for byte in label))
    return ".".join(labels) + "."


def end_of_plain(wire: bytes, start: int) -> int:
    """Where the name that starts at `start` ends, if it is spelled out. A pointer is an error: nothing precedes it."""
    position = start
    try:
        while length := wire[position]:
            if length > MAX_LABEL:
                raise WireError("compressed or extended label where a plain name must be")
            position += length + 1
    except IndexError:
        raise WireError("name runs past the end of the message") from None
    position += 1
    if position - start > MAX_NAME:
        raise WireError("name longer than 255 bytes")
    return position


def end_of(wire: bytes, start: int) -> int:
    """Where the name that starts at `start` ends, without following a pointer."""
    position = start
    try:
        while length := wire[position]:
            if length >= _POINTER:
                if position + 1 >= len(wire):
                    raise WireError("pointer cut short")
                return position + 2
            if length > MAX_LABEL:
                raise WireError("reserved label type")
            position += length + 1
    except IndexError:
        raise WireError("name runs past the end of the message") from None
    return position + 1


def expand(wire: bytes, start: int) -> bytes:
    """The whole name at `start` in wire form, lower case, pointers followed.

    Each pointer must lead to before the name part it ends and behind the header, so reading always terminates.
    """
    parts: list[bytes] = []
    size = 1
    position = limit = start
    try:
        while length := wire[position]:
            if length >= _POINTER:
                target = (length & 0x3F) << 8 | wire[position + 1]
                if not _HEADER <= target < limit:
                    raise WireError("pointer that does not lead backwards")
                position = limit = target
                continue
            if length > MAX_LABEL:
                raise WireError("reserved label type")
            label = wire[position : position + 1 + length]
            if len(label) != length + 1:
                raise WireError("name runs past the end of the message")
            parts.append(label)
            size += length + 1
            if size > MAX_NAME:
                raise WireError("name longer than 255 bytes")
            position += length + 1
    except IndexError:
        raise WireError("name runs past the end of the message") from None
    return b"".join(parts).lower() + b"\0"
