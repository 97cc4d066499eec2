# SPDX-License-Identifier: Apache-2.0
"""The answers that the proxy gives in the server's place."""

from typing import Final

_REASONS: Final = {
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}

ACCESS_DENIED: Final = b"Access denied\r\n"
"""Cilium's body, to the byte: clients and tests look for it."""


def reply(status: int, text: bytes, *, keep_alive: bool, minor: int = 1, method: bytes = b"") -> bytes:
    """A whole answer. `method` and `minor` are those of the request: HEAD gets no body, HTTP/1.0 is told to stay."""
    connection = b""
    if not keep_alive:
        connection = b"connection: close\r\n"
    elif minor == 0:
        connection = b"connection: keep-alive\r\n"
    return b"HTTP/1.1 %d %b\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n%b\r\n%b" % (
        status,
        _REASONS[status],
        len(text),
        connection,
        b"" if method == b"HEAD" else text,
    )
