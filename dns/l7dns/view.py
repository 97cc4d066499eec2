# SPDX-License-Identifier: Apache-2.0
"""View: the rules that learnt addresses must satisfy right now, from the snapshot in force and the one prepared.

While a snapshot is prepared both hold: an address must reach what either revision lets it reach, because packets are
judged by the old one until an endpoint flips, and by the new one from then on. So selectors, policies and prefixes are
united; and a base identity has the labels of both revisions. That widens nothing: a policy only looks at labels of its
own revision's rules, and of those each revision's labels are complete.

May not do I/O. Failure verdict: an address whose base identity is not known to be outside is never learnt.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from l7dns.prefixes import PrefixTable, learnable
from l7policy.ids import FIRST_LOCAL_IDENTITY, WORLD, IdentityId, PolicyId, is_fqdn_identity
from l7policy.model import EndpointPolicy, FqdnPeer, Labels, Snapshot
from l7policy.names import NameSet

_KEPT_NAMES: Final = 4096
_WORLD_LABELS: Labels = frozenset({"reserved:world"})


class ConflictError(Exception):
    """Two snapshots give one policy number to different policies."""


def is_outside(identity: int) -> bool:
    """Whether names may be learnt for addresses of this identity: the world, or a CIDR."""
    return identity == WORLD or (identity >= FIRST_LOCAL_IDENTITY and not is_fqdn_identity(identity))


class View:
    """One or two snapshots, as one."""

    def __init__(self, snapshots: Iterable[Snapshot] = ()) -> None:
        """Oldest first. Raises ConflictError."""
        self.snapshots = tuple(snapshots)
        self.policies: dict[PolicyId, EndpointPolicy] = {}
        peers: dict[str, FqdnPeer] = {}
        united: dict[str, IdentityId] = {}
        for snapshot in self.snapshots:
            for policy_id, policy in snapshot.policies.items():
                known = self.policies.setdefault(policy_id, policy)
                if known != policy and known.digest != policy.digest:  # a rule may have moved in its file
                    raise ConflictError(
                        f"revision {snapshot.revision} gives policy {policy_id} another meaning than it has"
                    )
            peers.update((peer.label, peer) for peer in snapshot.selectors)
            united.update(snapshot.prefixes)
        self._selectors = NameSet(peers.values())
        self._prefixes = PrefixTable(united)
        self._labels = self._base_labels(united)
        self._interned: dict[frozenset[str], frozenset[str]] = {}
        self._matching: dict[str, frozenset[str]] = {}
        self.selectors = frozenset(peers)
        """The label of every selector."""

    def matching(self, name: str) -> frozenset[str]:
        """Labels of the selectors that match a canonical name. Equal sets are the same object."""
        known = self._matching.get(name)
        if known is None:
            found = frozenset(peer.label for peer in self._selectors.matching(name))
            known = self._interned.setdefault(found, found)
            if len(self._matching) >= _KEPT_NAMES:
                self._matching.clear()
            self._matching[name] = known
        return known

    def base(self, address: bytes) -> IdentityId | None:
        """The identity of an address apart from its names; None if it may never be learnt."""
        if not learnable(address):
            return None
        identity = self._prefixes.find(address)
        if identity is None:
            identity = WORLD
        return identity if identity in self._labels else None

    def static(self, address: bytes) -> IdentityId | None:
        """What the agent wrote to the ipcache for exactly this address."""
        return self._prefixes.exact(address)

    def labels(self, base: IdentityId) -> Labels | None:
        """Labels of a base identity; None if names may not be learnt on it (any more)."""
        return self._labels.get(base)

    def _base_labels(self, united: dict[str, IdentityId]) -> dict[IdentityId, Labels]:
        labels: dict[IdentityId, Labels] = {WORLD: _WORLD_LABELS}
        tables = [(snapshot, PrefixTable(snapshot.prefixes)) for snapshot in self.snapshots]
        for snapshot in self.snapshots:
            labels[WORLD] |= frozenset(snapshot.identities.get(WORLD, ()))
        for prefix, identity in united.items():
            if not is_outside(identity):
                continue
            gathered = labels.get(identity, frozenset())
            network = ipaddress.ip_network(prefix)
            for snapshot, table in tables:
                base = table.find(network.network_address.packed, within=network.prefixlen)
                if base is None or is_outside(base):
                    gathered |= frozenset(snapshot.identities.get(WORLD if base is None else base, ()))
                gathered |= frozenset(snapshot.identities.get(identity, ()))
            if gathered:
                labels[identity] = gathered
        return labels
