# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy of Kubernetes (networking.k8s.io/v1): from ``spec`` to `Policy`.

Reads empties the other way than Cilium: an absent or empty ``from`` is everybody, absent or empty ``ports`` are all
ports, ``ingress: [{}]`` allows everything, and a protocol not given is TCP.

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

from collections.abc import Iterator
from typing import Final

from l7policy import labels, prefixes, scalars
from l7policy.envelope import Document
from l7policy.errors import did_you_mean
from l7policy.labelselector import requirements
from l7policy.model import LabelPeer, Operator, Origin, Peer, Port, Requirement, Rule
from l7policy.policydoc import Policy
from l7policy.reader import Reader, fields
from l7policy.verdict import Direction, Protocol
from l7policy.yamltree import Kind, Node

_SPEC: Final = fields("egress ingress podSelector policyTypes")
_RULE: Final = {Direction.INGRESS: fields("from ports"), Direction.EGRESS: fields("to ports")}
_PEER: Final = fields("ipBlock namespaceSelector podSelector")
_IP_BLOCK: Final = fields("cidr except", required="cidr")
_PORT: Final = fields("endPort port protocol")
_TYPES: Final = {"Egress": Direction.EGRESS, "Ingress": Direction.INGRESS}
_PROTOCOLS: Final = {"SCTP": Protocol.SCTP, "TCP": Protocol.TCP, "UDP": Protocol.UDP}
_NAME_OF_NAMESPACE: Final = "kubernetes.io/metadata.name"
"""The label that Kubernetes puts on every namespace, its value the namespace's name."""


def policies(reader: Reader, document: Document) -> Iterator[Policy]:
    """The policy of one document."""
    if document.spec is None:
        return
    found = reader.mapping(document.spec, "spec", _SPEC)
    sections = {
        direction: reader.sequence(found[name], name)
        for name, direction in (("ingress", Direction.INGRESS), ("egress", Direction.EGRESS))
        if name in found
    }
    types = _types(reader, found.get("policyTypes"), has_egress=bool(sections.get(Direction.EGRESS)))
    rules = [
        rule
        for direction, elements in sections.items()
        for index, element in enumerate(elements)
        if (rule := _rule(reader, document, direction, element, index)) is not None
    ]
    yield Policy(
        name=document.title,
        namespace=document.namespace,
        kind=document.kind,
        subject=_pods(reader, found.get("podSelector"), document.namespace),
        # Kubernetes ignores the rules of a direction that policyTypes leaves out; they must not even allow.
        rules=tuple(rule for rule in rules if rule.direction in types),
        default_deny_egress=Direction.EGRESS in types,
        default_deny_ingress=Direction.INGRESS in types,
        file=document.node.path,
        line=document.node.line,
        column=document.node.column,
    )


def _types(reader: Reader, node: Node | None, *, has_egress: bool) -> set[Direction]:
    elements = reader.sequence(node, "policyTypes") if node is not None else ()
    if elements:
        found = (reader.checked(element, "policyTypes", _type) for element in elements)
        return {direction for direction in found if direction is not None}
    # Not said means ingress, even for a policy that has egress rules only.
    return {Direction.INGRESS, Direction.EGRESS} if has_egress else {Direction.INGRESS}


def _type(text: str) -> Direction:
    if text not in _TYPES:
        raise ValueError(f"unknown type {text[:80]!r}; {did_you_mean(text, _TYPES)}")
    return _TYPES[text]


def _pods(reader: Reader, node: Node | None, namespace: str) -> tuple[Requirement, ...]:
    """Pods of one namespace; without a selector, all of them."""
    conditions = requirements(reader, node, "podSelector", pod_key) if node is not None else ()
    return (*conditions, Requirement(labels.NAMESPACE, Operator.IN, (namespace,)))


def pod_key(text: str) -> str:
    """A key of a podSelector in canonical form. Raises ValueError."""
    return f"{labels.K8S}:{labels.check_key(text)}"


def namespace_key(text: str) -> str:
    """A key of a namespaceSelector in canonical form. Raises ValueError."""
    key = labels.check_key(text)
    if key == _NAME_OF_NAMESPACE:
        return labels.NAMESPACE
    return f"{labels.K8S}:{labels.NAMESPACE_LABELS_KEY}{key}"


def _rule(reader: Reader, document: Document, direction: Direction, node: Node, index: int) -> Rule | None:
    section, peers_name = ("ingress", "from") if direction == Direction.INGRESS else ("egress", "to")
    found = reader.mapping(node, f"an element of {section}", _RULE[direction])
    peer_nodes = reader.sequence(found[peers_name], peers_name) if peers_name in found else ()
    peers = [_peer(reader, element, document.namespace, peers_name) for element in peer_nodes]
    port_nodes = reader.sequence(found["ports"], "ports") if "ports" in found else ()
    ports = [_port(reader, element) for element in port_nodes]
    if None in ports:
        return None  # A mistake. Never a rule with fewer ports than were written: none would mean all.
    return Rule(
        direction=direction,
        origin=Origin(document.title, f"{section}[{index}]", node.path, node.line, node.column),
        peers=tuple(dict.fromkeys(peer for peer in peers if peer is not None)) if peer_nodes else None,
        ports=tuple(dict.fromkeys(port for port in ports if port is not None)),
    )


def _peer(reader: Reader, node: Node, namespace: str, what: str) -> Peer | None:
    found = reader.mapping(node, f"an element of {what}", _PEER)
    if node.kind is Kind.MAPPING and not node.fields:
        reader.fail(node, f"an empty element of {what} selects nobody", f"leave {what} out to mean everybody")
        return None
    if "ipBlock" in found:
        for other in sorted(node.fields.keys() & {"namespaceSelector", "podSelector"}):
            reader.fail(node.keys[other], f"combining ipBlock and {other} is not supported", "write two elements")
        return _ip_block(reader, found["ipBlock"])
    pods = found.get("podSelector")
    if "namespaceSelector" not in found:
        return LabelPeer(_pods(reader, pods, namespace))
    conditions = requirements(reader, found["namespaceSelector"], "namespaceSelector", namespace_key)
    if pods is not None:
        conditions += requirements(reader, pods, "podSelector", pod_key)
    # Whoever is in a namespace at all: the world and the nodes are in none.
    return LabelPeer((*conditions, Requirement(labels.NAMESPACE, Operator.EXISTS)))


def _ip_block(reader: Reader, node: Node) -> Peer | None:
    found = reader.mapping(node, "ipBlock", _IP_BLOCK)
    excepts = reader.sequence(found["except"], "except") if "except" in found else ()
    return prefixes.block(reader, found["cidr"], excepts) if "cidr" in found else None


def _port(reader: Reader, node: Node) -> Port | None:
    found = reader.mapping(node, "an element of ports", _PORT)
    protocol: Protocol | None = Protocol.TCP
    if "protocol" in found:
        protocol = reader.checked(found["protocol"], "protocol", _protocol)
    if protocol is None:
        return None
    if "port" not in found:
        if "endPort" in node.fields:
            reader.fail(node.keys["endPort"], "endPort needs a port")
        return Port(protocol) if "port" not in node.fields and "endPort" not in node.fields else None
    if found["port"].kind is Kind.TEXT and scalars.is_port_name(found["port"].text):
        if "endPort" in node.fields:
            reader.fail(node.keys["endPort"], "a port with a name takes no endPort", "write the numbers of the range")
            return None
        return Port(protocol, name=found["port"].text)
    first = _number(reader, found["port"], "port")
    last = _number(reader, found["endPort"], "endPort") if "endPort" in found else first
    if first is None or last is None:
        return None
    if last < first:
        reader.fail(found["endPort"], f"endPort {last} is lower than port {first}")
        return None
    return Port(protocol, first, last)


def _number(reader: Reader, node: Node, what: str) -> int | None:
    if node.kind is Kind.TEXT:
        hint = "write it without quotes" if node.text.isdecimal() else ""
        reader.fail(node, f"{what} must be a number, not text", hint)
        return None
    if node.kind is not Kind.INTEGER:
        reader.fail(node, f"{what} must be a number, not {node.kind}")
        return None
    return reader.attempt(node, what, lambda: scalars.port_number(node.text))


def _protocol(text: str) -> Protocol:
    if text not in _PROTOCOLS:
        raise ValueError(f"unknown protocol {text[:80]!r}; {did_you_mean(text, _PROTOCOLS)}")
    return _PROTOCOLS[text]
