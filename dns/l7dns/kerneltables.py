# SPDX-License-Identifier: Apache-2.0
"""Kernel tables: the five writes and four reads of the kernel that learning consists of.

`Learner` knows only the `KernelTables` interface; `l7dns.kernel` implements it over the pinned maps and `MemoryTables`
over dictionaries. Whatever a write cannot do is an `OSError` (a full map is one too). Deleting what is not there is
fine. Failure verdict: the learner's.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol as Interface

from l7policy.entries import Entry
from l7policy.ids import IdentityId, PolicyId, is_fqdn_identity


class KernelTables(Interface):
    """What the learner does to the kernel. Addresses are packed, 4 or 16 bytes."""

    def write_identity(self, identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        """Says what an FQDN identity is: its base identity and its selectors' hashes."""

    def delete_identity(self, identity: IdentityId) -> None:
        """Forgets an FQDN identity."""

    def identities(self) -> dict[IdentityId, tuple[IdentityId, tuple[int, ...]]]:
        """Every FQDN identity: base and selectors' hashes."""

    def write_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        """Adds or replaces policy entries."""

    def delete_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        """Removes policy entries; of an entry only its key matters."""

    def entries(self) -> Iterable[tuple[PolicyId, Entry]]:
        """Every policy entry of an FQDN identity."""

    def write_ipcache(self, address: bytes, identity: IdentityId, established: int = 0) -> None:
        """Gives one address an identity, and flows that have begun already another one, if it is not 0."""

    def delete_ipcache(self, address: bytes) -> None:
        """Leaves one address to the prefixes around it."""

    def ipcache(self) -> dict[bytes, tuple[IdentityId, int]]:
        """Every address that has an FQDN identity, for all flows or for those that have begun already."""

    def clients(self, addresses: Collection[bytes]) -> Mapping[bytes, Collection[str]]:
        """Of the addresses those that flows lead to, and whose. Blocking, unlike the others: for a thread."""


EntryKey = tuple[PolicyId, int, IdentityId, int, int, int]


def entry_key(policy_id: PolicyId, entry: Entry) -> EntryKey:
    """What makes a policy entry the same entry."""
    return policy_id, entry.direction, entry.identity, entry.protocol, entry.port, entry.port_bits


class MemoryTables:
    """The same tables in dictionaries: for tests and benches."""

    def __init__(self) -> None:
        """Empty."""
        self.identity_rows: dict[IdentityId, tuple[IdentityId, tuple[int, ...]]] = {}
        self.policy_rows: dict[EntryKey, Entry] = {}
        self.ipcache_rows: dict[bytes, IdentityId] = {}
        self.established: dict[bytes, int] = {}
        self.flows: dict[bytes, set[str]] = {}

    def write_identity(self, identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        """See `KernelTables`."""
        self.identity_rows[identity] = (base, tuple(selectors))

    def delete_identity(self, identity: IdentityId) -> None:
        """See `KernelTables`."""
        self.identity_rows.pop(identity, None)

    def identities(self) -> dict[IdentityId, tuple[IdentityId, tuple[int, ...]]]:
        """See `KernelTables`."""
        return dict(self.identity_rows)

    def write_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        """See `KernelTables`."""
        for entry in entries:
            self.policy_rows[entry_key(policy_id, entry)] = entry

    def delete_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        """See `KernelTables`."""
        for entry in entries:
            self.policy_rows.pop(entry_key(policy_id, entry), None)

    def entries(self) -> list[tuple[PolicyId, Entry]]:
        """See `KernelTables`."""
        return [(key[0], entry) for key, entry in self.policy_rows.items() if is_fqdn_identity(entry.identity)]

    def write_ipcache(self, address: bytes, identity: IdentityId, established: int = 0) -> None:
        """See `KernelTables`."""
        self.ipcache_rows[address] = identity
        self.established.pop(address, None)
        if established:
            self.established[address] = established

    def delete_ipcache(self, address: bytes) -> None:
        """See `KernelTables`."""
        self.ipcache_rows.pop(address, None)
        self.established.pop(address, None)

    def ipcache(self) -> dict[bytes, tuple[IdentityId, int]]:
        """See `KernelTables`."""
        return {
            address: (identity, self.established.get(address, 0))
            for address, identity in self.ipcache_rows.items()
            if is_fqdn_identity(identity) or address in self.established
        }

    def clients(self, addresses: Collection[bytes]) -> Mapping[bytes, Collection[str]]:
        """See `KernelTables`."""
        return {address: self.flows[address] for address in addresses if address in self.flows}
