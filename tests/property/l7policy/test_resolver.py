# SPDX-License-Identifier: Apache-2.0
"""After any sequence of changes the resolver holds what a fresh one comes to, and its deltas say exactly what changed.

The rebuild does not use the resolver at all: it is `endpoint_policy` and `entries` for everything there is.
"""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from l7policy.entries import Entry, entries
from l7policy.ids import ANY_IDENTITY, EndpointId, IdentityId
from l7policy.model import (
    Action,
    CidrPeer,
    EndpointPolicy,
    EntityPeer,
    FqdnPeer,
    HttpRule,
    LabelPeer,
    Labels,
    NamedPort,
    NodePeer,
    Operator,
    Origin,
    Peer,
    Port,
    Requirement,
    Rule,
    WorkloadPeer,
)
from l7policy.policydoc import Policy
from l7policy.resolve import endpoint_policy
from l7policy.resolver import Delta, PolicyKey, Resolver, Workload, keyed, policy_key
from l7policy.selectors import matches_any
from l7policy.verdict import Direction, Protocol

KEYS = ("k8s:app", "any:app", "k8s:tier", "any:canary", "container:app")
REQUIREMENTS = st.builds(
    lambda key, operator, values: Requirement(
        key, operator, tuple(sorted(values)) if operator in (Operator.IN, Operator.NOT_IN) else ()
    ),
    st.sampled_from(KEYS),
    st.sampled_from(Operator),
    st.sets(st.sampled_from(["a", "b", ""]), min_size=1, max_size=2),
)
SELECTORS = st.lists(REQUIREMENTS, max_size=2).map(tuple)
WORKLOADS: st.SearchStrategy[Labels] = st.frozensets(
    st.sampled_from(
        ["k8s:app=a", "k8s:app=b", "k8s:tier=a", "k8s:tier=b", "k8s:canary", "k8s:canary=", "container:app=a"]
    ),
    max_size=3,
)
LABELS = WORKLOADS | st.sampled_from(
    [
        frozenset({"reserved:host"}),
        frozenset({"reserved:remote-node", "k8s:tier=a"}),
        frozenset({"reserved:world"}),
        frozenset({"reserved:world", "cidr:198.51.100.0/24"}),
        frozenset({"reserved:world", "cidr:198.51.100.0/24", "cidr:198.51.100.7/32", "fqdn:*.example.com"}),
        frozenset({"reserved:world", "cidr:::/0", "cidr:2001:db8::/32"}),
    ]
)
PEERS: st.SearchStrategy[Peer] = st.builds(LabelPeer, SELECTORS) | st.sampled_from(
    [
        LabelPeer((Requirement("reserved:host", Operator.EXISTS),)),
        CidrPeer("198.51.100.0/24"),
        CidrPeer("198.51.100.0/24", ("198.51.100.7/32",)),
        CidrPeer("2001:db8::/32"),
        FqdnPeer(match_pattern="*.example.com."),
        EntityPeer("all"),
        EntityPeer("cluster"),
        EntityPeer("world"),
        EntityPeer("world-ipv6"),
        EntityPeer("none"),
        WorkloadPeer(("k8s:app=a",)),
        NodePeer(),
        NodePeer((Requirement("any:tier", Operator.IN, ("a",)),)),
    ]
)


@st.composite
def rules(draw: st.DrawFn, policy: str, index: int) -> Rule:
    kind = draw(st.sampled_from(["plain", "http"]))
    return Rule(
        draw(st.sampled_from(Direction)),
        Origin(policy, f"rule[{index}]", "file", draw(st.integers(1, 2))),
        peers=draw(st.none() | st.lists(PEERS, max_size=2).map(tuple)),
        ports=draw(
            st.sampled_from([(), (Port(Protocol.TCP, 80, 80),), (Port(Protocol.TCP, 80, 90),), (Port(name="web"),)])
        ),
        action=draw(st.sampled_from(Action)) if kind == "plain" else Action.ALLOW,
        http=(HttpRule(path="/a"),) if kind == "http" else None,
    )


@st.composite
def documents(draw: st.DrawFn) -> Policy:
    name = draw(st.sampled_from(["one", "two", "three"]))
    return Policy(
        name,
        "",
        "CiliumClusterwideNetworkPolicy",
        draw(SELECTORS),
        tuple(draw(rules(name, index)) for index in range(draw(st.integers(0, 3)))),
        draw(st.booleans()),
        draw(st.booleans()),
    )


POLICIES = st.lists(documents(), max_size=2)
NAMED = st.lists(
    st.sampled_from([NamedPort("web", Protocol.TCP, 80), NamedPort("web", Protocol.TCP, 81)]), max_size=1
).map(tuple)
ENDPOINTS = st.dictionaries(
    st.integers(1, 4).map(EndpointId),
    st.none() | st.builds(Workload, WORKLOADS, st.none() | NAMED, st.booleans()),
    max_size=2,
)
PORTS = st.dictionaries(WORKLOADS, st.none() | NAMED, max_size=2)
IDENTITIES = st.dictionaries(st.integers(256, 261).map(IdentityId), st.none() | LABELS, max_size=3)

Kernel = dict[tuple[bytes, int, int, int, int, int], Entry]


def place(digest: bytes, entry: Entry) -> tuple[bytes, int, int, int, int, int]:
    return digest, entry.identity, entry.direction, entry.protocol, entry.port, entry.port_bits


class Changing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.resolver = Resolver()
        self.policies: dict[PolicyKey, Policy] = {}
        self.endpoints: dict[EndpointId, Workload] = {}
        self.ports: dict[Labels, tuple[NamedPort, ...]] = {}
        self.identities: dict[IdentityId, Labels] = {}
        self.kernel: Kernel = {}
        """What a consumer of the deltas has written."""
        self.assigned: dict[EndpointId, EndpointPolicy] = {}
        self.tables: set[bytes] = set()

    def apply(self, **changes: dict[Any, Any]) -> Delta:
        delta = self.resolver.update(**changes)
        for row in delta.rows:
            assert row.before != row.after
            for entry in row.removed():
                del self.kernel[place(row.policy, entry)]
            for entry in row.added():
                self.kernel[place(row.policy, entry)] = entry
        for endpoint, policy in delta.endpoints.items():
            assert policy != self.assigned.get(endpoint)
            _put(self.assigned, endpoint, policy)
        for digest, policy in delta.policies.items():
            assert (policy is None) == (digest in self.tables)
            self.tables ^= {digest}
        return delta

    @rule(policies=POLICIES)
    def policies_come_and_change(self, policies: list[Policy]) -> None:
        self.policies |= keyed(policies)
        self.apply(policies=keyed(policies))

    @rule(data=st.data())
    @precondition(lambda self: self.policies)
    def a_policy_goes(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.policies)))
        del self.policies[key]
        self.apply(policies={key: None})

    @rule(endpoints=ENDPOINTS)
    def endpoints_change(self, endpoints: dict[EndpointId, Workload | None]) -> None:
        for endpoint, workload in endpoints.items():
            _put(self.endpoints, endpoint, workload)
        self.apply(endpoints=endpoints)

    @rule(identities=IDENTITIES)
    def identities_change(self, identities: dict[IdentityId, Labels | None]) -> None:
        for identity, labels in identities.items():
            _put(self.identities, identity, labels)
        self.apply(identities=identities)

    @rule(ports=PORTS)
    def ports_change(self, ports: dict[Labels, tuple[NamedPort, ...] | None]) -> None:
        for labels, named in ports.items():
            _put(self.ports, labels, named)
        self.apply(ports=ports)

    @rule(policies=POLICIES, endpoints=ENDPOINTS, identities=IDENTITIES)
    def everything_changes_and_is_taken_back(
        self,
        policies: list[Policy],
        endpoints: dict[EndpointId, Workload | None],
        identities: dict[IdentityId, Labels | None],
    ) -> None:
        before = dict(self.kernel), dict(self.assigned), set(self.tables)
        self.apply(policies=keyed(policies), endpoints=endpoints, identities=identities)
        self.apply(
            policies={policy_key(policy): self.policies.get(policy_key(policy)) for policy in policies},
            endpoints={endpoint: self.endpoints.get(endpoint) for endpoint in endpoints},
            identities={identity: self.identities.get(identity) for identity in identities},
        )
        assert (self.kernel, self.assigned, self.tables) == before

    @rule(policies=POLICIES, endpoints=ENDPOINTS, identities=IDENTITIES)
    def everything_changes_at_once(
        self,
        policies: list[Policy],
        endpoints: dict[EndpointId, Workload | None],
        identities: dict[IdentityId, Labels | None],
    ) -> None:
        self.policies |= keyed(policies)
        for endpoint, workload in endpoints.items():
            _put(self.endpoints, endpoint, workload)
        for identity, labels in identities.items():
            _put(self.identities, identity, labels)
        self.apply(policies=keyed(policies), endpoints=endpoints, identities=identities)

    @rule()
    def nothing_changes(self) -> None:
        same = self.apply(
            policies=self.policies, endpoints=self.endpoints, identities=self.identities, ports=self.ports
        )
        assert same.empty

    @invariant()
    def delta_is_rebuild(self) -> None:
        assigned = {
            endpoint: endpoint_policy(
                self.policies.values(),
                workload.labels,
                audit=workload.audit,
                own_ports=workload.ports,
                cluster_ports=self.ports,
            )
            for endpoint, workload in self.endpoints.items()
        }
        kernel = {
            place(policy.digest, entry): entry
            for policy in assigned.values()
            for identity, labels in ((ANY_IDENTITY, None), *self.identities.items())
            if labels is None or any(_names(rule, labels) for rule in policy.rules)
            for entry in entries(policy, identity, labels)
        }
        assert self.assigned == assigned
        assert self.kernel == kernel
        assert self.tables == {policy.digest for policy in assigned.values()} == set(self.resolver.policies())
        assert self.resolver.entry_count == len(kernel)
        assert dict(self.resolver.identities()) == self.identities


def _names(rule: Rule, labels: Labels) -> bool:
    """Whether it says something of this identity that it does not say of anybody: else identity 0 has all there is."""
    anybody = rule.peers is None or EntityPeer("all") in rule.peers
    return not anybody and matches_any(rule.peers, labels)


def _put(table: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


TestChanging = Changing.TestCase
TestChanging.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
