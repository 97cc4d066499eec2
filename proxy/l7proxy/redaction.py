# SPDX-License-Identifier: Apache-2.0
"""What of a request no record may show: passwords, queries and values of headers that may be secrets.

It is done before a record leaves the worker, so the audit log, the monitor and every exporter show the same, and what
is left out is not in the agent's memory either. A request is judged by all of it in any case.
"""

import re
from collections.abc import Iterable
from typing import Final

from l7policy.headers import REDACTED

SECRET_HEADERS: Final = ("Authorization", "Cookie", "Proxy-Authorization")
ALL: Final = "*"

_USERINFO: Final = re.compile(r"(^|[/\\]{2})[^/?#\\]*@")
"""Also in the query, which may hold another URL, and before a target that is none, which is recorded with its 400."""


class Redaction:
    """Which parts are left out, as the configuration says."""

    __slots__ = ("_all", "_headers", "_query", "_userinfo")

    def __init__(self, *, query: bool = False, userinfo: bool = True, headers: Iterable[str] = SECRET_HEADERS) -> None:
        """`headers`: names of fields whose values are left out, ``*`` for every field."""
        self._query = query
        self._userinfo = userinfo
        self._headers = frozenset(name.lower() for name in headers)
        self._all = ALL in self._headers

    def target(self, target: str) -> str:
        """A path with its query, or whatever else a request asked for."""
        if self._query and "?" in target:
            target = target.partition("?")[0] + "?" + REDACTED
        return _USERINFO.sub(r"\1", target) if self._userinfo and "@" in target else target

    def host(self, host: str) -> str:
        """A Host field."""
        return host.rpartition("@")[2] if self._userinfo else host

    def fields(self, shown: tuple[str, ...]) -> tuple[str, ...]:
        """Header fields as ``Name: value``, or names alone."""
        return tuple(self._field(field) for field in shown)

    def _field(self, field: str) -> str:
        name, colon, _ = field.partition(":")
        return f"{name}: {REDACTED}" if colon and (self._all or name.lower() in self._headers) else field
