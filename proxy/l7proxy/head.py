# SPDX-License-Identifier: Apache-2.0
"""What reading a message head can result in. Values only; the readers are `request_head` and `response_head`.

Peer failures are values here: a reader returns `Malformed`, it never raises for anything that a peer sent.
"""

import enum
from collections.abc import Iterator
from typing import Final

import msgspec

MAX_HEAD: Final = 32 * 1024
"""A request head larger than this is refused; also the bound of what is buffered of one that is not complete."""

NO_BODY: Final = 0
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
"""A framing is one number: the length of the body (0 for none), or one of these two."""


ANY: Final = 1 << 62
"""More bytes than ever come."""


class NeedMore(enum.Enum):
    """So far it could become a head."""

    NEED_MORE = 0


NEED_MORE: Final = NeedMore.NEED_MORE


class Malformed(msgspec.Struct, frozen=True, gc=False):
    """Not a head, or one that two parsers could read differently. `detail` never quotes what the peer sent."""

    detail: str
    method: str = ""
    host: str = ""
    path: str = ""


class Fields:
    """The header fields of a head, read only if somebody looks at them: few rules do."""

    __slots__ = ("_raw",)

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Names in lower case, values without the blanks around them."""
        for line in self._raw[:-4].split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            yield name.lower(), value.strip(b" \t")


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """A request head whose meaning is certain."""

    method: bytes
    target: bytes
    """As the client sent it."""
    path: bytes
    """What is judged: path and query. The target itself for CONNECT and ``OPTIONS *``."""
    host: bytes
    """The Host field as sent, with its port; empty only in HTTP/1.0."""
    framing: int
    keep_alive: bool
    minor: int
    """1 for HTTP/1.1, 0 for HTTP/1.0."""
    raw: bytes
    """What is sent to the server: the very bytes that were read, or the same head written anew."""
    size: int
    """How many bytes of the buffer the head was."""
    expect: bool = False
    """The client waits for ``100 Continue`` before it sends the body."""
    upgrade: bytes = b""
    """The protocol that the server may switch to, lower case."""

    @property
    def fields(self) -> Fields:
        """The header fields that the server will see."""
        return Fields(self.raw)


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """A response head. `framing` is what its fields say; `response_head.framing` knows when there is no body at all."""

    status: int
    framing: int
    keep_alive: bool
    raw: bytes
    size: int
