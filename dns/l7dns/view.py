# SPDX-License-Identifier: Apache-2.0
"""View: the rules that learnt addresses must satisfy right now, from the snapshot in force and the one prepared.

While a snapshot is prepared both hold: an address must reach what either revision lets it reach, because packets are
judged by the old one until an endpoint flips, and by the new one from then on. So selectors, policies and prefixes are
united; and a base identity has the labels of both revisions. That widens nothing: a policy only looks at labels of its
own revision's rules, and of those each revision's labels are complete.

A fact counts for the policies that heed the server it comes from (`l7policy.trust`): selectors are *scoped* labels.

May not do I/O. Failure verdict: an address whose base identity is not known to be outside is never learnt; a server
that nobody heeds teaches nothing.
"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from l7dns.addresses import address_bytes
from l7dns.namecache import Fact
from l7dns.prefixes import PrefixTable, learnable
from l7policy.ids import FIRST_LOCAL_IDENTITY, WORLD, IdentityId, PolicyId, is_fqdn_identity
from l7policy.model import EndpointPolicy, FqdnPeer, Labels, Snapshot
from l7policy.names import NameSet
from l7policy.trust import Scope, scope, scoped, selectors, unscoped

_KEPT_NAMES: Final = 4096
_WORLD_LABELS: Labels = frozenset({"reserved:world"})
_NOTHING: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose answers teach, as the operator has it."""

    node_wide: bool = False
    """What any server says counts for every policy (as in Cilium), unless `resolvers` limits it to those."""
    resolvers: tuple[str, ...] = ()
    """Prefixes of servers that count for every policy."""
    special: tuple[str, ...] = ()
    """Prefixes that names may lead to although such addresses are never a server out in the world (`learnable`)."""


class ConflictError(Exception):
    """Two snapshots give one policy number to different policies."""


def is_outside(identity: int) -> bool:
    """Whether names may be learnt for addresses of this identity: the world, or a CIDR."""
    return identity == WORLD or (identity >= FIRST_LOCAL_IDENTITY and not is_fqdn_identity(identity))


class View:
    """One or two snapshots, as one."""

    def __init__(self, snapshots: Iterable[Snapshot] = (), trust: Trust | None = None) -> None:
        """Oldest first. Raises ConflictError."""
        self.snapshots = tuple(snapshots)
        self._trust = trust or Trust()
        self._trusted = PrefixTable(dict.fromkeys(self._trust.resolvers, WORLD))
        self._special = PrefixTable(dict.fromkeys(self._trust.special, WORLD))
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
        self._matching: dict[Fact, frozenset[str]] = {}
        self._heeded: dict[tuple[str, str, int], tuple[NameSet, ...]] = {}
        """Of scope, server and port: the names for which the server counts."""
        self._scopes: dict[str, Scope] = {}
        self._scope_of: dict[PolicyId, str] = {}
        self._users = {label: {""} if self._trust.node_wide else set[str]() for label in peers}
        """Of each selector's label, the scopes of the policies that use it."""
        for policy_id, policy in self.policies.items():
            self._scope_of[policy_id] = self._enter(policy)
        self.selectors = frozenset(scoped(label, user) for label, users in self._users.items() for user in users)
        """Every selector, for each scope that uses it."""

    def _enter(self, policy: EndpointPolicy) -> str:
        used = selectors(policy)
        if not used:
            return ""
        if self._trust.node_wide:
            name = ""
        else:
            found = scope(policy)
            name = found.name
            self._scopes[name] = found
        for label in used:
            self._users.setdefault(label, set()).add(name)
        return name

    def matching(self, fact: Fact) -> frozenset[str]:
        """The selectors that a fact gives its addresses. Equal sets are the same object."""
        known = self._matching.get(fact)
        if known is None:
            found = self._match(fact)
            known = self._interned.setdefault(found, found)
            if len(self._matching) >= _KEPT_NAMES:
                self._matching.clear()
            self._matching[fact] = known
        return known

    def _match(self, fact: Fact) -> frozenset[str]:
        labels = [peer.label for peer in self._selectors.matching(fact.name)]
        if not labels:
            return _NOTHING
        users = {user for label in labels for user in self._users[label]}
        heeding = {user for user in users if self._heeds(user, fact)}
        return frozenset(scoped(label, user) for label in labels for user in self._users[label] & heeding)

    def _heeds(self, user: str, fact: Fact) -> bool:
        """Whether the policies of a scope take a server's word for a name."""
        if not fact.server:
            return True
        if self._trusted.find(address_bytes(fact.server)) is not None:
            return True
        if self._trust.node_wide:
            return not self._trust.resolvers
        asked = user, fact.server, fact.port
        heeded = self._heeded.get(asked)
        if heeded is None:
            if len(self._heeded) >= _KEPT_NAMES:
                self._heeded.clear()
            server = self.server_labels(fact.server)
            heeded = self._heeded[asked] = self._scopes[user].heeds(server, fact.port)
        return any(found.matches(fact.name) for found in heeded)

    def server_labels(self, address: str) -> Labels:
        """What policies know of a name server. Names of its own do not count: `Trust.resolvers` is for those."""
        identity = self._prefixes.find(address_bytes(address))
        if identity is None:
            return self._labels[WORLD]
        labels = self._labels.get(identity, _NOTHING)
        return labels.union(*(snapshot.identities.get(identity, ()) for snapshot in self.snapshots))

    def served_by(self, matching: frozenset[str]) -> list[PolicyId]:
        """The policies that have a rule for one of these selectors."""
        return [
            policy_id
            for policy_id, policy in self.policies.items()
            if self.labels_for(policy_id, matching) & selectors(policy)
        ]

    def labels_for(self, policy_id: PolicyId, identity: frozenset[str]) -> frozenset[str]:
        """Of the selectors of an identity those that count for a policy, as its rules name them."""
        own = self._scope_of[policy_id]
        return frozenset(unscoped(one) for one in identity if one == scoped(unscoped(one), own))

    def base(self, address: bytes) -> IdentityId | None:
        """The identity of an address apart from its names; None if it may never be learnt."""
        if not learnable(address) and self._special.find(address) is None:
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
