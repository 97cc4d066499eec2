# SPDX-License-Identifier: Apache-2.0
"""HTTP rules against one request's method, path, host and headers.

Expressions are RE2 in UTF-8 and must match in full, as in Envoy and Cilium: linear time whatever the request holds, no
look-ahead, no back-references. Requests come as bytes, exactly as they will be forwarded; nothing is decoded,
lower-cased or normalised here except the names of headers. A field that is not UTF-8 does not match ``.``.

This module may not parse HTTP. Its failure verdict is *no match*; an expression that RE2 refuses is a `PatternError`
when the rules are built, never later.
"""

import functools
from collections.abc import Iterable
from typing import Final

import re2

from l7policy.model import HttpRule

_MEMORY: Final = 1 << 20
"""Bytes one expression may use, compiled and while matching. RE2's own default is 8 MiB for each."""
_REMEMBERED: Final = 4096
_REMEMBERED_LENGTH: Final = 512
"""Longer requests are judged anew each time, so that what a workload sends cannot fill the memory."""

_META: Final = frozenset("\\.^$*+?()[]{}|")

Fields = tuple[tuple[bytes, bytes | None], ...]
"""Header requirements of a rule: lower-case name, and the value or None for mere presence."""


class PatternError(ValueError):
    """RE2 refuses this expression: the message says which and why."""


class Pattern:
    """One expression, ready to match in full. Plain text is compared without RE2."""

    __slots__ = ("_literal", "_regexp", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._literal = text.encode()
        except UnicodeEncodeError:
            raise PatternError(f"{text!r} cannot be written in UTF-8") from None
        self._regexp = _compile(text) if _META.intersection(text) else None

    def matches(self, value: bytes) -> bool:
        """Whether the whole of `value` matches."""
        if self._regexp is None:
            return value == self._literal
        return self._regexp.fullmatch(value) is not None


def _compile(text: str) -> "re2._Regexp":
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    options.never_capture = True
    try:
        return re2.compile(text, options)
    except re2.error as refused:
        detail = refused.args[0] if refused.args else "refused"
        message = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise PatternError(f"RE2 refuses {text!r}: {message}") from None


@functools.lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """The same `Pattern` for equal texts. Raises `PatternError`: loaders call this to check what a user wrote."""
    return Pattern(text)


class _Compiled:
    """One rule. A field that the rule leaves out is None and matches everything."""

    __slots__ = ("fields", "host", "method", "path")

    def __init__(self, rule: HttpRule) -> None:
        self.method = pattern(rule.method) if rule.method else None
        self.path = pattern(rule.path) if rule.path else None
        self.host = pattern(rule.host) if rule.host else None
        self.fields: Fields = tuple(
            (match.name.lower().encode(), None if match.value is None else match.value.encode())
            for match in rule.headers
        )

    def matches_line(self, method: bytes, path: bytes, host: bytes) -> bool:
        """Whether everything but the headers matches."""
        return (
            (self.method is None or self.method.matches(method))
            and (self.path is None or self.path.matches(path))
            and (self.host is None or self.host.matches(host))
        )


class HttpRules:
    """A list of rules, compiled. A request passes when one of them matches it; an empty list lets nothing pass."""

    __slots__ = ("_compiled", "rules")

    def __init__(self, rules: Iterable[HttpRule]) -> None:
        self.rules = tuple(rules)
        self._compiled = tuple(_Compiled(rule) for rule in self.rules)

    def match(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request may pass. `path` includes the query, `host` the port if one was sent.

        Several values of one header count as one value, joined by commas without spaces, as in Envoy. A header that a
        rule demands is not there if a twin with underscores is: some servers (CGI, WSGI) cannot tell the two apart.
        """
        if len(method) + len(path) + len(host) > _REMEMBERED_LENGTH:
            needed = self._needed(method, path, host)
        else:
            needed = _remembered(self, method, path, host)
        if not needed:
            return False
        if () in needed:
            return True
        sent = _joined(headers)
        return any(
            all(name in sent and (value is None or sent[name] == value) for name, value in fields) for fields in needed
        )

    def _needed(self, method: bytes, path: bytes, host: bytes) -> tuple[Fields, ...]:
        """The header requirements of each rule that matches otherwise; one of them must be met."""
        needed: list[Fields] = []
        for rule in self._compiled:
            if rule.matches_line(method, path, host):
                if not rule.fields:
                    return ((),)
                needed.append(rule.fields)
        return tuple(needed)


@functools.lru_cache(maxsize=_REMEMBERED)
def _remembered(rules: HttpRules, method: bytes, path: bytes, host: bytes) -> tuple[Fields, ...]:
    """One memory for all rule lists of the process, so that its size is known."""
    return rules._needed(method, path, host)  # noqa: SLF001  same module


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    sent: dict[bytes, bytes] = {}
    for name, value in headers:
        key = name.lower()
        sent[key] = sent[key] + b"," + value if key in sent else value
    for twin in [key for key in sent if b"_" in key]:
        sent.pop(twin.replace(b"_", b"-"), None)
    return sent


@functools.lru_cache(maxsize=1024)
def http_rules(rules: tuple[HttpRule, ...]) -> HttpRules:
    """The same `HttpRules` for equal lists: connections under equal rules share one."""
    return HttpRules(rules)
