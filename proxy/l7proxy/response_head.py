# SPDX-License-Identifier: Apache-2.0
"""Reads a response head: the usual form by one expression and relayed as it is, the rest through h11 and written anew.

Responses are not judged, but where one ends decides what the next bytes of the server are, and whether it switched
protocols. So the framing is held to the same rules as a request's, while what servers really do is let pass: bytes
above 127, a missing reason, Content-Length given twice with one value. What h11 understood (a bare LF, a folded line)
is written anew, so the client never has to guess.

Failure verdict: 502, UPSTREAM_MALFORMED.
"""

import functools
import re
from typing import Final

import h11

from l7proxy.head import CHUNKED, NEED_MORE, NO_BODY, UNTIL_CLOSE, Malformed, NeedMore, ResponseHead

MAX_RESPONSE_HEAD: Final = 64 * 1024

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"

_HEAD: Final = re.compile(
    rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t -~\x80-\xff]*+)?\r\n((?:" + _TOKEN + rb"++:[\t -~\x80-\xff]*+\r\n)*)\r\n"
)

_USUAL: Final = re.compile(
    rb"HTTP/1\.1 ([2-9][0-9][0-9])(?: [\t -~\x80-\xff]*+)?\r\n"
    rb"(?:(?![CTct])" + _TOKEN + rb"++:[\t -~\x80-\xff]*+\r\n"
    rb"|(?i:content-length): *+(?(2)(?!))([0-9]{1,18}+)\r\n"
    rb"|(?i:transfer-encoding): *+(?(3)(?!))((?i:chunked))\r\n"
    rb"|(?i:connection): *+(?(4)(?!))((?i:keep-alive|close))\r\n"
    rb"|(?=[CTct])(?!(?i:content-length|transfer-encoding|connection):)" + _TOKEN + rb"++:[\t -~\x80-\xff]*+\r\n)*\r\n"
)
"""What nearly every answer is: a final one whose end is told once, and whether the connection stays as well."""

_SPECIAL: Final = re.compile(rb"(?i)(?:\A|\n)(content-length|transfer-encoding|connection):[\t ]*([^\r]*)")

_LENGTH: Final = re.compile(rb"[0-9]{1,18}")

_REMEMBERED: Final = 1024
_REMEMBERED_SIZE: Final = 1024
"""A server's answers to the same request mostly have the same head for a second, until the date in it changes."""

_ENDS: Final = re.compile(rb"\n\r?\n")

_VIABLE: Final = b"HTTP/1."


def parse(buffer: bytes, seen: int = 0, limit: int = MAX_RESPONSE_HEAD) -> ResponseHead | NeedMore | Malformed:
    """Reads the head at the beginning of `buffer`, of which the first `seen` bytes have been looked at before."""
    end = buffer.find(b"\r\n\r\n", max(0, seen - 3), limit)
    if end >= 0:
        end += 4
        block = buffer if end == len(buffer) else buffer[:end]
        head = _remembered(block) if end <= _REMEMBERED_SIZE else _usual(block)
        if head is not None:
            return head
    return _unusual(buffer, seen, limit)


def usual(buffer: bytes) -> ResponseHead | None:
    """The head at the beginning of `buffer`, if it is whole, of the usual form and of usual size."""
    end = buffer.find(b"\r\n\r\n", 0, _REMEMBERED_SIZE) + 4
    return _remembered(buffer[:end]) if end >= 4 else None


def _usual(block: bytes) -> ResponseHead | None:
    match = _USUAL.match(block)
    if match is None:
        return None
    status, length, coding, connection = match.groups()
    if length is not None:
        if coding is not None:
            return None
        framing = int(length)
    else:
        framing = UNTIL_CLOSE if coding is None else CHUNKED
    keep_alive = connection is None or len(connection) == len(b"keep-alive")
    return ResponseHead(int(status), framing, keep_alive, block, len(block))


_remembered = functools.lru_cache(maxsize=_REMEMBERED)(_usual)


def _unusual(buffer: bytes, seen: int, limit: int) -> ResponseHead | NeedMore | Malformed:
    if not buffer.startswith(_VIABLE[: len(buffer)]):
        return Malformed("server does not speak HTTP/1")
    end = _ENDS.search(buffer, max(0, seen - 2), limit)
    if end is None:
        return Malformed("response head is too large") if len(buffer) >= limit else NEED_MORE
    match = _HEAD.match(buffer)
    if match is not None and match.end() == end.end():
        return _described(match[1], int(match[2]), _SPECIAL.findall(match[3]), match[0])
    return _rewritten(buffer[: end.end()])


def framing(head: ResponseHead, method: bytes) -> int:
    """How the body of the response to a request of this method ends (RFC 9112 §6.3)."""
    if method == b"HEAD" or head.status in (204, 304) or head.status < 200:
        return NO_BODY
    return head.framing


def _described(minor: bytes, status: int, specials: list[tuple[bytes, bytes]], raw: bytes) -> ResponseHead | Malformed:
    length = coding = b""
    close = False
    alive = minor == b"1"
    for name, value in specials:
        name = name.lower()
        value = value.rstrip(b" \t")
        if name == b"connection":
            tokens = value.lower()
            if tokens != b"keep-alive":
                close = close or b"close" in [token.strip(b" \t") for token in tokens.split(b",")]
            alive = alive or b"keep-alive" in tokens
        elif name == b"content-length":
            if _LENGTH.fullmatch(value) is None or (length and value != length):
                return Malformed("malformed Content-Length in response")
            if length:
                return _rewritten(raw)
            length = value
        else:
            if coding or value.lower() != b"chunked":
                return Malformed("unknown Transfer-Encoding in response")
            coding = value
    if coding and (length or minor == b"0"):
        return Malformed("Transfer-Encoding with Content-Length or HTTP/1.0 in response")
    body = CHUNKED if coding else int(length) if length else UNTIL_CLOSE
    return ResponseHead(status, body, alive and not close, raw, len(raw))


def _rewritten(block: bytes) -> ResponseHead | Malformed:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(block))
    # h11 reads a response only to a request that was sent; which one does not matter for the head.
    reader.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    try:
        reader.receive_data(block)
        event = reader.next_event()
    except h11.RemoteProtocolError:
        return Malformed("malformed response head")
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        return Malformed("malformed response head")
    minor = event.http_version[2:]
    lines = [b"HTTP/1.%b %d %b" % (minor, event.status_code, event.reason)]
    lines += [name + b": " + value for name, value in event.headers.raw_items()]
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    match = _HEAD.match(raw)
    if match is None or match.end() != len(raw):
        return Malformed("malformed response head")
    described = _described(match[1], event.status_code, _SPECIAL.findall(match[3]), raw)
    if isinstance(described, Malformed):
        return described
    return ResponseHead(described.status, described.framing, described.keep_alive, raw, len(block))
