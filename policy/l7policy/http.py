# SPDX-License-Identifier: Apache-2.0
"""HTTP rules against one request's method, path, host and headers.

Expressions are RE2 in UTF-8 and must match in full, as in Envoy and Cilium: linear time whatever the request holds, no
look-ahead, no back-references. Requests come as bytes, exactly as they will be forwarded; nothing is decoded,
lower-cased or normalised here except the names of headers. A field that is not UTF-8 does not match ``.``.

This module may not parse HTTP. Its failure verdict is *no match*; an expression that RE2 refuses is a `PatternError`
when the rules are built, never later.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Final

import re2

from l7policy.headers import REFUSED, Condition, Review, Secrets, condition, joined, no_secrets, review
from l7policy.model import HttpRule, Mismatch, Secret

_MEMORY: Final = 1 << 20
"""Bytes one expression may use, compiled and while matching. RE2's own default is 8 MiB for each."""
_MANY: Final = 3
"""From so many expressions on, one set is faster than each by itself (measured: 1.6 against 4.4 us for four)."""
_MOST_MEMORY: Final = 32
_REMEMBERED: Final = 4096
_REMEMBERED_LENGTH: Final = 512
"""Longer requests are judged anew each time, so that what a workload sends cannot fill the memory."""

_META: Final = frozenset("\\.^$*+?()[]{}|")

Conditions = tuple[Condition, ...]


class PatternError(ValueError):
    """RE2 refuses this expression: the message says which and why."""


class Pattern:
    """One expression, ready to match in full. Plain text is compared without RE2."""

    __slots__ = ("_regexp", "literal", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            literal = text.encode()
        except UnicodeEncodeError:
            raise PatternError(f"{text!r} cannot be written in UTF-8") from None
        self._regexp = _compile(text) if _META.intersection(text) else None
        self.literal = literal if self._regexp is None else None
        """The only value that matches, None if there are others."""

    def matches(self, value: bytes) -> bool:
        """Whether the whole of `value` matches."""
        if self._regexp is None:
            return value == self.literal
        return self._regexp.fullmatch(value) is not None


def _options() -> "re2.Options":
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    options.never_capture = True
    return options


def _compile(text: str) -> "re2._Regexp":
    try:
        return re2.compile(text, _options())
    except re2.error as refused:
        detail = refused.args[0] if refused.args else "refused"
        message = detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)
        raise PatternError(f"RE2 refuses {text!r}: {message}") from None


@functools.lru_cache(maxsize=4096)
def pattern(text: str) -> Pattern:
    """The same `Pattern` for equal texts. Raises `PatternError`: loaders call this to check what a user wrote."""
    return Pattern(text)


class _Field:
    """What the rules of one list say of one field. A request's value tells at once which of them it meets, as bits.

    Plain texts are looked up, and many expressions are one RE2 set: a list of 64 costs about what one rule does.
    """

    __slots__ = ("_few", "_free", "_literals", "_masks", "_set")

    def __init__(self, texts: Iterable[str]) -> None:
        self._free = 0
        self._literals: dict[bytes, int] = {}
        expressions: dict[str, int] = {}
        for number, text in enumerate(texts):
            bit = 1 << number
            if not text:
                self._free |= bit
            elif pattern(text).literal is not None:
                self._literals[text.encode()] = self._literals.get(text.encode(), 0) | bit
            else:
                expressions[text] = expressions.get(text, 0) | bit
        self._masks = tuple(expressions.values())
        self._set = _set(expressions) if len(expressions) >= _MANY else None
        self._few = () if self._set else tuple((pattern(text), mask) for text, mask in expressions.items())

    def met_by(self, value: bytes) -> int:
        """A bit for each rule, in their order, that the value meets or that leaves the field out."""
        met = self._free | self._literals.get(value, 0)
        if self._set is not None:
            for index in self._set.Match(value) or ():
                met |= self._masks[index]
        for expression, mask in self._few:
            if met | mask != met and expression.matches(value):
                met |= mask
        return met


def _set(expressions: Iterable[str]) -> "re2.Set | None":
    """All of them as one, None if RE2 has not the memory for it: then they are asked one by one."""
    texts = tuple(expressions)
    options = _options()
    options.max_mem = _MEMORY * min(len(texts), _MOST_MEMORY)
    together = re2.Set.FullMatchSet(options)
    try:
        for text in texts:
            together.Add(text)
        together.Compile()
    except re2.error:
        return None
    return together


class _Headers:
    """The header conditions of one rule."""

    __slots__ = ("actions", "conditions", "required")

    def __init__(self, rule: HttpRule, secrets: Secrets) -> None:
        conditions = tuple(condition(match, secrets) for match in rule.headers)
        self.conditions: Conditions | None = None if None in conditions else tuple(filter(None, conditions))
        """None: the rule never matches."""
        self.required = tuple(one for one in self.conditions or () if one.mismatch == Mismatch.FAIL)
        self.actions = len(self.required) < len(self.conditions or ())


class HttpRules:
    """A list of rules, compiled. A request passes when one of them matches it; an empty list lets nothing pass."""

    __slots__ = ("_headers", "_host", "_method", "_path", "edits", "rules")

    def __init__(self, rules: Iterable[HttpRule], secrets: Secrets = no_secrets) -> None:
        self.rules = tuple(rules)
        self._method = _Field(rule.method for rule in self.rules)
        self._path = _Field(rule.path for rule in self.rules)
        self._host = _Field(rule.host for rule in self.rules)
        self._headers = tuple(_Headers(rule, secrets) for rule in self.rules)
        self.edits = any(rule.actions for rule in self._headers)
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
            rule.conditions or ()
            for rule in self._met_by(method, path, host)
            if all(one.holds(sent) for one in rule.required)
        ]
        return review(matching, sent) if matching else REFUSED

    def _needed(self, method: bytes, path: bytes, host: bytes) -> tuple[Conditions, ...]:
        """The header conditions of each rule that matches otherwise; those of one of them must be met."""
        needed: list[Conditions] = []
        for rule in self._met_by(method, path, host):
            if not rule.required:
                return ((),)
            needed.append(rule.required)
        return tuple(needed)

    def _met_by(self, method: bytes, path: bytes, host: bytes) -> Iterator[_Headers]:
        """The rules that match but for the headers, in their order."""
        met = self._path.met_by(path)
        if met:
            met &= self._method.met_by(method)
        if met:
            met &= self._host.met_by(host)
        while met:
            lowest = met & -met
            rule = self._headers[lowest.bit_length() - 1]
            if rule.conditions is not None:
                yield rule
            met ^= lowest


@functools.lru_cache(maxsize=_REMEMBERED)
def _remembered(rules: HttpRules, method: bytes, path: bytes, host: bytes) -> tuple[Conditions, ...]:
    """One memory for all rule lists of the process, so that its size is known."""
    return rules._needed(method, path, host)  # noqa: SLF001  same module


def secrets_of(rules: Iterable[HttpRule]) -> frozenset[Secret]:
    """Every secret that the rules refer to."""
    return frozenset(match.secret for rule in rules for match in rule.headers if match.secret is not None)


def http_rules(rules: tuple[HttpRule, ...], secrets: Secrets = no_secrets) -> HttpRules:
    """The list, compiled. Connections under equal lists share one, but for lists that need secrets."""
    return _shared(rules) if secrets is no_secrets or not secrets_of(rules) else HttpRules(rules, secrets)


@functools.lru_cache(maxsize=1024)
def _shared(rules: tuple[HttpRule, ...]) -> HttpRules:
    return HttpRules(rules)
