# SPDX-License-Identifier: Apache-2.0
"""Policies of the cluster's administrator (policy.networking.k8s.io): from ``spec`` to `Policy`.

AdminNetworkPolicy and BaselineAdminNetworkPolicy (v1alpha1), and ClusterNetworkPolicy (v1alpha2), which unites them.
Their rules are ordered: of one policy the first that covers a flow decides, and of several policies the one with the
lowest priority. They deny nothing by default. Domain names have a dialect of their own: ``*.`` in front is one or more
labels, which Cilium writes ``**.``.

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from l7policy import labels, prefixes, scalars
from l7policy.envelope import ADMIN_POLICY, BASELINE_POLICY, CLUSTER_POLICY, Document
from l7policy.errors import did_you_mean
from l7policy.kubernetes import namespace_key, pod_key
from l7policy.labelselector import requirements
from l7policy.model import (
    PRIORITY_STEP,
    Action,
    FqdnPeer,
    LabelPeer,
    NodePeer,
    Operator,
    Origin,
    Peer,
    Port,
    Requirement,
    Rule,
    Tier,
)
from l7policy.policydoc import Policy
from l7policy.reader import Fields, Reader, fields
from l7policy.verdict import Direction, Protocol
from l7policy.yamltree import Kind, Node

T = TypeVar("T")

LAST_PRIORITY: Final = 1000
"""That a document can have."""
_SPEC: Final = {
    ADMIN_POLICY: fields("egress ingress priority subject", required="priority subject"),
    BASELINE_POLICY: fields("egress ingress subject", required="subject"),
    CLUSTER_POLICY: fields("egress ingress priority subject tier", required="priority subject tier"),
}
_MAX_RULES: Final = {ADMIN_POLICY: 100, BASELINE_POLICY: 100, CLUSTER_POLICY: 25}
_MAX_ITEMS: Final = {ADMIN_POLICY: 100, BASELINE_POLICY: 100, CLUSTER_POLICY: 25}
_ACTIONS: Final = {
    ADMIN_POLICY: {"Allow": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS},
    BASELINE_POLICY: {"Allow": Action.ALLOW, "Deny": Action.DENY},
    CLUSTER_POLICY: {"Accept": Action.ALLOW, "Deny": Action.DENY, "Pass": Action.PASS},
}
_TIERS: Final = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
_PODS: Final = fields("namespaceSelector podSelector", required="namespaceSelector podSelector")
_WHO: Final = fields("namespaces pods")
_PEERS: Final = {Direction.INGRESS: _WHO, Direction.EGRESS: fields("domainNames namespaces networks nodes pods")}
_OUTSIDE: Final = frozenset({"domainNames", "networks", "nodes"})
_PORT: Final = fields("namedPort portNumber portRange")
_PORT_NUMBER: Final = fields("port protocol", required="port")
_PORT_RANGE: Final = fields("end protocol start", required="end start")
_PROTOCOL: Final = fields("destinationNamedPort sctp tcp udp")
_DESTINATION: Final = fields("destinationPort")
_DESTINATION_PORT: Final = fields("number range")
_RANGE: Final = fields("end start", required="end start")
_PROTOCOLS: Final = {"SCTP": Protocol.SCTP, "TCP": Protocol.TCP, "UDP": Protocol.UDP}
_LABEL: Final = "[a-zA-Z0-9](?:[-a-zA-Z0-9_]*[a-zA-Z0-9])?"
_DOMAIN: Final = re.compile(rf"(?:[*][.])?(?:{_LABEL}[.])+{_LABEL}[.]?")
_LONGEST_NAME: Final = 100
_IN_SOME_NAMESPACE: Final = Requirement(labels.NAMESPACE, Operator.EXISTS)


def policies(reader: Reader, document: Document) -> Iterator[Policy]:
    """The policy of one document."""
    if document.spec is not None:
        if document.kind == BASELINE_POLICY and document.name not in ("", "default"):
            reader.fail(document.node.fields["metadata"], f"there is one {BASELINE_POLICY}, and its name is default")
        yield _Spec(reader, document).policy(document.spec)


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    direction: Direction
    peers: str
    fields: Fields


def _section(name: str, direction: Direction, peers: str, ports: str) -> _Section:
    return _Section(name, direction, peers, fields(f"action name {peers} {ports}", required=f"action {peers}"))


class _Spec:
    """Reads one spec."""

    def __init__(self, reader: Reader, document: Document) -> None:
        self._reader = reader
        self._document = document
        # What a later draft of v1alpha2 calls protocols, the earlier ones call ports like v1alpha1.
        ports = "ports protocols" if document.kind == CLUSTER_POLICY else "ports"
        self._sections = (
            _section("ingress", Direction.INGRESS, "from", ports),
            _section("egress", Direction.EGRESS, "to", ports),
        )

    def policy(self, node: Node) -> Policy:
        """The spec as a policy."""
        reader, document = self._reader, self._document
        found = reader.mapping(node, "spec", _SPEC[document.kind])
        tier = Tier.BASELINE if document.kind == BASELINE_POLICY else Tier.ADMIN
        if "tier" in found:
            tier = reader.checked(found["tier"], "tier", partial(_one_of, "tier", _TIERS)) or tier
        priority = self._integer(found["priority"], "priority", 0, LAST_PRIORITY) if "priority" in found else 0
        rules = []
        for section in self._sections:
            elements = reader.sequence(found[section.name], section.name) if section.name in found else ()
            if len(elements) > _MAX_RULES[document.kind]:
                reader.fail(
                    found[section.name], f"{len(elements)} rules; at most {_MAX_RULES[document.kind]} are allowed"
                )
            strength = (priority or 0) * PRIORITY_STEP
            for index, element in enumerate(elements[:PRIORITY_STEP]):
                rule = self._rule(section, element, index, tier, strength + index)
                if rule is not None:
                    rules.append(rule)
        return Policy(
            name=document.title,
            namespace="",
            kind=document.kind,
            subject=self._subject(found["subject"]) if "subject" in found else (),
            rules=tuple(rules),
            file=document.node.path,
            line=document.node.line,
            column=document.node.column,
        )

    def _subject(self, node: Node) -> tuple[Requirement, ...]:
        found = self._one(node, "subject", _WHO)
        return () if found is None else self._who(*found)

    def _rule(self, section: _Section, node: Node, index: int, tier: Tier, priority: int) -> Rule | None:
        reader = self._reader
        found = reader.mapping(node, f"an element of {section.name}", section.fields)
        if "name" in found and len(reader.text(found["name"], "name")) > _LONGEST_NAME:
            reader.fail(found["name"], f"name is longer than {_LONGEST_NAME} characters")
        known = _ACTIONS[self._document.kind]
        action = None
        if "action" in found:
            action = reader.checked(found["action"], "action", partial(_one_of, "action", known))
        elements = self._items(found[section.peers], section.peers) if section.peers in found else ()
        peers = [peer for element in elements for peer in self._peer(section, element, action, tier)]
        ports = self._ports(node, found)
        if any(port.name for port in ports):
            for element in elements:
                for kind in sorted(_OUTSIDE & element.fields.keys()):
                    reader.fail(element.keys[kind], f"{kind} have no named ports", "write the port's number")
        if action is None or ("ports" in found or "protocols" in found) != bool(ports):
            return None  # A mistake. Never a rule with fewer ports than were written: none would mean all.
        return Rule(
            section.direction,
            Origin(self._document.title, f"{section.name}[{index}]", node.path, node.line, node.column),
            tuple(dict.fromkeys(peers)),
            ports,
            action,
            tier=tier,
            priority=priority,
        )

    # -- peers ----------------------------------------------------------------------------------------------------

    def _peer(self, section: _Section, node: Node, action: Action | None, tier: Tier) -> Sequence[Peer]:
        found = self._one(node, f"an element of {section.peers}", _PEERS[section.direction])
        if found is None:
            return ()
        kind, value = found
        match kind:
            case "nodes":
                return (NodePeer(requirements(self._reader, value, "nodes", labels.node_key)),)
            case "networks":
                return self._listed(value, kind, prefixes.cidr)
            case "domainNames":
                if action not in (None, Action.ALLOW) or tier != Tier.ADMIN:
                    message = "domainNames can only be allowed, and in the tier Admin"
                    self._reader.fail(node.keys[kind], message, "deny the rest by a later rule")
                return self._listed(value, kind, _domain_name)
            case _:
                return (LabelPeer(self._who(kind, value)),)

    def _who(self, kind: str, node: Node) -> tuple[Requirement, ...]:
        if kind == "namespaces":
            return (*requirements(self._reader, node, kind, namespace_key), _IN_SOME_NAMESPACE)
        found = self._reader.mapping(node, kind, _PODS)
        conditions: tuple[Requirement, ...] = ()
        for name, key in (("namespaceSelector", namespace_key), ("podSelector", pod_key)):
            if name in found:
                conditions += requirements(self._reader, found[name], name, key)
        return (*conditions, _IN_SOME_NAMESPACE)

    def _listed(self, node: Node, what: str, check: Callable[[str], Peer]) -> list[Peer]:
        found = (self._reader.checked(element, what, check) for element in self._items(node, what))
        return [peer for peer in found if peer is not None]

    # -- ports ----------------------------------------------------------------------------------------------------

    def _ports(self, node: Node, found: dict[str, Node]) -> tuple[Port, ...]:
        if "ports" in found and "protocols" in found:
            self._reader.fail(node.keys["protocols"], "combining ports and protocols is not supported")
            return ()
        ports: list[Port | None] = []
        for name, read in (("ports", self._port), ("protocols", self._protocol)):
            if name in found:
                ports += [read(element) for element in self._items(found[name], name)]
        return () if None in ports else tuple(dict.fromkeys(port for port in ports if port is not None))

    def _port(self, node: Node) -> Port | None:
        one = self._one(node, "an element of ports", _PORT)
        if one is None:
            return None
        kind, value = one
        if kind == "namedPort":
            return self._named(value)
        ends = ("port", "port") if kind == "portNumber" else ("start", "end")
        found = self._reader.mapping(value, kind, _PORT_NUMBER if kind == "portNumber" else _PORT_RANGE)
        protocol: Protocol | None = Protocol.TCP
        if "protocol" in found:
            protocol = self._reader.checked(found["protocol"], "protocol", partial(_one_of, "protocol", _PROTOCOLS))
        return self._range(found, protocol, *ends)

    def _protocol(self, node: Node) -> Port | None:
        one = self._one(node, "an element of protocols", _PROTOCOL)
        if one is None:
            return None
        kind, value = one
        if kind == "destinationNamedPort":
            return self._named(value)
        protocol = _PROTOCOLS[kind.upper()]
        found = self._reader.mapping(value, kind, _DESTINATION)
        if "destinationPort" not in found:
            return None if value.fields else Port(protocol)
        port = self._one(found["destinationPort"], "destinationPort", _DESTINATION_PORT)
        if port is None:
            return None
        if port[0] == "number":
            return self._range({"number": port[1]}, protocol, "number", "number")
        return self._range(self._reader.mapping(port[1], "range", _RANGE), protocol, "start", "end")

    def _named(self, node: Node) -> Port | None:
        name = self._reader.text(node, "a port's name")
        if name and not scalars.is_port_name(name):
            self._reader.fail(node, f"{name[:80]!r} is not the name of a port", "numbers belong into portNumber")
            return None
        return Port(Protocol.ANY, name=name) if name else None

    def _range(self, found: dict[str, Node], protocol: Protocol | None, first: str, last: str) -> Port | None:
        numbers = [
            self._integer(found[name], name, 1, scalars.MAX_PORT) if name in found else None for name in (first, last)
        ]
        low, high = numbers
        if protocol is None or low is None or high is None:
            return None
        if high < low:
            self._reader.fail(found[last], f"end {high} is lower than start {low}")
            return None
        return Port(protocol, low, high)

    # -- shapes ---------------------------------------------------------------------------------------------------

    def _one(self, node: Node, what: str, known: Fields) -> tuple[str, Node] | None:
        """The only field of a mapping that must have exactly one."""
        found = self._reader.mapping(node, what, known)
        if node.kind is Kind.MAPPING and len(node.fields) != 1:
            self._reader.fail(node, f"{what} needs exactly one of {', '.join(sorted(known.supported))}")
            return None
        return next(iter(found.items()), None)

    def _items(self, node: Node, what: str) -> tuple[Node, ...]:
        elements = self._reader.sequence(node, what)
        most = _MAX_ITEMS[self._document.kind]
        if node.kind is Kind.SEQUENCE and not 0 < len(elements) <= most:
            self._reader.fail(node, f"{what} has {len(elements)} elements; 1 to {most} are allowed")
        return elements

    def _integer(self, node: Node, what: str, lowest: int, highest: int) -> int | None:
        if node.kind is not Kind.INTEGER or not isinstance(node.value, int):
            self._reader.fail(node, f"{what} must be a number, not {node.kind}")
            return None
        if not lowest <= node.value <= highest:
            self._reader.fail(node, f"{what} must be from {lowest} to {highest}, not {node.text[:20]}")
            return None
        return node.value


def _one_of(what: str, known: Mapping[str, T], text: str) -> T:
    if text not in known:
        raise ValueError(f"unknown {what} {text[:80]!r}; {did_you_mean(text, known)}")
    return known[text]


def _domain_name(text: str) -> FqdnPeer:
    if not _DOMAIN.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a domain name: labels of letters, digits and '-', '*.' only in front")
    # Here `*.` is one or more labels; where this is read, that is `**.`.
    return scalars.match_pattern(f"*{text}") if text.startswith("*") else scalars.match_name(text)
