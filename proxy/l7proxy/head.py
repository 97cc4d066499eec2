# SPDX-License-Identifier: Apache-2.0
"""What reading a message head can result in. Values only; the readers are `request_head` and `response_head`.

Peer failures are values here: a reader returns `Malformed`, it never raises for anything that a peer sent.
"""

import enum
from typing import Final

import msgspec

MAX_HEAD: Final = 32 * 1024
"""A request head larger than this is refused; also the bound of what is buffered of one that is not complete."""

NO_BODY: Final = 0
CHUNKED: Final = -1
UNTIL_CLOSE: Final = -2
"""A framing is one number: the length of the body (0 for none), or one of these two."""


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


class RequestHead(msgspec.Struct, frozen=True, gc=False):
    """A request head whose meaning is certain."""

    method: str
    target: str
    """As the client sent it."""
    path: str
    """What is judged: path and query. The target itself for CONNECT and ``OPTIONS *``."""
    host: str
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
    upgrade: str = ""
    """The protocol that the server may switch to, lower case."""

    def fields(self) -> list[tuple[str, str]]:
        """Header fields as they are sent, names in lower case. Read on demand: few rules look at them."""
        pairs = []
        for line in self.raw[:-4].decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            pairs.append((name.lower(), value.strip(" \t")))
        return pairs


class ResponseHead(msgspec.Struct, frozen=True, gc=False):
    """A response head. `framing` is what its fields say; `response_head.framing` knows when there is no body at all."""

    status: int
    framing: int
    keep_alive: bool
    raw: bytes
    size: int
