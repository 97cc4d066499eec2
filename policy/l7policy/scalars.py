# SPDX-License-Identifier: Apache-2.0
"""The texts inside policies that have a grammar of their own: names, patterns, expressions, headers, ports.

Each function takes what was written and returns what the model holds, in canonical form. Checked here, once, so that
the engine can trust every value of a `model.Rule`.

Failure verdict: ValueError with a text that says what is wrong.
"""

import re
from typing import Final

from l7policy import http, names
from l7policy.model import FqdnPeer, HeaderMatch

MAX_NAME: Final = 255
MAX_EXPRESSION: Final = 2048
MAX_PORT: Final = 65535

_NAME: Final = re.compile(r"[-a-zA-Z0-9_]+(?:[.][-a-zA-Z0-9_]+)*[.]?")
_PATTERN: Final = re.compile(r"[-a-zA-Z0-9_*]+(?:[.][-a-zA-Z0-9_*]+)*[.]?")
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(
    r"[\x21-\x7e\x80-\U0010ffff](?:[\t\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?"
)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_SERVICE_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9](?:-?[A-Za-z0-9])*")


def match_name(text: str) -> FqdnPeer:
    """``matchName``: one name, exactly."""
    if not _NAME.fullmatch(_trimmed(text)):
        raise ValueError(f"{text[:80]!r} is not a DNS name: {_allowed(text, '')}")
    return FqdnPeer(match_name=names.canonical(text))


def match_pattern(text: str) -> FqdnPeer:
    """``matchPattern``: ``*`` stands for a part of one label, ``**.`` in front for one or more labels."""
    if not _PATTERN.fullmatch(_trimmed(text)):
        raise ValueError(f"{text[:80]!r} is not a DNS pattern: {_allowed(text, ', *')}")
    return FqdnPeer(match_pattern=names.canonical(text))


def _trimmed(text: str) -> str:
    if len(text) > MAX_NAME:
        raise ValueError(f"{len(text)} characters are more than the {MAX_NAME} a DNS name can have")
    return text.strip()


def _allowed(text: str, more: str) -> str:
    if not text.isascii():
        return "write an international name in its xn-- form"
    if "*" in text and not more:
        return "a name with * is a matchPattern"
    return f"labels of letters, digits, -, _{more} with single dots between them"


def expression(text: str) -> str:
    """A regular expression that RE2 accepts."""
    if not text:
        raise ValueError("is empty; leave the field out to allow anything")
    if len(text) > MAX_EXPRESSION:
        raise ValueError(f"an expression of {len(text)} characters; at most {MAX_EXPRESSION} are allowed")
    return http.pattern(text).text


def header(text: str) -> HeaderMatch:
    """``X-Team`` must be present, or ``X-Team: shop`` must be there with exactly that value."""
    name, space, value = text.partition(" ")
    if space:
        name = name.rstrip(":")
    return HeaderMatch(header_name(name), header_value(value) if space else None)


def header_name(text: str) -> str:
    """The name of a header, as written."""
    if not _TOKEN.fullmatch(text):
        hint = "; between name and value belongs ': '" if ":" in text else ""
        raise ValueError(f"{text[:80]!r} is not the name of a header{hint}")
    return text


def header_value(text: str) -> str:
    """The value of a header, compared exactly."""
    if not _HEADER_VALUE.fullmatch(text):
        raise ValueError(f"{text[:80]!r} can never be a header's value: it is empty, or has blanks at an end")
    return text


def port_number(text: str, *, lowest: int = 1) -> int:
    """A port in decimal."""
    if not _NUMBER.fullmatch(text) or not lowest <= int(text) <= MAX_PORT:
        raise ValueError(f"{text[:80]!r} is not a port: a number from {lowest} to {MAX_PORT}")
    return int(text)


def is_port_name(text: str) -> bool:
    """Whether it is an IANA service name: at most 15 letters, digits and single hyphens, one letter at least."""
    return len(text) <= 15 and _SERVICE_NAME.fullmatch(text) is not None
