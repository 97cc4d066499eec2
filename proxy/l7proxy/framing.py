# SPDX-License-Identifier: Apache-2.0
"""Follows a message body to its end, one tracker for each way a body can end. Bodies are relayed as they are.

A tracker is fed a buffer and says up to where the bytes belong to the body *and* are known to be right. A chunk-size
or trailer line is given out only when it is whole, so nothing unchecked is ever relayed; the caller keeps the rest and
feeds it again with what follows. The lines are bounded, the data is not held at all.

Strict where servers are known to differ: CRLF only, no blank in a chunk-size line, at most 15 digits (60 bits), no
control character in an extension, no framing field among the trailers.

Failure verdict: the connection is broken off on both sides, so that the server never sees the message as complete.
"""

import re
from typing import Final, Protocol

from l7proxy.head import CHUNKED, UNTIL_CLOSE

MAX_CHUNK_LINE: Final = 1024
MAX_TRAILER: Final = 8 * 1024

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(;[\t -~\x80-\xff]*+)?\r\n")
_SIZE_PADDED: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*+(;[\t -~\x80-\xff]*+)?\r\n")
_SIZE_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;[\t -~\x80-\xff]*+)?\r?")
_SIZE_PADDED_BEGUN: Final = re.compile(rb"[0-9A-Fa-f]{1,15}[\t ]*+(?:;[\t -~\x80-\xff]*+)?\r?")
_FIELD: Final = re.compile(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]++):[\t -~\x80-\xff]*+\r\n")
_FIELD_BEGUN: Final = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9A-Za-z]++(?::[\t -~\x80-\xff]*+)?)?\r?")
_NEVER_IN_TRAILER: Final = frozenset(
    {
        b"host",
        b"content-length",
        b"content_length",
        b"transfer-encoding",
        b"transfer_encoding",
        b"connection",
        b"upgrade",
    }
)


class Body(Protocol):
    """A body being followed."""

    done: bool
    fault: str
    """Why it cannot be followed any further, or empty."""

    def feed(self, data: bytes, start: int) -> int:
        """Reads `data` from `start`; returns where the part ends that belongs to the body and may be relayed."""
        ...


class LengthBody:
    """Ends after a known number of bytes."""

    __slots__ = ("done", "fault", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0
        self.fault = ""

    def feed(self, data: bytes, start: int) -> int:
        """See `Body.feed`."""
        available = len(data) - start
        if available < self.left:
            self.left -= available
            return len(data)
        end = start + self.left
        self.left = 0
        self.done = True
        return end


class EndlessBody:
    """Ends with the connection."""

    __slots__ = ("done", "fault")

    def __init__(self) -> None:
        self.done = False
        self.fault = ""

    def feed(self, data: bytes, start: int) -> int:  # noqa: ARG002 - one signature for all bodies
        """See `Body.feed`."""
        return len(data)


class ChunkedBody:
    """Ends with a chunk of size 0 and its trailers."""

    __slots__ = ("_begun", "_in_data", "_in_trailer", "_left", "_size", "_trailer", "done", "fault")

    def __init__(self, *, padded: bool = False) -> None:
        """`padded` lets blanks after a size pass, as some servers send them; no request may."""
        self._size = _SIZE_PADDED if padded else _SIZE
        self._begun = _SIZE_PADDED_BEGUN if padded else _SIZE_BEGUN
        self._left = 0
        self._in_data = False
        self._in_trailer = False
        self._trailer = 0
        self.done = False
        self.fault = ""

    def feed(self, data: bytes, start: int) -> int:
        """See `Body.feed`."""
        position = start
        while not self.done:
            if self._in_data:
                taken = min(self._left, len(data) - position)
                self._left -= taken
                position += taken
                if self._left:
                    return position
                ending = data[position : position + 2]
                if ending != b"\r\n":
                    if not b"\r\n".startswith(ending):
                        self.fault = "chunk does not end where its size says"
                    return position
                position += 2
                self._in_data = False
            elif self._in_trailer:
                following = self._trailer_line(data, position)
                if following == position:
                    return position
                position = following
            else:
                match = self._size.match(data, position, position + MAX_CHUNK_LINE)
                if match is None:
                    self._expect(self._begun, data, position, MAX_CHUNK_LINE, "malformed chunk size")
                    return position
                position = match.end()
                self._left = int(match[1], 16)
                self._in_data = self._left > 0
                self._in_trailer = not self._in_data
        return position

    def _trailer_line(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self.done = True
            return position + 2
        room = MAX_TRAILER - self._trailer
        match = _FIELD.match(data, position, position + room)
        if match is None:
            self._expect(_FIELD_BEGUN, data, position, room, "malformed trailer")
            return position
        if match[1].lower() in _NEVER_IN_TRAILER:
            self.fault = "trailer that frames a message"
            return position
        self._trailer += len(match[0])
        return match.end()

    def _expect(self, begun: re.Pattern[bytes], data: bytes, position: int, room: int, fault: str) -> None:
        """The line is not whole. It is wrong if it is longer than it may be, or can no longer become right."""
        left = len(data) - position
        if left >= room or (left and begun.fullmatch(data, position) is None):
            self.fault = fault


def body(framing: int, *, padded: bool = False) -> Body:
    """The tracker for a framing (`l7proxy.head`)."""
    if framing == CHUNKED:
        return ChunkedBody(padded=padded)
    if framing == UNTIL_CLOSE:
        return EndlessBody()
    return LengthBody(framing)
