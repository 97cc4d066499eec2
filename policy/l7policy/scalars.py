# SPDX-License-Identifier: Apache-2.0
"""The texts inside policies that have a grammar of their own: prefixes, names, patterns, expressions, headers, ports.

Each function takes what was written and returns what the model holds, in canonical form. Failure verdict: ValueError with
a text that says what is wrong. Checked here, once, so that the engine can trust every value of a `model.Rule`.
"""

import ipaddress
import re
from typing import Final

from l7policy import http, names
from l7policy.model import CidrPeer, FqdnPeer, HeaderMatch

MAX_NAME: Final = 255
MAX_EXPRESSION: Final = 2048
MAX_PORT: Final = 65535
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAME: Final = re.compile(r"[-a-zA-Z0-9_]+(?:[.][-a-zA-Z0-9_]+)*[.]?")
_PATTERN: Final = re.compile(r"[-a-zA-Z0-9_*]+(?:[.][-a-zA-Z0-9_*]+)*[.]?")
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[\x21-\x7e\x80-\U0010ffff](?:[\t\x20-\x7e\x80-\U0010ffff]*[\x21-\x7e\x80-\U0010ffff])?")
_PREFIX: Final = re.compile(r"[0-9a-fA-F:.]+/[0-9]{1,3}")
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,4}")
_SERVICE_NAME: Final = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9](?:-?[A-Za-z0-9])*")
_MAPPED: Final = ipaddress.ip_network("::ffff:0:0/96")


def network(text: str) -> Network:
    """``192.0.2.0/24``; the prefix length must be there. Bits behind it are cleared, as Cilium does."""
    if not _PREFIX.fullmatch(text):
        hint = " (an address alone needs /32 or /128)" if re.fullmatch(r"[0-9a-fA-F:.]+", text) else ""
        raise ValueError(f"{text[:80]!r} is not a prefix like 192.0.2.0/24{hint}")
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} is not a prefix like 192.0.2.0/24 or 2001:db8::/32") from None
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(_MAPPED):
        raise ValueError(f"{text[:80]!r} maps IPv4 into IPv6; no packet carries that, write the IPv4 prefix")
    return found


def contained(inner: Network, outer: Network) -> None:
    """Checks that an ``except`` carves something out of its own prefix."""
    if inner.version != outer.version:
        raise ValueError(f"{inner} and {outer} are of different IP versions")
    if not inner.subnet_of(outer):  # type: ignore[arg-type]
        raise ValueError(f"{inner} is not inside of {outer}")


def cidr(text: str) -> CidrPeer:
    """A peer from one prefix."""
    return CidrPeer(str(network(text)))


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
    if not _TOKEN.fullmatch(name):
        hint = "; between name and value belongs ': '" if ":" in name else ""
        raise ValueError(f"{name[:80]!r} is not the name of a header{hint}")
    if not space:
        return HeaderMatch(name)
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(f"{value[:80]!r} can never be a header's value: it is empty, or has blanks at an end")
    return HeaderMatch(name, value)


def port_number(text: str, *, lowest: int = 1) -> int:
    """A port in decimal."""
    if not _NUMBER.fullmatch(text) or not lowest <= int(text) <= MAX_PORT:
        raise ValueError(f"{text[:80]!r} is not a port: a number from {lowest} to {MAX_PORT}")
    return int(text)


def is_port_name(text: str) -> bool:
    """Whether it is an IANA service name: at most 15 letters, digits and single hyphens, one letter at least."""
    return len(text) <= 15 and _SERVICE_NAME.fullmatch(text) is not None
