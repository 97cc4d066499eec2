# SPDX-License-Identifier: Apache-2.0
"""Headers of a request against the header conditions of HTTP rules, and what a rule does about a header that differs.

A condition either must hold for its rule to match, or its rule matches all the same and the header is recorded, added,
deleted or replaced (``headerMatches`` with ``mismatch``). Values are compared in constant time, since they may be
secrets, and what is recorded of a secret is ``[redacted]``.

Headers that decide where a message ends or whose it is cannot be changed by a rule (`UNCHANGEABLE`): a request would
not be the one that was judged.

This module may not fetch secrets: it is told them. Its failure verdict: a condition whose secret is not known, and that
has no value to stand in, makes a rule that never matches.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from l7policy.model import HeaderMatch, Mismatch, Secret

Secrets = Callable[[Secret], str | None]
"""The content of a secret, None if it is not known."""

REDACTED: Final = "[redacted]"

UNCHANGEABLE: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""In lower case, with hyphens for underscores."""

Field = tuple[bytes, bytes]


def no_secrets(_: Secret) -> str | None:
    """Knows none."""
    return None


@dataclass(frozen=True, slots=True)
class Condition:
    """One header as it should be."""

    name: bytes
    """In lower case."""
    value: bytes | None
    """None: it must be there, whatever its value."""
    mismatch: Mismatch
    written: str
    """The name as the policy writes it, which is also how it is added."""
    secret: bool

    def holds(self, sent: Mapping[bytes, bytes]) -> bool:
        """Whether the header is as it should be. `sent` is as `joined` makes it."""
        value = sent.get(self.name)
        return value is not None and (self.value is None or hmac.compare_digest(value, self.value))

    @property
    def shown(self) -> str:
        """For records."""
        if self.value is None:
            return self.written
        return f"{self.written}: {REDACTED if self.secret else self.value.decode('utf-8', 'replace')}"


@dataclass(frozen=True, slots=True)
class Edit:
    """A change to make to the request before it goes on."""

    action: Mismatch
    """ADD, DELETE or REPLACE."""
    name: str
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Review:
    """What came of one request."""

    allowed: bool
    edits: tuple[Edit, ...] = ()
    missing: tuple[str, ...] = ()
    """Headers that were not there as they should be, for the record."""
    rejected: tuple[str, ...] = ()
    """Headers that are taken out or replaced, for the record."""


REFUSED: Final = Review(allowed=False)


def condition(match: HeaderMatch, secrets: Secrets) -> Condition | None:
    """The condition with its secret in place; None: it can never hold."""
    value = match.value
    if match.secret is not None:
        value = secrets(match.secret) or value
        if value is None:
            return None
    return Condition(
        match.name.lower().encode(),
        None if value is None else value.encode(),
        match.mismatch,
        match.name,
        match.secret is not None,
    )


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Values by lower-case name; several of one name with commas between, without spaces, as in Envoy.

    A header is not there if a twin with underscores is: some servers (CGI, WSGI) cannot tell the two apart.
    """
    sent: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        sent[key] = sent[key] + b"," + value if key in sent else value
    for twin in [key for key in sent if b"_" in key]:
        sent.pop(twin.replace(b"_", b"-"), None)
    return sent


def review(matching: Iterable[Iterable[Condition]], sent: Mapping[bytes, bytes]) -> Review:
    """What all the rules that match a request do about its headers. The side effects of each apply."""
    edits: dict[Edit, None] = {}
    missing: dict[str, None] = {}
    rejected: dict[str, None] = {}
    for conditions in matching:
        for one in conditions:
            if one.mismatch == Mismatch.FAIL or one.holds(sent):
                continue
            there = one.name in sent or _has_twin(one.name, sent)
            if one.mismatch != Mismatch.DELETE:
                missing[one.shown] = None
            if there and one.mismatch in (Mismatch.DELETE, Mismatch.REPLACE):
                value = REDACTED if one.secret else sent.get(one.name, b"").decode("utf-8", "replace")
                rejected[f"{one.written}: {value}"] = None
            if one.mismatch in (Mismatch.ADD, Mismatch.REPLACE) or (one.mismatch == Mismatch.DELETE and there):
                value_bytes = b"" if one.mismatch == Mismatch.DELETE else one.value or b""
                edits[Edit(one.mismatch, one.written, value_bytes)] = None
    return Review(True, tuple(edits), tuple(missing), tuple(rejected))


def edited(headers: Iterable[Field], edits: Iterable[Edit]) -> list[Field]:
    """The headers with the edits made, one after the other; names keep their case.

    What takes a header out takes its twins with underscores out as well, and what sets one leaves none beside it.
    """
    fields = list(headers)
    for edit in edits:
        name = edit.name.encode()
        if edit.action in (Mismatch.DELETE, Mismatch.REPLACE):
            gone = _folded(name)
            fields = [field for field in fields if _folded(field[0]) != gone]
        if edit.action in (Mismatch.ADD, Mismatch.REPLACE):
            fields.append((name, edit.value))
    return fields


def _folded(name: bytes) -> bytes:
    return name.lower().replace(b"_", b"-")


def _has_twin(name: bytes, sent: Mapping[bytes, bytes]) -> bool:
    folded = _folded(name)
    return any(b"_" in other and _folded(other) == folded for other in sent)
