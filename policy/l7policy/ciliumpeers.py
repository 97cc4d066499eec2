# SPDX-License-Identifier: Apache-2.0
"""Peers of Cilium's rules: the ``from…`` and ``to…`` lists of one element.

The semantics are Cilium 1.20's (pkg/policy/api/{ingress,egress,cidr,entity,service}.go). A list that is there and empty
selects nobody (CVE-2025-64715: an empty ``toCIDRSet`` once selected everybody).

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from l7policy import ciliumports, labels, prefixes, selectors
from l7policy.errors import did_you_mean
from l7policy.labelselector import requirements
from l7policy.model import CidrPeer, EntityPeer, LabelPeer, NodePeer, Operator, Peer, Requirement
from l7policy.objects import Objects
from l7policy.reader import Reader, fields
from l7policy.yamltree import Node

_CIDR_SET: Final = fields("cidr cidrGroupRef cidrGroupSelector except")
_SERVICE: Final = fields("k8sService k8sServiceSelector")
_NAMED_SERVICE: Final = fields("namespace serviceName", required="namespace serviceName")
_SELECTED_SERVICE: Final = fields("namespace selector", required="selector")

ENTITIES: Final = selectors.ENTITIES
REFUSED_ENTITIES: Final = {"cluster-mesh": "l7gate knows the cluster it runs in and no other; cluster is that one"}


@dataclass(frozen=True, slots=True)
class Peers:
    """Reads the peers of one policy."""

    reader: Reader
    namespace: str
    """Empty for a clusterwide policy."""
    objects: Objects

    def read(self, kind: str, node: Node) -> tuple[Peer, ...]:
        """One list, of one of `KINDS`."""
        make = KINDS[kind]
        found = (peer for element in self.reader.sequence(node, kind) for peer in make(self, element))
        return tuple(dict.fromkeys(found))

    def endpoints(self, node: Node) -> Sequence[Peer]:
        """An element of fromEndpoints or toEndpoints. It stays in the policy's namespace unless it says otherwise."""
        conditions = requirements(self.reader, node, "an endpoint selector", labels.selector_key)
        if any(condition.key.startswith(f"{labels.RESERVED}:") for condition in conditions):
            return [LabelPeer(conditions)]
        if any(is_namespace_key(condition.key) for condition in conditions):
            return [LabelPeer(conditions)]
        if not self.namespace:
            return [LabelPeer((*conditions, Requirement(labels.NAMESPACE, Operator.EXISTS)))]
        if any(_is_label_of_namespace(condition.key) for condition in conditions):
            return [LabelPeer(conditions)]
        return [LabelPeer((*conditions, in_namespace(self.namespace)))]

    def nodes(self, node: Node) -> Sequence[Peer]:
        """An element of fromNodes or toNodes."""
        return [NodePeer(requirements(self.reader, node, "a node selector", labels.node_key))]

    def cidr(self, node: Node) -> Iterable[Peer]:
        """An element of fromCIDR or toCIDR."""
        return _one(self.reader.checked(node, "prefix", prefixes.cidr))

    def cidr_set(self, node: Node) -> Sequence[Peer]:
        """An element of fromCIDRSet or toCIDRSet."""
        reader = self.reader
        found = reader.mapping(node, "an element of a CIDR set", _CIDR_SET)
        named = [name for name in ("cidr", "cidrGroupRef", "cidrGroupSelector") if name in node.fields]
        if not named:
            message = "an element of a CIDR set needs the field cidr, cidrGroupRef or cidrGroupSelector"
            reader.lacks(node, _CIDR_SET, "cidr cidrGroupRef cidrGroupSelector", message)
        for name in named[1:]:
            reader.fail(node.keys[name], f"combining {named[0]} and {name} is not supported", "write two elements")
        excepts = reader.sequence(found["except"], "except") if "except" in found else ()
        if "cidr" in found:
            return _one(prefixes.block(reader, found["cidr"], excepts))
        cidrs: tuple[str, ...] | None = ()
        if "cidrGroupRef" in found:
            cidrs = reader.checked(found["cidrGroupRef"], "cidrGroupRef", self.objects.group)
        elif "cidrGroupSelector" in found:
            selector = found["cidrGroupSelector"]
            wanted = requirements(reader, selector, "cidrGroupSelector", _object_key)
            cidrs = reader.attempt(selector, "cidrGroupSelector", lambda: self.objects.groups(wanted))
        return self._carved(cidrs or (), excepts)

    def _carved(self, cidrs: Sequence[str], excepts: Iterable[Node]) -> list[Peer]:
        """Each prefix of a group without the exceptions inside of it."""
        outer = {cidr: prefixes.network(cidr) for cidr in cidrs}
        carved: dict[str, list[str]] = {cidr: [] for cidr in cidrs}
        for element in excepts:
            inner = self.reader.checked(element, "except", prefixes.network)
            if inner is None:
                continue
            around = [cidr for cidr, network in outer.items() if prefixes.is_inside(inner, network)]
            if not around and cidrs:
                self.reader.fail(element, f"except: {inner} is not inside of any prefix of the group")
            for cidr in around:
                carved[cidr].append(str(inner))
        return [CidrPeer(cidr, tuple(sorted(set(found)))) for cidr, found in carved.items()]

    def entity(self, node: Node) -> Iterable[Peer]:
        """An element of fromEntities or toEntities."""
        return _one(self.reader.checked(node, "entity", _entity))

    def fqdn(self, node: Node) -> Iterable[Peer]:
        """An element of toFQDNs."""
        return _one(ciliumports.fqdn(self.reader, node, "an element of toFQDNs"))

    def service(self, node: Node) -> Sequence[Peer]:
        """An element of toServices: whoever is behind it. Its own address is gone before policy is asked."""
        reader = self.reader
        found = reader.mapping(node, "an element of toServices", _SERVICE)
        if len(node.fields) != 1:
            reader.fail(node, "an element of toServices needs one of k8sService and k8sServiceSelector")
            return ()
        if "k8sService" in found:
            named = reader.mapping(found["k8sService"], "k8sService", _NAMED_SERVICE)
            texts = {name: reader.text(value, name) for name, value in named.items()}
            if len(texts) < len(_NAMED_SERVICE.required):
                return ()
            behind = partial(self.objects.service, texts["namespace"], texts["serviceName"])
            return reader.attempt(found["k8sService"], "k8sService", behind) or ()
        if "k8sServiceSelector" in found:
            chosen = reader.mapping(found["k8sServiceSelector"], "k8sServiceSelector", _SELECTED_SERVICE)
            if "selector" not in chosen:
                return ()
            namespace = reader.text(chosen["namespace"], "namespace") if "namespace" in chosen else ""
            wanted = requirements(reader, chosen["selector"], "selector", _object_key)
            behind = partial(self.objects.services, namespace, wanted)
            return reader.attempt(found["k8sServiceSelector"], "k8sServiceSelector", behind) or ()
        return ()


KINDS: Final[dict[str, Callable[[Peers, Node], Iterable[Peer]]]] = {
    "fromCIDR": Peers.cidr,
    "fromCIDRSet": Peers.cidr_set,
    "fromEndpoints": Peers.endpoints,
    "fromEntities": Peers.entity,
    "fromNodes": Peers.nodes,
    "toCIDR": Peers.cidr,
    "toCIDRSet": Peers.cidr_set,
    "toEndpoints": Peers.endpoints,
    "toEntities": Peers.entity,
    "toFQDNs": Peers.fqdn,
    "toNodes": Peers.nodes,
    "toServices": Peers.service,
}


def _one(peer: Peer | None) -> Sequence[Peer]:
    return () if peer is None else (peer,)


def _entity(text: str) -> EntityPeer:
    if text in ENTITIES:
        return EntityPeer(text)
    if text in REFUSED_ENTITIES:
        raise ValueError(f"{text} is not supported: {REFUSED_ENTITIES[text]}")
    raise ValueError(f"unknown entity {text[:80]!r}; {did_you_mean(text, ENTITIES)}")


def _object_key(text: str) -> str:
    return f"{labels.K8S}:{labels.check_key(text.removeprefix('k8s:'))}"


@functools.lru_cache(maxsize=1 << 12)
def in_namespace(namespace: str) -> Requirement:
    """Workloads of one namespace."""
    return Requirement(labels.NAMESPACE, Operator.IN, (namespace,))


def is_namespace_key(key: str) -> bool:
    """Whether a condition on `key` says which namespace."""
    return key in {labels.NAMESPACE, f"{labels.ANY}:{labels.NAMESPACE_KEY}"}


def _is_label_of_namespace(key: str) -> bool:
    return key.partition(":")[2].startswith(labels.NAMESPACE_LABELS_KEY)
