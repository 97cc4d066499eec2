# SPDX-License-Identifier: Apache-2.0
"""Frames: DNS messages in a TCP stream, each behind its length (RFC 1035 §4.2.2).

May not do I/O. Failure verdict: `broken` is set, and whoever owns the stream closes it: there is no way to find the
next message. The buffer never holds more than one message and what came in with it.
"""

from l7dns.message import HEADER


class Frames:
    """Bytes in, whole messages out."""

    __slots__ = ("_buffer", "broken")

    def __init__(self) -> None:
        """An empty stream."""
        self._buffer = b""
        self.broken = False
        """Whether a length announced less than a header."""

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Whole messages so far, in order."""
        if self.broken:
            return []
        buffer = self._buffer + data if self._buffer else data
        messages: list[bytes] = []
        position = 0
        while position + 2 <= len(buffer):
            length = int.from_bytes(buffer[position : position + 2], "big")
            if length < HEADER.size:
                self.broken = True
                self._buffer = b""
                return messages
            end = position + 2 + length
            if end > len(buffer):
                break
            messages.append(buffer[position + 2 : end])
            position = end
        self._buffer = buffer[position:]
        return messages


def frame(message: bytes) -> bytes:
    """A message as it goes into a stream."""
    return len(message).to_bytes(2, "big") + message
