# SPDX-License-Identifier: Apache-2.0
"""From changes of policies, endpoints and identities to changes of the kernel's policy entries, and nothing else.

`resolve.endpoint_policy` and `entries.entries` say what is right for one endpoint and one identity. This module only
decides whom to ask again:

    endpoints that are alike are one group         a policy that changes concerns the groups its subject selects
    groups with equal policies share one table     entries are per table, however many endpoints there are
    a table knows which peers select an identity   an identity that changes concerns the tables that mention its labels
    identities met by the same rules share entries    and most are met by none: they have no entries of their own, since
                                                   the kernel looks up those for anybody as well

So the state after any sequence of updates is what a fresh `Resolver` would come to (a stateful property test), at a
cost that goes with the change. An update cannot fail halfway for a reason other than a bug; whoever needs to take one
back applies the opposite one.

This module may not number policies or identities, and knows no kernel. Its failure verdict is that of a missing entry.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from l7policy.entries import Entry, entries
from l7policy.ids import ANY_IDENTITY, EndpointId, IdentityId
from l7policy.model import Action, EndpointPolicy, EntityPeer, Labels, NamedPort, Peer, Requirement, Rule
from l7policy.policydoc import Policy
from l7policy.resolve import Mode, endpoint_policy
from l7policy.selectorcache import SelectorCache, peer_cache, subject_cache

PolicyKey = tuple[str, str, str]
"""Kind, name and part: what stays when a policy changes."""

Digest = bytes
"""`EndpointPolicy.digest`: names a table of entries."""

_EVERYBODY: Final = EntityPeer("all")


class Row(NamedTuple):
    """The entries of one policy for one identity, before and after. They carry no identity: see `bound`."""

    policy: Digest
    identity: IdentityId
    before: tuple[Entry, ...]
    after: tuple[Entry, ...]

    def added(self) -> list[Entry]:
        """Entries to write: those that are new, and those that say something else than before."""
        return [bound(entry, self.identity) for entry in self.after if entry not in self.before]

    def removed(self) -> list[Entry]:
        """Entries to delete: those whose place in the kernel's table is not taken by one of `after`."""
        taken = {_place(entry) for entry in self.after}
        return [bound(entry, self.identity) for entry in self.before if _place(entry) not in taken]


@dataclass(frozen=True, slots=True)
class Delta:
    """What an update changed."""

    endpoints: dict[EndpointId, EndpointPolicy | None]
    """Endpoints that have another policy now; None: the endpoint is gone."""
    policies: dict[Digest, EndpointPolicy | None]
    """Tables that came, and those that no endpoint uses any more (None)."""
    rows: list[Row]

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        return not (self.endpoints or self.policies or self.rows)


def bound(entry: Entry, identity: IdentityId) -> Entry:
    """An entry of a `Row` as the kernel's table has it."""
    return Entry(
        entry.direction,
        identity,
        entry.protocol,
        entry.port,
        entry.port_bits,
        entry.verdict,
        entry.proxy,
        entry.precedence,
        entry.cookie,
    )


def _place(entry: Entry) -> tuple[int, int, int, int]:
    return entry.direction, entry.protocol, entry.port, entry.port_bits


def policy_key(policy: Policy) -> PolicyKey:
    """What a policy is known by while it changes."""
    return policy.kind, policy.name, policy.part


def keyed(policies: Iterable[Policy]) -> dict[PolicyKey, Policy]:
    """Policies by what they are known by."""
    return {policy_key(policy): policy for policy in policies}


def _names_ports(policy: Policy) -> bool:
    return any(port.name for rule in policy.rules for port in rule.ports)


@dataclass(frozen=True, slots=True)
class Workload:
    """All of an endpoint that its policy depends on."""

    labels: Labels
    ports: tuple[NamedPort, ...] | None = None
    """Its own names of ports; None: those of its labels."""
    audit: bool = False
    """What is denied passes, and is recorded."""


@dataclass(slots=True, eq=False)
class _Group:
    """Endpoints that no policy tells apart."""

    workload: Workload
    number: int
    endpoints: set[EndpointId] = field(default_factory=set)
    policies: set[PolicyKey] = field(default_factory=set)
    """Those that select it."""
    policy: EndpointPolicy | None = None
    digest: Digest = b""


class _Table:
    """The entries of one endpoint policy."""

    __slots__ = ("_always", "_by_rules", "_members", "peers", "policy", "rows", "users")

    def __init__(self, policy: EndpointPolicy) -> None:
        self.policy = policy
        self.users = 0
        self.rows: dict[IdentityId, tuple[Entry, ...]] = {}
        """Only identities that have entries."""
        self._by_rules: dict[int, tuple[Entry, ...]] = {0: ()}
        """Entries by the rules that apply, a bit each: what identities met by the same rules share."""
        self._always = 0
        self.peers: dict[Peer, int] = {}
        """Which rules a peer stands in."""
        self._members: tuple[tuple[Set[IdentityId], int], ...] = ()
        """Whom each peer selects, from `use` on, and those rules."""
        for index, rule in enumerate(policy.rules):
            if rule.action == Action.PASS:
                self._always |= 1 << index  # with one of these `entries` looks at the others in another way
            if rule.peers is None or _EVERYBODY in rule.peers:
                self._always |= 1 << index  # the kernel looks these up as identity 0, beside the identity's own
                continue
            for peer in rule.peers:
                self.peers[peer] = self.peers.get(peer, 0) | 1 << index

    def use(self, cache: SelectorCache[Peer, IdentityId]) -> None:
        """Takes the peers into use."""
        self._members = tuple((cache.acquire(peer), rules) for peer, rules in self.peers.items())

    def fill(self, cache: SelectorCache[Peer, IdentityId]) -> None:
        """Compiles everything. The peers are in use by now."""
        anybody = tuple(entries(self.policy, ANY_IDENTITY, None))
        if anybody:
            self.rows[ANY_IDENTITY] = anybody
        met: dict[IdentityId, int] = {}
        for members, rules in self._members:
            for identity in members:
                met[identity] = met.get(identity, 0) | rules
        for identity, rules in met.items():
            if found := self._entries(rules, identity, cache):
                self.rows[identity] = found

    def renew(self, identity: IdentityId, cache: SelectorCache[Peer, IdentityId]) -> tuple[Entry, ...]:
        """Compiles one identity again. Returns its entries."""
        rules = 0
        for members, standing in self._members:
            if identity in members:
                rules |= standing
        found = self._entries(rules, identity, cache) if rules else ()
        if found:
            self.rows[identity] = found
        else:
            self.rows.pop(identity, None)
        return found

    def _entries(self, rules: int, identity: IdentityId, cache: SelectorCache[Peer, IdentityId]) -> tuple[Entry, ...]:
        known = self._by_rules.get(rules)
        if known is None:
            applying = tuple(_chosen(self.policy.rules, rules | self._always))
            narrowed = msgspec.structs.replace(self.policy, rules=applying)
            compiled = entries(narrowed, identity, cache.labels_of(identity))
            known = self._by_rules[rules] = tuple(bound(entry, ANY_IDENTITY) for entry in compiled)
        return known


def _chosen(rules: tuple[Rule, ...], bits: int) -> Iterator[Rule]:
    while bits:
        lowest = bits & -bits
        yield rules[lowest.bit_length() - 1]
        bits ^= lowest


class Resolver:
    """What all policies mean for all endpoints and identities, kept up to date."""

    def __init__(self, mode: Mode = Mode.DEFAULT) -> None:
        self._mode = mode
        self._ports: dict[Labels, tuple[NamedPort, ...]] = {}
        self._policies: dict[PolicyKey, Policy] = {}
        self._subjects: SelectorCache[tuple[Requirement, ...], int] = subject_cache()
        self._by_subject: dict[tuple[Requirement, ...], set[PolicyKey]] = {}
        self._groups: dict[Workload, _Group] = {}
        self._groups_by_number: dict[int, _Group] = {}
        self._next_group = 0
        self._endpoints: dict[EndpointId, _Group] = {}
        self._peers: SelectorCache[Peer, IdentityId] = peer_cache()
        self._tables: dict[Digest, _Table] = {}
        self._tables_of: dict[Peer, set[Digest]] = {}

    # -- looking --------------------------------------------------------------------------------------------------

    def policy_of(self, endpoint: EndpointId) -> EndpointPolicy:
        """What applies to an endpoint. Raises KeyError."""
        policy = self._endpoints[endpoint].policy
        assert policy is not None, "every group is resolved at the end of an update"  # noqa: S101 - a bug
        return policy

    def digest_of(self, endpoint: EndpointId) -> Digest:
        """Which table an endpoint's entries are in. Raises KeyError."""
        return self._endpoints[endpoint].digest

    def endpoints(self) -> tuple[dict[EndpointId, EndpointPolicy], dict[EndpointId, Digest]]:
        """`policy_of` and `digest_of` of every endpoint."""
        policies = {endpoint: group.policy for endpoint, group in self._endpoints.items() if group.policy is not None}
        return policies, {endpoint: group.digest for endpoint, group in self._endpoints.items()}

    def policies(self) -> Mapping[Digest, EndpointPolicy]:
        """Every table in use."""
        return {digest: table.policy for digest, table in self._tables.items()}

    def rows(self, digest: Digest) -> Mapping[IdentityId, tuple[Entry, ...]]:
        """The entries of a table, by identity; bind them to it (`bound`). Not to be changed."""
        return self._tables[digest].rows

    def identities(self) -> Mapping[IdentityId, Labels]:
        """Every identity. Not to be changed."""
        return self._peers.things()

    @property
    def entry_count(self) -> int:
        """Entries of all tables."""
        return sum(len(found) for table in self._tables.values() for found in table.rows.values())

    # -- changing -------------------------------------------------------------------------------------------------

    def update(
        self,
        policies: Mapping[PolicyKey, Policy | None] | None = None,
        endpoints: Mapping[EndpointId, Workload | None] | None = None,
        identities: Mapping[IdentityId, Labels | None] | None = None,
        ports: Mapping[Labels, tuple[NamedPort, ...] | None] | None = None,
    ) -> Delta:
        """Takes over what changed; None: it is gone. What is not named stays as it is.

        `ports` are the named ports of workloads anywhere, by their labels.
        """
        rows: dict[tuple[Digest, IdentityId], Row] = {}
        moved: dict[EndpointId, EndpointPolicy | None] = {}
        stale: dict[int, _Group] = {}
        joined: dict[EndpointId, EndpointPolicy | None] = {}
        self._update_identities(identities or {}, rows)
        self._update_policies(policies or {}, stale)
        self._update_ports(ports or {}, stale)
        self._update_endpoints(endpoints or {}, stale, moved, joined)
        came: dict[Digest, _Table] = {}
        left: set[Digest] = set()
        for group in stale.values():
            if group.endpoints:
                if self._resolve(group, came, left):
                    moved.update(dict.fromkeys(group.endpoints, group.policy))
            else:
                self._forget(group, left)
        for endpoint, before in joined.items():
            moved.pop(endpoint, None)  # said of its group, but it was not in it
            if (policy := self.policy_of(endpoint)) != before:
                moved[endpoint] = policy
        changed: dict[Digest, EndpointPolicy | None] = {digest: table.policy for digest, table in came.items()}
        for digest in left:
            if not self._tables[digest].users:
                self._drop(digest, rows)
                changed[digest] = None
        for digest, table in came.items():
            table.fill(self._peers)
            rows.update(
                ((digest, identity), Row(digest, identity, (), found)) for identity, found in table.rows.items()
            )
        return Delta(moved, changed, list(rows.values()))

    def _update_identities(
        self, identities: Mapping[IdentityId, Labels | None], rows: dict[tuple[Digest, IdentityId], Row]
    ) -> None:
        gained, lost = self._peers.update(identities)
        touched = {(digest, identity): None for peer, identity in (*lost, *gained) for digest in self._tables_of[peer]}
        for digest, identity in touched:
            table = self._tables[digest]
            before = table.rows.get(identity, ())
            after = table.renew(identity, self._peers)
            if before != after:
                rows[digest, identity] = Row(digest, identity, before, after)

    def _update_policies(self, policies: Mapping[PolicyKey, Policy | None], stale: dict[int, _Group]) -> None:
        for key, policy in policies.items():
            before = self._policies.get(key)
            if before == policy:
                continue
            if before is not None:
                for number in self._subjects.members(before.subject):
                    self._groups_by_number[number].policies.discard(key)
                    stale[number] = self._groups_by_number[number]
                with_subject = self._by_subject[before.subject]
                with_subject.remove(key)
                if not with_subject:
                    del self._by_subject[before.subject]
                del self._policies[key]
            if policy is not None:
                for number in self._subjects.acquire(policy.subject):
                    self._groups_by_number[number].policies.add(key)
                    stale[number] = self._groups_by_number[number]
                self._by_subject.setdefault(policy.subject, set()).add(key)
                self._policies[key] = policy
            if before is not None:
                # Only now: the same subject is still selecting, and need not look for its groups again.
                self._subjects.release(before.subject)

    def _update_ports(self, ports: Mapping[Labels, tuple[NamedPort, ...] | None], stale: dict[int, _Group]) -> None:
        changed = {labels: named for labels, named in ports.items() if self._ports.get(labels) != named}
        for labels, named in changed.items():
            if named is None:
                del self._ports[labels]
            else:
                self._ports[labels] = named
        if changed:
            naming = {key for key, policy in self._policies.items() if _names_ports(policy)}
            stale.update((number, group) for number, group in self._groups_by_number.items() if group.policies & naming)

    def _update_endpoints(
        self,
        endpoints: Mapping[EndpointId, Workload | None],
        stale: dict[int, _Group],
        moved: dict[EndpointId, EndpointPolicy | None],
        joined: dict[EndpointId, EndpointPolicy | None],
    ) -> None:
        for endpoint, workload in endpoints.items():
            before = self._endpoints.get(endpoint)
            if before is not None and before.workload == workload:
                continue
            if before is not None:
                before.endpoints.remove(endpoint)
                stale[before.number] = before
                del self._endpoints[endpoint]
            if workload is None:
                if before is not None:
                    moved[endpoint] = None
                continue
            group = self._groups.get(workload)
            if group is None:
                group = self._group(workload)
                stale[group.number] = group
            group.endpoints.add(endpoint)
            self._endpoints[endpoint] = group
            joined[endpoint] = None if before is None else before.policy

    def _group(self, workload: Workload) -> _Group:
        self._next_group += 1
        group = self._groups[workload] = self._groups_by_number[self._next_group] = _Group(workload, self._next_group)
        gained, _ = self._subjects.update({group.number: workload.labels})
        for subject, _ in gained:
            group.policies |= self._by_subject[subject]
        return group

    def _resolve(self, group: _Group, came: dict[Digest, _Table], left: set[Digest]) -> bool:
        """Finds a group's policy and table. Returns whether the policy is another."""
        workload = group.workload
        policy = endpoint_policy(
            [self._policies[key] for key in group.policies],
            workload.labels,
            mode=self._mode,
            audit=workload.audit,
            own_ports=workload.ports,
            cluster_ports=self._ports,
        )
        if policy == group.policy:
            return False
        digest = policy.digest
        table = self._tables.get(digest)
        if table is None:
            table = came[digest] = self._tables[digest] = _Table(policy)
            table.use(self._peers)
            for peer in table.peers:
                self._tables_of.setdefault(peer, set()).add(digest)
        table.policy = policy  # rules may have moved in their files, which changes no entry
        table.users += 1
        if group.policy is not None:
            self._leave(group, left)
        group.policy, group.digest = policy, digest
        return True

    def _forget(self, group: _Group, left: set[Digest]) -> None:
        self._subjects.update({group.number: None})
        del self._groups[group.workload], self._groups_by_number[group.number]
        if group.policy is not None:
            self._leave(group, left)

    def _leave(self, group: _Group, left: set[Digest]) -> None:
        self._tables[group.digest].users -= 1
        left.add(group.digest)

    def _drop(self, digest: Digest, rows: dict[tuple[Digest, IdentityId], Row]) -> None:
        table = self._tables.pop(digest)
        for identity, found in table.rows.items():
            # What this update changed before is no more than what the table held at first.
            earlier = rows.pop((digest, identity), None)
            before = found if earlier is None else earlier.before
            if before:
                rows[digest, identity] = Row(digest, identity, before, ())
        for peer in table.peers:
            self._peers.release(peer)
            tables = self._tables_of[peer]
            tables.remove(digest)
            if not tables:
                del self._tables_of[peer]
