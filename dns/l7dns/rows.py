# SPDX-License-Identifier: Apache-2.0
"""Identity rows: what the kernel knows of each FQDN identity, that is its own row and its entries in every live policy.

An identity is *ready* when all of that is written; only then may an address get it. Every write updates what this
module believes is there before the kernel is asked, so that after a failure nothing that may exist is forgotten.

May not know names or addresses. Failure verdict: OSError, with the identity not ready.
"""

from collections.abc import Iterable

from l7dns.identities import FqdnIdentity, Identities, Key
from l7dns.kerneltables import KernelTables, entry_key
from l7dns.view import View
from l7policy.entries import Entry, entries
from l7policy.ids import IdentityId, PolicyId
from l7policy.names import hash64


class IdentityRows:
    """The FQDN identities, and their rows in the kernel."""

    def __init__(self, kernel: KernelTables) -> None:
        """None known yet."""
        self._kernel = kernel
        self.identities = Identities()
        self._leftovers = False

    def ready(self, key: Key, view: View, now: float) -> FqdnIdentity:
        """The identity of a base and selectors, with the kernel knowing all of it."""
        identity = self.identities.obtain(key)
        if not identity.ready:
            identity.idle_since = now
            try:
                self._write(identity, view)
            except OSError:
                # Idle identities are only kept for convenience. Their room may be all that is missing.
                if not self.collect(now, 0.0, but=identity):
                    raise
                self._write(identity, view)
        return identity

    def add_policies(self, view: View) -> None:
        """Gives every identity its entries in every policy of the view."""
        for identity in self.identities:
            if identity.ready:
                for policy_id in view.policies:
                    self._write_policy(policy_id, identity, view)
        self.retry(view)

    def drop_policies(self, view: View) -> None:
        """Removes entries of policies that the view does not have."""
        for identity in self.identities:
            for policy_id in [found for found in identity.entries if found not in view.policies]:
                self._delete_policy(policy_id, identity)
        self._leftovers = False

    def doubt(self) -> None:
        """After a failure half way: everything is to be written again."""
        self._leftovers = True
        for identity in self.identities:
            identity.ready = False

    def retry(self, view: View) -> None:
        """Writes what is in use and not ready, and drops what a failed `drop_policies` left."""
        for identity in self.identities:
            if not identity.ready and identity.addresses:
                self._write(identity, view)
        if self._leftovers:
            self.drop_policies(view)

    def collect(self, now: float, linger: float, but: FqdnIdentity | None = None) -> int:
        """Removes identities that no address has had for `linger` seconds. Returns how many."""
        collected = 0
        for identity in self.identities.idle(now - linger):
            if identity is but:
                continue
            identity.ready = False
            for policy_id in list(identity.entries):
                self._delete_policy(policy_id, identity)
            self._kernel.delete_identity(identity.id)
            self.identities.drop(identity)
            collected += 1
        return collected

    def adopt(self, view: View) -> list[IdentityId]:
        """Takes over identities that the kernel holds and whose selectors still exist. Returns the others."""
        labels = {hash64(label): label for label in view.selectors}
        unknown: list[IdentityId] = []
        for number, (base, hashes) in self._kernel.identities().items():
            key = (base, frozenset(labels[found] for found in hashes if found in labels))
            if len(key[1]) != len(hashes) or self.identities.adopt(number, key) is None:
                unknown.append(number)
                # Addresses may have it until `sweep`, so it may not get another meaning before.
                self.identities.next = max(self.identities.next, number + 1)
        return unknown

    def sweep(self, unknown: Iterable[IdentityId]) -> None:
        """Removes policy entries that nobody knows of, then the rows of `unknown` identities."""
        strays: dict[PolicyId, list[Entry]] = {}
        for policy_id, entry in self._kernel.entries():
            identity = self.identities.get(entry.identity)
            known = () if identity is None else identity.entries.get(policy_id, ())
            if all(entry_key(policy_id, entry) != entry_key(policy_id, found) for found in known):
                strays.setdefault(policy_id, []).append(entry)
        for policy_id, found in strays.items():
            self._kernel.delete_entries(policy_id, found)
        for number in unknown:
            self._kernel.delete_identity(number)

    def _write(self, identity: FqdnIdentity, view: View) -> None:
        self._kernel.write_identity(identity.id, identity.base, identity.hashes)
        for policy_id in view.policies:
            self._write_policy(policy_id, identity, view)
        identity.ready = True

    def _write_policy(self, policy_id: PolicyId, identity: FqdnIdentity, view: View) -> None:
        """Entries of one policy for one identity; nothing if they are known to be there."""
        labels = view.labels(identity.base)
        if labels is None:
            # Its base is gone, so its addresses are about to get another identity. Until then it stays as it is.
            return
        wanted = tuple(
            entries(view.policies[policy_id], identity.id, view.labels_for(policy_id, identity.selectors) | labels)
        )
        present = identity.entries.get(policy_id, ())
        if identity.ready and wanted == present:
            return
        identity.entries[policy_id] = tuple(dict.fromkeys((*present, *wanted)))
        if wanted:
            self._kernel.write_entries(policy_id, wanted)
        keys = {entry_key(policy_id, entry) for entry in wanted}
        if gone := [entry for entry in present if entry_key(policy_id, entry) not in keys]:
            self._kernel.delete_entries(policy_id, gone)
        identity.entries[policy_id] = wanted

    def _delete_policy(self, policy_id: PolicyId, identity: FqdnIdentity) -> None:
        if present := identity.entries[policy_id]:
            self._kernel.delete_entries(policy_id, present)
        del identity.entries[policy_id]
