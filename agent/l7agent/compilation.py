# SPDX-License-Identifier: Apache-2.0
"""From policies and workloads to all that the kernel and the proxies should hold. Pure but for identity numbers.

Resolving goes with what changed (`l7policy.resolver`), and what a policy or an endpoint comes to is remembered for as
long as it is the very same object. What is told anew each time is the list of prefixes and identities, which costs well
under a microsecond for each. One compilation is under way at a time: `Compiler.commit` or
`Compiler.abort` ends it. Its rows are for a kernel in which old and new stand side by side for a while:

    compile   the policies in force learn the new identities, then the new policies come, for old and new identities
    commit    only now the identities that are gone leave the tables
"""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from l7agent.endpoints import Endpoint
from l7agent.identities import RESERVED, Identities
from l7agent.surroundings import Surroundings
from l7policy import ids, resolve
from l7policy.ids import EndpointId, IdentityId
from l7policy.labelfilter import identity_labels
from l7policy.model import EndpointPolicy, FqdnPeer, Labels, NamedPort, Origin
from l7policy.policydoc import Policy
from l7policy.resolve import Mode
from l7policy.resolver import Digest, PolicyKey, Resolver, Row, Workload, keyed
from l7policy.selectors import INIT_LABEL, KUBE_APISERVER_LABEL

LOOPBACK: Final = "127.0.0.0/8"
"""All of it is the node's own; for IPv6 the one address is among the node's addresses."""

_UNLABELLED: Final[Labels] = frozenset({INIT_LABEL})

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Compiled:
    """What should be in force."""

    policies: tuple[Policy, ...]
    endpoint_policies: dict[EndpointId, EndpointPolicy]
    endpoint_tables: dict[EndpointId, Digest]
    """Which of `tables` each endpoint uses."""
    endpoint_identities: dict[EndpointId, IdentityId]
    tables: dict[Digest, EndpointPolicy]
    """Different endpoint policies: each has entries of its own in the kernel."""
    identities: dict[IdentityId, Labels]
    prefixes: dict[str, IdentityId]
    """Canonical prefix to identity: policy CIDRs, workloads, the node's own addresses."""
    selectors: tuple[FqdnPeer, ...]
    origins: dict[int, Origin]
    """Cookie to rule, for kernel events."""
    written: list[Row] = field(default_factory=list)
    """Entries that are new, of new policies and of new identities."""
    stale: list[Row] = field(default_factory=list)
    """Entries that nothing will refer to any more: of policies that went."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What an endpoint came to."""

    endpoint: Endpoint
    identity: IdentityId
    workload: Workload
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Prefixes with their labels, and names, of the policies seen last."""

    policies: tuple[Policy, ...] = ()
    of_each: dict[PolicyKey, tuple[Policy, set[str], tuple[FqdnPeer, ...]]] = field(default_factory=dict)
    prefixes: dict[str, Labels] = field(default_factory=dict)
    selectors: tuple[FqdnPeer, ...] = ()


@dataclass(frozen=True, slots=True)
class _Inputs:
    """All that a compilation came from."""

    policies: dict[PolicyKey, Policy] = field(default_factory=dict)
    workloads: dict[EndpointId, Workload] = field(default_factory=dict)
    ports: dict[Labels, tuple[NamedPort, ...]] = field(default_factory=dict)
    identities: dict[IdentityId, Labels] = field(default_factory=dict)


def host_prefix(address: str) -> str:
    """The prefix that holds just this address."""
    parsed = ipaddress.ip_address(address)
    return f"{parsed}/{parsed.max_prefixlen}"


def changed(before: Mapping[K, V], after: Mapping[K, V]) -> dict[K, V | None]:
    """What became another between the two; None: it is gone."""
    # Most are the very same, and need not be looked into.
    found: dict[K, V | None] = {
        key: value for key, value in after.items() if (old := before.get(key)) is not value and old != value
    }
    found.update(dict.fromkeys(before.keys() - after.keys()))
    return found


class Compiler:
    """Keeps what is resolved, so that a change costs what it changes."""

    def __init__(
        self,
        identities: Identities,
        mode: Mode = Mode.DEFAULT,
        *,
        audit: bool = False,
        label_rules: tuple[str, ...] = (),
        surroundings: Surroundings | None = None,
    ) -> None:
        """`audit`: of endpoints of which nothing else was said. `label_rules`: see `l7policy.labelfilter`."""
        self._around = surroundings or Surroundings()
        self._identities = identities
        self._audit = audit
        self._label_rules = label_rules
        self._resolver = Resolver(mode)
        self._current = _Inputs()
        self._pending: _Inputs | None = None
        self._origins: dict[Digest, tuple[EndpointPolicy, dict[int, Origin]]] = {}
        self._ranges = _Ranges()
        self._seen: dict[EndpointId, _Seen] = {}

    def labels_of(self, endpoint: Endpoint) -> Labels:
        """Those of an endpoint's labels that count: policies know no others. Without any it is ``reserved:init``."""
        return identity_labels(endpoint.labels, self._label_rules) or _UNLABELLED

    def ports_of(self, endpoints: Iterable[Endpoint]) -> dict[Labels, tuple[NamedPort, ...]]:
        """Named ports by the labels of those that have them."""
        found: dict[Labels, tuple[NamedPort, ...]] = {}
        for endpoint in endpoints:
            if own := endpoint.declared.ports:
                labels = self.labels_of(endpoint)
                found[labels] = tuple(dict.fromkeys((*found.get(labels, ()), *own)))
        return found

    def compile(
        self, policies: tuple[Policy, ...], endpoints: Iterable[Endpoint], node_addresses: Iterable[str]
    ) -> Compiled:
        """Resolves what is new; an address may be a prefix. Raises IdentitiesExhausted; then nothing is under way."""
        endpoint_identities: dict[EndpointId, IdentityId] = {}
        numbered: dict[IdentityId, Labels] = dict(RESERVED)
        prefixes: dict[str, IdentityId] = {}
        workloads: dict[EndpointId, Workload] = {}
        endpoints = tuple(endpoints)

        by_key = keyed(policies)
        if self._ranges.policies is not policies:
            self._ranges = self._ranges_of(policies, by_key)
        for network, labels in self._ranges.prefixes.items():
            identity = self._identities.cidr(labels)
            numbered[identity] = labels
            prefixes[network] = identity
        for prefix, labels in self._around.places.items():
            identity = self._identities.workload(labels)
            numbered[identity] = labels
            prefixes[prefix] = identity
        # What is on this node is known by its labels, whatever CIDR it lies in (field: identity wins over IP).
        node_addresses = tuple(node_addresses)
        numbered[ids.HOST] = self._around.host(node_addresses)
        prefixes[LOOPBACK] = ids.HOST
        for address in node_addresses:
            prefixes[str(ipaddress.ip_network(address))] = ids.HOST
        seen: dict[EndpointId, _Seen] = {}
        with_ports: list[Endpoint] = []
        for endpoint in endpoints:
            known = self._seen.get(endpoint.id)
            if known is None or known.endpoint is not endpoint:
                known = self._see(endpoint)
            seen[endpoint.id] = known
            numbered[known.identity] = known.workload.labels
            endpoint_identities[endpoint.id] = known.identity
            workloads[endpoint.id] = known.workload
            if known.workload.ports:
                with_ports.append(endpoint)
            for prefix in known.prefixes:
                prefixes[prefix] = known.identity
        self._seen = seen

        rows = self._begin(_Inputs(by_key, workloads, self.ports_of(with_ports), numbered))
        tables = dict(self._resolver.policies())
        endpoint_policies, endpoint_tables = self._resolver.endpoints()
        return Compiled(
            policies=policies,
            endpoint_policies=endpoint_policies,
            endpoint_tables=endpoint_tables,
            endpoint_identities=endpoint_identities,
            tables=tables,
            identities=numbered,
            prefixes=prefixes,
            selectors=self._ranges.selectors,
            origins=self._origins_of(tables),
            written=[row for row in rows if row.after],
            stale=[row for row in rows if row.before],
        )

    def _see(self, endpoint: Endpoint) -> _Seen:
        labels = self.labels_of(endpoint)
        addresses = () if endpoint.attachment is None else endpoint.attachment.addresses
        return _Seen(
            endpoint,
            ids.HOST if endpoint.id == ids.HOST_ENDPOINT else self._identities.workload(labels),
            Workload(labels, endpoint.declared.ports, endpoint.audited(self._audit)),
            tuple(map(host_prefix, addresses)),
        )

    def _ranges_of(self, policies: tuple[Policy, ...], by_key: Mapping[PolicyKey, Policy]) -> _Ranges:
        before = self._ranges
        of_each: dict[PolicyKey, tuple[Policy, set[str], tuple[FqdnPeer, ...]]] = {}
        for key, policy in by_key.items():
            known = before.of_each.get(key)
            if known is None or known[0] is not policy:
                known = (policy, resolve.cidrs((policy,)), resolve.selectors((policy,)))
            of_each[key] = known
        cidrs = set(self._around.apiservers).union(*(found for _, found, _ in of_each.values()))
        if cidrs == before.prefixes.keys():
            prefixes = before.prefixes
        else:
            prefixes = resolve.prefix_identity_labels(cidrs)
            prefixes.update((server, prefixes[server] | {KUBE_APISERVER_LABEL}) for server in self._around.apiservers)
        return _Ranges(
            policies, of_each, prefixes, resolve.in_order(peer for *_, of in of_each.values() for peer in of)
        )

    def commit(self) -> list[Row]:
        """What was compiled is in force. Returns the entries of identities that are gone."""
        pending = self._require_pending()
        gone = dict.fromkeys(self._current.identities.keys() - pending.identities.keys())
        self._current, self._pending = pending, None
        return self._resolver.update(identities=gone).rows

    def abort(self) -> None:
        """What was compiled does not come into force. Without a compilation under way, nothing happens."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        self._resolver.update(
            policies=changed(pending.policies, self._current.policies),
            endpoints=changed(pending.workloads, self._current.workloads),
            ports=changed(pending.ports, self._current.ports),
            identities=dict.fromkeys(pending.identities.keys() - self._current.identities.keys()),
        )

    def _begin(self, wanted: _Inputs) -> list[Row]:
        assert self._pending is None, "commit or abort comes first"  # noqa: S101 - a bug, not an input
        current, self._pending = self._current, wanted
        came = {
            number: labels
            for number, labels in wanted.identities.items()
            if (old := current.identities.get(number)) is not labels and old != labels
        }
        first = self._resolver.update(identities=came)
        second = self._resolver.update(
            policies=changed(current.policies, wanted.policies),
            endpoints=changed(current.workloads, wanted.workloads),
            ports=changed(current.ports, wanted.ports),
        )
        return [*first.rows, *second.rows]

    def _origins_of(self, tables: Mapping[Digest, EndpointPolicy]) -> dict[int, Origin]:
        kept: dict[Digest, tuple[EndpointPolicy, dict[int, Origin]]] = {}
        origins: dict[int, Origin] = {}
        for digest, policy in tables.items():
            known = self._origins.get(digest)
            if known is None or known[0] is not policy:  # the same rules at other lines have the same digest
                known = (policy, {rule.origin.cookie: rule.origin for rule in policy.rules})
            kept[digest] = known
            origins |= known[1]
        self._origins = kept
        return origins

    def _require_pending(self) -> _Inputs:
        assert self._pending is not None, "compile comes first"  # noqa: S101 - a bug, not an input
        return self._pending
