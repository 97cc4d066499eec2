# SPDX-License-Identifier: Apache-2.0
"""Numbers for label sets and CIDRs, the same after a restart: the kernel's tables outlive the agent.

FQDN identities are not numbered here; the DNS process does that (`l7dns.identities`).
"""

from pathlib import Path
from typing import Annotated, Final

import msgspec

from l7agent import statefile
from l7policy import ids
from l7policy.ids import IdentityId
from l7policy.model import Labels

RESERVED: Final[dict[IdentityId, Labels]] = {
    ids.HOST: frozenset({"reserved:host"}),
    ids.WORLD: frozenset({"reserved:world"}),
    ids.REMOTE_NODE: frozenset({"reserved:remote-node"}),
}
"""Identities that are there from the start."""

_NUMBERED: Final[dict[Labels, IdentityId]] = {
    **{labels: number for number, labels in RESERVED.items()},
    frozenset({"reserved:unmanaged"}): ids.UNMANAGED,
    frozenset({"reserved:health"}): ids.HEALTH,
    frozenset({"reserved:init"}): ids.INIT,
    frozenset({"reserved:kube-apiserver", "reserved:remote-node"}): ids.KUBE_APISERVER,
    frozenset({"reserved:ingress"}): ids.INGRESS,
}
"""Label sets with numbers of their own, which are Cilium's."""


class IdentitiesExhausted(Exception):
    """More different label sets than there are numbers."""


class _Saved(msgspec.Struct):
    workloads: dict[str, Annotated[int, msgspec.Meta(ge=ids.FIRST_CLUSTER_IDENTITY, le=0xFFFF)]]
    cidrs: dict[str, Annotated[int, msgspec.Meta(ge=ids.FIRST_LOCAL_IDENTITY, lt=ids.FIRST_FQDN_IDENTITY)]]


def _key(labels: Labels) -> str:
    return ";".join(sorted(labels))


class Identities:
    """Allocates identities and remembers them on disk."""

    def __init__(self, path: Path) -> None:
        """Reads `path` if it exists. Raises StateError."""
        self._path = path
        self._saved = statefile.load(path, _Saved) or _Saved({}, {})
        self._highest: dict[int, int] = {}
        """The highest number in use, by the first of its range; looked for again after numbers were forgotten."""

    def workload(self, labels: Labels) -> IdentityId:
        """The identity of a workload's or another node's labels, or of a reserved one."""
        known = _NUMBERED.get(labels)
        return (
            known
            if known is not None
            else self._number(self._saved.workloads, labels, ids.FIRST_CLUSTER_IDENTITY, 1 << 16)
        )

    def cidr(self, labels: Labels) -> IdentityId:
        """The local identity of a CIDR's labels (its own prefix and every policy prefix around it)."""
        return self._number(self._saved.cidrs, labels, ids.FIRST_LOCAL_IDENTITY, ids.FIRST_FQDN_IDENTITY)

    def _number(self, table: dict[str, int], labels: Labels, first: int, end: int) -> IdentityId:
        key = _key(labels)
        known = table.get(key)
        if known is not None:
            return IdentityId(known)
        highest = self._highest.get(first)
        number = (max(table.values(), default=first - 1) if highest is None else highest) + 1
        if number >= end:
            taken = set(table.values())
            free = next((candidate for candidate in range(first, end) if candidate not in taken), None)
            if free is None:
                raise IdentitiesExhausted(f"all {end - first} identities are in use")
            number = free
        table[key] = number
        self._highest[first] = max(number, self._highest.get(first, number))
        return IdentityId(number)

    def retain(self, used: set[IdentityId]) -> None:
        """Forgets every number that is not used any more, and writes the rest to disk. Raises OSError."""
        self._highest.clear()
        for table in (self._saved.workloads, self._saved.cidrs):
            for key in [key for key, number in table.items() if number not in used]:
                del table[key]
        statefile.save(self._path, self._saved)
