# SPDX-License-Identifier: Apache-2.0
"""The engine under test: l7policy as the agent, the kernel and the proxies use it, for one generated cluster."""

import ipaddress
import json
from collections.abc import Sequence
from typing import Any

import pytest
from generated.world import ENDPOINTS, SECRETS
from plain.party import Party

from l7policy import documents, names, resolve
from l7policy.enforcement import ENFORCE, EndpointRow, Enforcement
from l7policy.entries import Entry
from l7policy.ids import ANY_IDENTITY, FIRST_CLUSTER_IDENTITY, EndpointId, IdentityId, PolicyId, Revision
from l7policy.judgement import PolicyVerdict
from l7policy.labels import workload_labels
from l7policy.model import Labels, NamedPort, Secret, Snapshot
from l7policy.policydoc import Policy, Source
from l7policy.resolve import Mode
from l7policy.resolver import Resolver, Workload, keyed
from l7policy.verdict import Direction, Protocol, ProxyKind


def secret_of(secret: Secret) -> str | None:
    return SECRETS.get((secret.namespace, secret.name))


def labels_of(party: Party, policies: tuple[Policy, ...]) -> Labels:
    """What the agent and the DNS process give it."""
    apiserver = {"reserved:kube-apiserver"} if party.apiserver else set()
    if party.kind == "outside":
        parsed = ipaddress.ip_address(party.address)
        known = resolve.cidrs(policies)
        around = [cidr for cidr in known if parsed in ipaddress.ip_network(cidr)]
        longest = max(around, key=lambda cidr: int(cidr.partition("/")[2]), default=None)
        labels = resolve.cidr_labels(longest, known) if longest else frozenset({"reserved:world"})
        labels |= apiserver
        selecting = resolve.selectors(policies)
        return labels | {peer.label for name in party.names for peer in names.matching(selecting, name)}
    if party.kind != "pod":
        return frozenset(
            {f"reserved:{party.kind}", *apiserver, *(f"k8s:{key}={value}" for key, value in party.labels.items())}
        )
    of_namespace = {f"io.cilium.k8s.namespace.labels.{key}": value for key, value in party.namespace_labels.items()}
    everything = {**party.labels, **of_namespace, "io.kubernetes.pod.namespace": party.namespace}
    return workload_labels(f"{key}={value}" for key, value in everything.items())


class Engine:
    """The compiled cluster. Parties are known by their place in `parties`; the first `ENDPOINTS` are of this node."""

    def __init__(self, found: list[dict[str, Any]], parties: Sequence[Party], mode: str) -> None:
        text = "\n---\n".join(json.dumps(document) for document in found)
        policies = documents.load([Source("generated.yaml", text)])
        self.labels = [labels_of(party, policies) for party in parties]
        ports = [tuple(NamedPort(name, Protocol[of], number) for name, of, number in one.ports) for one in parties]
        self.resolver = Resolver(Mode(mode))
        delta = self.resolver.update(
            policies=keyed(policies),
            endpoints={
                EndpointId(number + 1): Workload(self.labels[number], ports[number], parties[number].audit)
                for number in range(ENDPOINTS)
            },
            identities={self.number_of(number): labels for number, labels in enumerate(self.labels)},
            ports={labels: named for labels, named in zip(self.labels, ports, strict=True) if named},
        )
        self.rows: dict[tuple[bytes, int, int, int, int], Entry] = {}
        for row in delta.rows:
            for entry in row.added():
                bits = entry.prefix_bits
                head = (entry.protocol << 16 | entry.port) >> (24 - bits)
                self.rows[row.policy, entry.identity, entry.direction, bits, head] = entry
        self._numbers = {digest: PolicyId(number + 1) for number, digest in enumerate(self.resolver.policies())}
        self.enforcement = Enforcement(self)
        of_all = {self.number_of(number): tuple(sorted(labels)) for number, labels in enumerate(self.labels)}
        by_number = {self._numbers[digest]: policy for digest, policy in self.resolver.policies().items()}
        self.enforcement.prepare(Snapshot(Revision(1), by_number, of_all, {}, ()), secret_of)
        assert self.enforcement.commit(1)

    @staticmethod
    def number_of(party: int) -> IdentityId:
        return IdentityId(FIRST_CLUSTER_IDENTITY + party)

    # -- the kernel ---------------------------------------------------------------------------------------------------

    def kernel(
        self, own: int, direction: Direction, peer: int, protocol: int, port: int
    ) -> tuple[PolicyVerdict, ProxyKind]:
        """As the datapath looks it up."""
        digest = self.resolver.digest_of(EndpointId(own + 1))
        ids = (self.number_of(peer), ANY_IDENTITY)
        found = [self._longest(digest, identity, direction, protocol, port) for identity in ids]
        strongest = max((entry for entry in found if entry is not None), key=lambda e: e.precedence, default=None)
        return (PolicyVerdict.DENY, ProxyKind.NONE) if strongest is None else (strongest.verdict, strongest.proxy)

    def _longest(self, digest: bytes, identity: int, direction: int, protocol: int, port: int) -> Entry | None:
        heads = (((protocol << 16 | port) >> (24 - bits), bits) for bits in range(24, -1, -1))
        rows = (self.rows.get((digest, identity, direction, bits, head)) for head, bits in heads)
        return next((row for row in rows if row is not None), None)

    # -- what proxies look up: `enforcement.Tables`. An address is the party's place as text ---------------------------

    def revision(self) -> int:
        return 1

    def endpoint(self, address: str) -> EndpointRow | None:
        if int(address) >= ENDPOINTS:
            return None
        endpoint = EndpointId(int(address) + 1)
        policy = self.resolver.policy_of(endpoint)
        flags = sum(bit for direction, bit in ENFORCE.items() if policy.enforces(direction))
        number = self._numbers[self.resolver.digest_of(endpoint)]
        return EndpointRow(endpoint, number, self.number_of(int(address)), flags)

    def identity(self, address: str, established: bool) -> int:
        return self.number_of(int(address))

    def fqdn_labels(self, identity: int) -> None:
        return None


@pytest.fixture(scope="session")
def engine() -> type[Engine]:
    return Engine
