# SPDX-License-Identifier: Apache-2.0
"""Kernel: `KernelTables` over the pinned maps. The only module here that knows `l7bpf`.

May not decide anything. Failure verdict: OSError, for a full map too, with the map's name in it.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from l7bpf.errors import MapFull
from l7bpf.layouts import FqdnIdentity, IpcacheEntry, PolicyEntry, PolicyKey
from l7bpf.maps import Maps
from l7bpf.reached import reached
from l7dns.addresses import address_bytes, address_text
from l7policy.entries import Entry
from l7policy.ids import Cookie, IdentityId, PolicyId, is_fqdn_identity
from l7policy.judgement import PolicyVerdict
from l7policy.verdict import Direction, ProxyKind


class PinnedTables:
    """The maps that the datapath reads."""

    def __init__(self, maps: Maps) -> None:
        """`maps` stays its owner's to close."""
        self._maps = maps

    def write_identity(self, identity: IdentityId, base: IdentityId, selectors: Sequence[int]) -> None:
        """See `KernelTables`."""
        try:
            self._maps.fqdn_identities.update(identity, FqdnIdentity(base, tuple(selectors)))
        except MapFull as full:
            raise OSError(str(full)) from full

    def delete_identity(self, identity: IdentityId) -> None:
        """See `KernelTables`."""
        self._maps.fqdn_identities.delete(identity)

    def identities(self) -> dict[IdentityId, tuple[IdentityId, tuple[int, ...]]]:
        """See `KernelTables`."""
        return {
            IdentityId(identity): (IdentityId(row.base_identity), row.selectors)
            for identity, row in self._maps.fqdn_identities.items()
        }

    def write_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        """See `KernelTables`."""
        try:
            for entry in entries:
                self._maps.policy.update(*policy_row(policy_id, entry))
        except MapFull as full:
            raise OSError(str(full)) from full

    def delete_entries(self, policy_id: PolicyId, entries: Sequence[Entry]) -> None:
        """See `KernelTables`."""
        for entry in entries:
            self._maps.policy.delete(policy_row(policy_id, entry)[0])

    def entries(self) -> Iterator[tuple[PolicyId, Entry]]:
        """See `KernelTables`."""
        for key, row in list(self._maps.policy.items()):
            if is_fqdn_identity(key.identity):
                yield (
                    PolicyId(key.policy_id),
                    Entry(
                        Direction(key.direction),
                        IdentityId(key.identity),
                        key.protocol,
                        key.port,
                        key.port_bits,
                        PolicyVerdict(row.verdict),
                        ProxyKind(row.proxy),
                        row.precedence,
                        Cookie(row.cookie),
                    ),
                )

    def write_ipcache(self, address: bytes, identity: IdentityId, established: int = 0) -> None:
        """See `KernelTables`."""
        try:
            self._maps.ipcache.update(address_text(address), IpcacheEntry(identity, established))
        except MapFull as full:
            raise OSError(str(full)) from full

    def delete_ipcache(self, address: bytes) -> None:
        """See `KernelTables`."""
        self._maps.ipcache.delete(address_text(address))

    def ipcache(self) -> dict[bytes, tuple[IdentityId, int]]:
        """See `KernelTables`."""
        return {
            address: (IdentityId(identity), established)
            for address, identity, established in self._maps.ipcache.addresses()
            if is_fqdn_identity(identity) or established
        }

    def clients(self, addresses: Collection[bytes]) -> Mapping[bytes, Collection[str]]:
        """See `KernelTables`."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        found = reached(self._maps, map(address_text, addresses), now)
        return {address_bytes(address): clients for address, clients in found.items()}


def policy_row(policy_id: PolicyId, entry: Entry) -> tuple[PolicyKey, PolicyEntry]:
    """A policy entry as the kernel holds it."""
    return (
        PolicyKey(policy_id, entry.identity, entry.direction, entry.protocol, entry.port, entry.port_bits),
        PolicyEntry(entry.verdict, entry.proxy, entry.precedence, entry.cookie),
    )
