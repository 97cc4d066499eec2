# SPDX-License-Identifier: Apache-2.0
"""Finding: a warning about something legal that is surely not meant, and the table of all kinds of them.

The identifiers are stable: code hosts and people filter by them. May not look for anything itself.
"""

from enum import StrEnum
from typing import Final

import msgspec

from l7policy.model import Origin
from l7policy.yamltree import Node


class Severity(StrEnum):
    """How sure it is that nobody meant this. The names are SARIF's levels."""

    WARNING = "warning"
    NOTE = "note"
    """Perhaps meant."""


class Kind(msgspec.Struct, frozen=True):
    """One kind of finding."""

    severity: Severity
    text: str


KINDS: Final = {
    "unanchored-path": Kind(Severity.WARNING, "A path that matches without query only, though it must match in full"),
    "unescaped-dot": Kind(Severity.WARNING, "A dot in a host expression that matches any character"),
    "wide-name": Kind(Severity.WARNING, "A name pattern that strangers' servers match"),
    "voided-l7": Kind(Severity.WARNING, "An allow without limits that voids the L7 limits of another rule"),
    "locks-out": Kind(Severity.WARNING, "host policies by which nobody can log in to the node"),
    "fqdn-without-dns": Kind(Severity.WARNING, "toFQDNs for names that no DNS rule lets the workload ask for"),
    "no-policy": Kind(Severity.WARNING, "A file or folder without any policy"),
    "selects-nothing": Kind(Severity.WARNING, "A selector that matches nothing in the cluster"),
    "shadowed-rule": Kind(Severity.WARNING, "A rule that can never decide anything, because of another one"),
    "misplaced-headers": Kind(Severity.WARNING, "A headers key outside of the http rule it belongs to"),
    "not-enforced": Kind(Severity.WARNING, "Something that l7d would refuse to load"),
    "empty-pattern": Kind(Severity.WARNING, "A matchName or matchPattern without text"),
}
"""By identifier."""


class Finding(msgspec.Struct, frozen=True, order=True):
    """One warning. Lines and columns count from 1; 0 means the whole file."""

    path: str
    line: int
    column: int
    rule: str
    severity: Severity
    message: str
    hint: str = ""


def finding(rule: str, place: Node, message: str, hint: str = "") -> Finding:
    """A finding at a place in the text."""
    return Finding(place.path, place.line, place.column, rule, KINDS[rule].severity, message, hint)


def finding_at(rule: str, place: Origin, message: str, hint: str = "") -> Finding:
    """A finding at a rule."""
    return Finding(place.file, place.line, place.column, rule, KINDS[rule].severity, message, hint)
