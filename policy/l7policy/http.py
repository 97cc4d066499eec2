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

from l7policy.headers import REFUSED, Condition, Review, Secrets, condition, joined, no_secrets, review
from l7policy.model import HttpRule, Mismatch

_MEMORY: Final = 1 << 20
"""Bytes one expression may use, compiled and while matching. RE2's own default is 8 MiB for each."""
_REMEMBERED: Final = 4096
_REMEMBERED_LENGTH: Final = 512
"""Longer requests are judged anew each time, so that what a workload sends cannot fill the memory."""

_META: Final = frozenset("\\.^$*+?()[]{}|")

Conditions = tuple[Condition, ...]


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

    __slots__ = ("actions", "conditions", "host", "method", "path", "required")

    def __init__(self, rule: HttpRule, secrets: Secrets) -> None:
        self.method = pattern(rule.method) if rule.method else None
        self.path = pattern(rule.path) if rule.path else None
        self.host = pattern(rule.host) if rule.host else None
        conditions = tuple(condition(match, secrets) for match in rule.headers)
        self.conditions: Conditions | None = None if None in conditions else tuple(filter(None, conditions))
        """None: the rule never matches."""
        self.required = tuple(one for one in self.conditions or () if one.mismatch == Mismatch.FAIL)
        self.actions = len(self.required) < len(self.conditions or ())

    def matches_line(self, method: bytes, path: bytes, host: bytes) -> bool:
        """Whether everything but the headers matches."""
        return (
            self.conditions is not None
            and (self.method is None or self.method.matches(method))
            and (self.path is None or self.path.matches(path))
            and (self.host is None or self.host.matches(host))
        )


class HttpRules:
    """A list of rules, compiled. A request passes when one of them matches it; an empty list lets nothing pass."""

    __slots__ = ("_compiled", "edits", "rules")

    def __init__(self, rules: Iterable[HttpRule], secrets: Secrets = no_secrets) -> None:
        self.rules = tuple(rules)
        self._compiled = tuple(_Compiled(rule, secrets) for rule in self.rules)
        self.edits = any(rule.actions for rule in self._compiled)
        """Whether a request that passes may have to be changed: then ask `review`, and not `match` alone."""

    def match(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request may pass. `path` includes the query, `host` the port if one was sent."""
        if len(method) + len(path) + len(host) > _REMEMBERED_LENGTH:
            needed = self._needed(method, path, host)
        else:
            needed = _remembered(self, method, path, host)
        if not needed:
            return False
        if () in needed:
            return True
        sent = joined(headers)
        return any(all(one.holds(sent) for one in conditions) for conditions in needed)

    def review(self, method: bytes, path: bytes, host: bytes, headers: Iterable[tuple[bytes, bytes]]) -> Review:
        """Whether a request may pass, and what is to be done about its headers. Asks every rule: as in Cilium, each
        one that matches has its say."""
        sent = joined(headers)
        matching = [
            rule.conditions
            for rule in self._compiled
            if rule.conditions is not None
            and rule.matches_line(method, path, host)
            and all(one.holds(sent) for one in rule.required)
        ]
        return review(matching, sent) if matching else REFUSED

    def _needed(self, method: bytes, path: bytes, host: bytes) -> tuple[Conditions, ...]:
        """The header conditions of each rule that matches otherwise; those of one of them must be met."""
        needed: list[Conditions] = []
        for rule in self._compiled:
            if rule.matches_line(method, path, host):
                if not rule.required:
                    return ((),)
                needed.append(rule.required)
        return tuple(needed)


@functools.lru_cache(maxsize=_REMEMBERED)
def _remembered(rules: HttpRules, method: bytes, path: bytes, host: bytes) -> tuple[Conditions, ...]:
    """One memory for all rule lists of the process, so that its size is known."""
    return rules._needed(method, path, host)  # noqa: SLF001  same module


@functools.lru_cache(maxsize=1024)
def http_rules(rules: tuple[HttpRule, ...]) -> HttpRules:
    """The same `HttpRules` for equal lists: connections under equal rules share one."""
    return HttpRules(rules)
