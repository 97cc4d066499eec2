# SPDX-License-Identifier: Apache-2.0
"""RecordFilter: which records somebody wants to see, by anything that is in them, as `hubble observe` filters flows.

Values of one field are alternatives, fields must all fit. Expressions are RE2 and need not match the whole text, as in
Hubble. Pure. Failure verdict: a record without the layer that a field asks about does not fit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import re2

from l7observe.record import AuditPeer, AuditRecord

Expressions = tuple[Any, ...]
"""Compiled by re2, which has no types."""


class FilterError(ValueError):
    """A value that no record could ever have, and why."""


@dataclass(frozen=True, slots=True)
class End:
    """What is asked of an end of the flow."""

    names: frozenset[str] = frozenset()
    """Workload names or addresses."""
    labels: frozenset[str] = frozenset()
    """``k8s:app=web``, or ``app=web`` of any source."""
    identities: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()

    def fits(self, peer: AuditPeer) -> bool:
        """Whether the end is one of those."""
        return (
            (not self.names or peer.name in self.names or peer.address in self.names)
            and (not self.labels or any(_labelled(peer, label) for label in self.labels))
            and (not self.identities or peer.identity in self.identities)
            and (not self.ports or peer.port in self.ports)
        )


@dataclass(frozen=True, slots=True)
class RecordFilter:
    """Empty fields want everything."""

    types: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    directions: frozenset[str] = frozenset()
    protocols: frozenset[str] = frozenset()
    families: frozenset[int] = frozenset()
    source: End = End()
    destination: End = End()
    either: End = End()
    rules: Expressions = ()
    methods: frozenset[str] = frozenset()
    hosts: Expressions = ()
    paths: Expressions = ()
    statuses: frozenset[str] = frozenset()
    """``404``, or ``4`` and ``40`` for what begins so."""
    queries: Expressions = ()
    server_names: Expressions = ()
    since: str = ""
    """RFC 3339, as records have it."""
    until: str = ""

    def accepts(self, record: AuditRecord) -> bool:
        """Whether the record is wanted."""
        return (
            (not self.since or record.time >= self.since)
            and (not self.until or record.time < self.until)
            and (not self.types or record.type in self.types)
            and (not self.verdicts or record.verdict in self.verdicts)
            and (not self.reasons or record.reason in self.reasons)
            and (not self.directions or record.direction in self.directions)
            and (not self.protocols or record.protocol in self.protocols or record.layer.upper() in self.protocols)
            and (not self.families or (6 if ":" in record.destination.address else 4) in self.families)
            and self.source.fits(record.source)
            and self.destination.fits(record.destination)
            and (self.either.fits(record.source) or self.either.fits(record.destination))
            and (not self.rules or any(_found(self.rules, text) for text in (record.rule, *record.policies)))
            and self._http(record)
            and (not self.queries or _found(self.queries, record.dns.query if record.dns else None))
            and (not self.server_names or _found(self.server_names, record.tls.sni if record.tls else None))
        )

    def _http(self, record: AuditRecord) -> bool:
        if not (self.methods or self.hosts or self.paths or self.statuses):
            return True
        http = record.http
        if not http:
            return False
        return (
            (not self.methods or http.method.upper() in self.methods)
            and (not self.hosts or _found(self.hosts, http.host))
            and (not self.paths or _found(self.paths, http.path))
            and (not self.statuses or any(_status(http.status, wanted) for wanted in self.statuses))
        )


def expressions(texts: Iterable[str]) -> Expressions:
    """Compiles RE2 expressions. Raises FilterError."""
    options = re2.Options()
    options.log_errors = False
    compiled = []
    for text in texts:
        try:
            compiled.append(re2.compile(text, options))
        except re2.error as error:
            why = error.args[0] if error.args else "refused"
            raise FilterError(f"{text[:80]!r} is not an expression of RE2: {why!r}") from None
    return tuple(compiled)


def status(text: str) -> str:
    """A status, or ``4+`` and ``40+`` for a range, as in Hubble, for `RecordFilter.statuses`. Raises FilterError."""
    digits = text.removesuffix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 3) or (digits == text and len(digits) != 3):
        raise FilterError(f"{text[:20]!r} is no HTTP status: write 404, 4+ or 40+")
    return digits


def _status(found: int, wanted: str) -> bool:
    return str(found).startswith(wanted)


def _found(wanted: Expressions, text: str | None) -> bool:
    return text is not None and any(one.search(text) for one in wanted)


def _labelled(peer: AuditPeer, wanted: str) -> bool:
    return any(label == wanted or label.partition(":")[2] == wanted for label in peer.labels)
