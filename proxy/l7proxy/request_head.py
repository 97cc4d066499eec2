# SPDX-License-Identifier: Apache-2.0
"""Reads a request head: the canonical form by one expression, the rest through h11, everything else not at all.

Why the canonical form is safe
==============================

Smuggling needs two parsers that read the same bytes differently. The proxy is the first parser and cannot choose the
second, so it forwards only bytes that leave the second no choice. There are four questions on which servers are known
to disagree, and the canonical form answers each by leaving the disagreement out:

1. *Where does a line end?* Some end it at LF, some only at CRLF, some treat CR as blank. `_HEAD` has no CR and no LF in
   any of its character classes, so the only ones in a canonical head are the CRLFs it names. An obsolete fold (a line
   that begins with a blank) cannot match, since a line begins with a token and its colon, and so there is no question
   whether a line continues the one before. NUL and the other controls are in no class either.

2. *What is a name, what is a value?* A name is a token, and nothing but the colon may follow it: ``Host :`` and
   ``Host\\x0b:`` do not match. A value is printable ASCII and blanks. A tab is valid there, but nginx takes one at the
   beginning for a part of the value, which RFC 9110 does not: a value with a tab is not canonical.

3. *Where does the body end?* At most one Content-Length, a plain decimal without sign, leading zero, comma or blank;
   or at most one Transfer-Encoding which is ``chunked``; never both; no chunks in HTTP/1.0. Field names that some
   gateways fold into these (``Content_Length``) are refused. Without either there is no body, for any method, which is
   what RFC 9112 §6.3 says and what servers do for requests.

4. *Whose request is it?* The target is in origin form: it begins with a slash and has no blank, so that the request
   line has exactly two. It is spelt in the one way that normalisation does not change (`request_path`). There is one
   Host, a plain name or address with an optional port, so that no server finds another authority in it.

From the character classes follows more. The expression is anchored at both ends, and no line of it can be empty, so the
match ends at the first CRLF CRLF of the buffer: that the head ends there is not a result of parsing but of a search for
four bytes, which every parser finds at the same place. Each class excludes the character that ends it (the method no
blank, the name no colon, the value no CR), and the ways to read a line exclude each other by the line's name, so there
is one way to match and the time is linear.

Reading depends on nothing but the bytes, so what a head was read as may be remembered with its bytes.

What was matched is relayed as it is. Nothing is added, removed, reordered or re-encoded: the judged request and the
forwarded request are the same object in memory.

A few valid heads are not canonical: absolute-form targets, CONNECT, Upgrade, Expect, tabs or bytes above 127 in
values. They are read by h11, checked against the same four questions, and *written anew* from what was understood
(`rewritten_head`); what the client sent is thrown away, so the server reads our spelling and not the client's.

Everything else is `Malformed`: 400, the connection is closed, one audit record.

The result does not depend on how the bytes were cut: faults are looked for in the order in which their bytes arrive.
"""

import functools
import re
from typing import Final

import msgspec

from l7proxy import foreign, request_path, rewritten_head
from l7proxy.head import CHUNKED, MAX_HEAD, NEED_MORE, NO_BODY, Malformed, NeedMore, RequestHead

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]"

_HEAD: Final = re.compile(
    rb"([A-Z][A-Z-]{0,31}+) (/[!-~]*+) HTTP/1\.([01])\r\n"
    # Which way a line is read is certain from its name, so going back finds nothing, and the time is linear.
    rb"(?:(?![CEHTUcehtu])" + _TOKEN + rb"++:[ -~]*+\r\n"
    rb"|(?i:host): *+(?(4)(?!))((?:[0-9A-Za-z._-]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5})?) *+\r\n"
    rb"|(?i:content-length): *+(?(5)(?!))(0|[1-9][0-9]{0,17}+) *+\r\n"
    rb"|(?i:transfer-encoding): *+(?(6)(?!))((?i:chunked)) *+\r\n"
    rb"|(?i:connection): *+(?(7)(?!))((?i:keep-alive|close)) *+\r\n"
    rb"|(?=[CEHTUcehtu])(?!(?i:host|content[-_]length|transfer[-_]encoding|connection|upgrade|expect):)"
    + _TOKEN
    + rb"++:[ -~]*+\r\n)+\r\n"
)
"""The canonical form. ``(?(4)(?!))``: and group 4 has not matched before. Each of these fields is there once at most.

No group is possessive, only single characters are: Python 3.11 cannot have a capture inside of a possessive group (its
issue 101955), and does not go back to where such a group began when a possessive repetition inside of it fails, so that
``(?::[0-9]++)?+`` takes a lone colon.
"""

_REMEMBERED: Final = 1024
_REMEMBERED_SIZE: Final = 1024
"""A client mostly sends the head that it sent before. A megabyte of heads is remembered at most, and no longer ones."""

_METHOD_FIRST: Final = re.compile(rb"[A-Z][A-Z-]{0,31}+(?: |\Z)")
"""How every request begins, as far as it has arrived."""

_BARE: Final = re.compile(rb"\0|(?<!\r)\n|\r(?!\n|\Z)")

_BARE_NAMES: Final = {b"\0": "NUL in head", b"\n": "bare LF in head", b"\r": "bare CR in head"}


def parse(
    buffer: bytes, seen: int = 0, limit: int = MAX_HEAD, normalise: bool = False
) -> RequestHead | NeedMore | Malformed:
    """Reads the head at the beginning of `buffer`, of which the first `seen` bytes have been looked at before.

    `normalise`: see `rewritten_head.read`.
    """
    # One empty line before a request is a known habit of old clients (RFC 9112 §2.2). It is not forwarded.
    start = 2 if buffer.startswith(b"\r\n") else 0
    end = buffer.find(b"\r\n\r\n", max(start, seen - 3))
    if end < 0:
        if buffer == b"\r":
            return NEED_MORE
        return _early_fault(buffer, start, seen, len(buffer), limit, len(buffer) - start >= limit) or NEED_MORE
    end += 4
    size = end - start
    if size <= limit:
        block = buffer if size == len(buffer) else buffer[start:end]
        head = _remembered(block) if size <= _REMEMBERED_SIZE else _canonical(block)
        if head is not None:
            return head if start == 0 else msgspec.structs.replace(head, size=end)
    fault = _early_fault(buffer, start, seen, end, limit, size > limit)
    return fault or rewritten_head.read(buffer[start:end], end, normalise=normalise)


def usual(buffer: bytes, limit: int = MAX_HEAD) -> RequestHead | None:
    """The head, if `buffer` is exactly one, in canonical form and of usual size."""
    size = len(buffer)
    if size > _REMEMBERED_SIZE or size > limit or buffer.find(b"\r\n\r\n") + 4 != size:
        return None
    return _remembered(buffer)


def _canonical(block: bytes) -> RequestHead | None:
    """The head, if what ends with the first CRLF CRLF is one in canonical form."""
    match = _HEAD.match(block)
    if match is None:
        return None
    method, target, minor, host, length, coding, connection = match.groups()
    if host is None or method == b"CONNECT" or request_path.fault(target):
        return None
    framing = NO_BODY
    if length is not None:
        if coding is not None:
            return None
        framing = int(length)
    elif coding is not None:
        if minor == b"0":
            return None
        framing = CHUNKED
    keep_alive = minor == b"1" if connection is None else len(connection) == len(b"keep-alive")
    return RequestHead(method, target, target, host, framing, keep_alive, 1 if minor == b"1" else 0, block, len(block))


_remembered = functools.lru_cache(maxsize=_REMEMBERED)(_canonical)


def _early_fault(buffer: bytes, start: int, seen: int, stop: int, limit: int, large: bool) -> Malformed | None:
    """What is wrong whatever may follow: found at the same byte however the head was cut."""
    first = buffer[start : min(stop, start + 33)]
    if first and _METHOD_FIRST.match(first) is None and not (foreign.undecided(first) and stop == len(buffer)):
        return Malformed(foreign.name(first))
    bare = _BARE.search(buffer, max(start, seen - 1), min(stop, start + limit))
    if bare is not None:
        return rewritten_head.malformed(_BARE_NAMES[bare[0]], buffer[start : bare.start()])
    if large:
        return rewritten_head.malformed("head is too large", buffer[start : start + limit])
    return None
