# SPDX-License-Identifier: Apache-2.0
"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: from ``spec`` to `Policy`.

The semantics are Cilium 1.20's (pkg/policy/api/rule*.go, pkg/k8s/apis/cilium.io/utils). Where Cilium accepts a text
that allows more than its author can have meant (an empty list of HTTP rules allows every request), or that does
nothing, this module refuses it. docs/reference/policy.md lists these.

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from l7policy import ciliumports, labels, prefixes
from l7policy.envelope import CCNP, Document
from l7policy.errors import did_you_mean
from l7policy.labelselector import requirements
from l7policy.model import Action, EntityPeer, LabelPeer, Operator, Origin, Peer, Requirement, Rule
from l7policy.policydoc import Policy
from l7policy.reader import Fields, Reader, fields
from l7policy.verdict import Direction
from l7policy.yamltree import Node

_REMOVED: Final = "Cilium removed it in 1.19"
_SPEC: Final = fields(
    "description enableDefaultDeny egress egressDeny endpointSelector ingress ingressDeny labels",
    later="log nodeSelector",
)
_INGRESS: Final = fields(
    "fromCIDR fromCIDRSet fromEndpoints fromEntities toPorts",
    later="authentication fromGroups fromNodes icmps",
    refused={"fromRequires": _REMOVED},
)
_EGRESS: Final = fields(
    "toCIDR toCIDRSet toEndpoints toEntities toFQDNs toPorts",
    later="authentication icmps toGroups toNodes toServices",
    refused={"toRequires": _REMOVED},
)
_INGRESS_DENY: Final = fields(
    "fromCIDR fromCIDRSet fromEndpoints fromEntities toPorts",
    later="fromGroups fromNodes icmps",
    refused={"fromRequires": _REMOVED, "authentication": "what is denied needs none"},
)
_EGRESS_DENY: Final = fields(
    "toCIDR toCIDRSet toEndpoints toEntities toPorts",
    later="icmps toGroups toNodes toServices",
    refused={
        "toRequires": _REMOVED,
        "authentication": "what is denied needs none",
        "toFQDNs": "a deny rule cannot go by name, since an address may belong to many names",
    },
)
_CIDR_SET: Final = fields("cidr except", later="cidrGroupRef cidrGroupSelector")
_DEFAULT_DENY: Final = fields("egress ingress")
_LABEL: Final = fields("key value source", required="key")

ENTITIES: Final = frozenset({"all", "cluster", "host", "none", "remote-node", "world", "world-ipv4", "world-ipv6"})
ENTITIES_LATER: Final = frozenset({"cluster-mesh", "health", "ingress", "init", "kube-apiserver", "unmanaged"})
"""Cilium knows them; no identity here stands for them, so a deny rule for one would deny nothing."""


@dataclass(frozen=True, slots=True)
class _Section:
    """One of the four lists of rules."""

    name: str
    direction: Direction
    deny: bool
    fields: Fields

    @property
    def action(self) -> Action:
        return Action.DENY if self.deny else Action.ALLOW


_SECTIONS: Final = (
    _Section("ingress", Direction.INGRESS, False, _INGRESS),
    _Section("ingressDeny", Direction.INGRESS, True, _INGRESS_DENY),
    _Section("egress", Direction.EGRESS, False, _EGRESS),
    _Section("egressDeny", Direction.EGRESS, True, _EGRESS_DENY),
)


def policies(reader: Reader, document: Document) -> Iterator[Policy]:
    """The policies of one document: one of ``spec``, and one of each element of ``specs``."""
    if document.spec is None and document.specs is None:
        if not {"spec", "specs"} & document.node.fields.keys():
            reader.fail(document.node, f"a {document.kind} needs the field spec or specs")
        return
    if document.spec is not None:
        yield _Spec(reader, document, "").policy(document.spec)
    if document.specs is not None:
        elements = reader.sequence(document.specs, "specs")
        if not elements and document.spec is None:
            reader.fail(document.specs, "specs is empty")
        for index, element in enumerate(elements):
            yield _Spec(reader, document, f"specs[{index}]").policy(element)


class _Spec:
    """Reads one spec."""

    def __init__(self, reader: Reader, document: Document, part: str) -> None:
        self._reader = reader
        self._document = document
        self._part = part

    def policy(self, node: Node) -> Policy:
        """The spec as a policy."""
        reader, document = self._reader, self._document
        found = reader.mapping(node, "spec", _SPEC)
        if "endpointSelector" in found:
            subject = self._subject(found["endpointSelector"])
        else:
            subject = ()
            if not {"endpointSelector", "nodeSelector"} & node.fields.keys():
                reader.fail(node, "spec needs the field endpointSelector", "{} selects every endpoint of the namespace")
        if "labels" in found:
            self._check_labels(found["labels"])
        sections = [
            (section, reader.sequence(found[section.name], section.name))
            for section in _SECTIONS
            if section.name in found
        ]
        broken = any(section.name in node.fields and section.name not in found for section in _SECTIONS)
        if not broken and not any(elements for _, elements in sections):
            reader.fail(
                node,
                "spec needs at least one of ingress, ingressDeny, egress and egressDeny, and not empty",
                "to deny everything in a direction write ingress: [{}] or egress: [{}]",
            )
        rules = tuple(
            rule
            for section, elements in sections
            for index, element in enumerate(elements)
            for rule in self._rules(section, element, f"{section.name}[{index}]")
        )
        deny = self._default_deny(
            found.get("enableDefaultDeny"), {section.direction for section, elements in sections if elements}
        )
        return Policy(
            name=document.title,
            namespace=document.namespace,
            kind=document.kind,
            subject=subject,
            rules=rules,
            default_deny_egress=deny[Direction.EGRESS],
            default_deny_ingress=deny[Direction.INGRESS],
            part=self._part,
            description=reader.text(found["description"], "description") if "description" in found else "",
            file=node.path,
            line=(node if self._part else document.node).line,
            column=(node if self._part else document.node).column,
        )

    def _subject(self, node: Node) -> tuple[Requirement, ...]:
        conditions = requirements(self._reader, node, "endpointSelector", labels.selector_key)
        namespace = self._document.namespace
        for condition in conditions:
            if condition.key.startswith(f"{labels.RESERVED}:"):
                self._reader.fail(node, f"endpointSelector with label {condition.key} is not supported yet")
            elif namespace and _is_namespace_key(condition.key) and condition != _in(condition.key, namespace):
                self._reader.fail(
                    node,
                    f"the policy is in namespace {namespace} and can select endpoints of that namespace only",
                    f"put the policy into the other namespace, or use {CCNP}",
                )
        if not namespace:
            return conditions
        others = tuple(condition for condition in conditions if not _is_namespace_key(condition.key))
        return (*others, _in(labels.NAMESPACE, namespace))

    def _default_deny(self, node: Node | None, present: set[Direction]) -> dict[Direction, bool]:
        deny = {direction: direction in present for direction in Direction}
        if node is not None:
            found = self._reader.mapping(node, "enableDefaultDeny", _DEFAULT_DENY)
            for name, value in found.items():
                deny[Direction[name.upper()]] = self._reader.boolean(value, f"enableDefaultDeny.{name}")
        return deny

    def _check_labels(self, node: Node) -> None:
        for element in self._reader.sequence(node, "labels"):
            for name, value in self._reader.mapping(element, "an element of labels", _LABEL).items():
                self._reader.text(value, name)

    def _rules(self, section: _Section, node: Node, path: str) -> Iterator[Rule]:
        """The rules of one element: one for each of its toPorts, or one without ports."""
        reader = self._reader
        found = reader.mapping(node, f"an element of {section.name}", section.fields)
        named = [name for name in node.fields if name in _PEER_KINDS]
        for name in named[1:]:
            reader.fail(
                node.keys[name],
                f"combining {named[0]} and {name} is not supported",
                "write two elements; either may allow",
            )
        peers: tuple[Peer, ...] | None = None
        for name in named:
            if name in found:
                peers = self._peers(name, found[name])
        if "toPorts" in found:
            elements = reader.sequence(found["toPorts"], "toPorts")
            if not elements:
                reader.fail(node.keys["toPorts"], "toPorts is empty", "leave it out for every port")
            for index, element in enumerate(elements):
                ports = ciliumports.read(reader, element, section.direction, deny=section.deny)
                origin = self._origin(element, f"{path}.toPorts[{index}]")
                yield Rule(section.direction, origin, peers, ports.ports, section.action, ports.http, ports.dns)
        elif peers is not None:
            yield Rule(section.direction, self._origin(node, path), peers, action=section.action)
        elif section.deny and not node.fields:
            # An empty element of `ingress` makes the direction default-deny. Here its author means more than that.
            reader.fail(node, f"an empty element of {section.name} denies nothing", "name peers or ports")

    def _origin(self, node: Node, path: str) -> Origin:
        rule = f"{self._part}.{path}" if self._part else path
        return Origin(self._document.title, rule, node.path, node.line, node.column)

    def _peers(self, name: str, node: Node) -> tuple[Peer, ...]:
        make = _PEER_KINDS[name]
        found = (make(self, element) for element in self._reader.sequence(node, name))
        return tuple(dict.fromkeys(peer for peer in found if peer is not None))

    def endpoints(self, node: Node) -> Peer:
        """An element of fromEndpoints or toEndpoints. It stays in the policy's namespace unless it says otherwise."""
        conditions = requirements(self._reader, node, "an endpoint selector", labels.selector_key)
        if any(condition.key.startswith(f"{labels.RESERVED}:") for condition in conditions):
            return LabelPeer(conditions)
        if any(_is_namespace_key(condition.key) for condition in conditions):
            return LabelPeer(conditions)
        namespace = self._document.namespace
        if not namespace:
            return LabelPeer((*conditions, Requirement(labels.NAMESPACE, Operator.EXISTS)))
        if any(_is_label_of_namespace(condition.key) for condition in conditions):
            return LabelPeer(conditions)
        return LabelPeer((*conditions, _in(labels.NAMESPACE, namespace)))

    def cidr(self, node: Node) -> Peer | None:
        """An element of fromCIDR or toCIDR."""
        return self._reader.checked(node, "prefix", prefixes.cidr)

    def cidr_set(self, node: Node) -> Peer | None:
        """An element of fromCIDRSet or toCIDRSet."""
        reader = self._reader
        found = reader.mapping(node, "an element of a CIDR set", _CIDR_SET)
        if "cidr" not in found:
            if not set(_CIDR_SET.later | {"cidr"}) & node.fields.keys():
                reader.fail(node, "an element of a CIDR set needs the field cidr")
            return None
        excepts = reader.sequence(found["except"], "except") if "except" in found else ()
        return prefixes.block(reader, found["cidr"], excepts)

    def entity(self, node: Node) -> Peer | None:
        """An element of fromEntities or toEntities."""
        return self._reader.checked(node, "entity", _entity)

    def fqdn(self, node: Node) -> Peer | None:
        """An element of toFQDNs."""
        return ciliumports.fqdn(self._reader, node, "an element of toFQDNs")


_PEER_KINDS: Final[dict[str, Callable[[_Spec, Node], Peer | None]]] = {
    "fromCIDR": _Spec.cidr,
    "fromCIDRSet": _Spec.cidr_set,
    "fromEndpoints": _Spec.endpoints,
    "fromEntities": _Spec.entity,
    "toCIDR": _Spec.cidr,
    "toCIDRSet": _Spec.cidr_set,
    "toEndpoints": _Spec.endpoints,
    "toEntities": _Spec.entity,
    "toFQDNs": _Spec.fqdn,
}


def _entity(text: str) -> EntityPeer:
    if text in ENTITIES:
        return EntityPeer(text)
    if text in ENTITIES_LATER:
        raise ValueError(f"{text} is not supported yet")
    raise ValueError(f"unknown entity {text[:80]!r}; {did_you_mean(text, ENTITIES)}")


def _in(key: str, value: str) -> Requirement:
    return Requirement(key, Operator.IN, (value,))


def _is_namespace_key(key: str) -> bool:
    return key in {labels.NAMESPACE, f"{labels.ANY}:{labels.NAMESPACE_KEY}"}


def _is_label_of_namespace(key: str) -> bool:
    return key.partition(":")[2].startswith(labels.NAMESPACE_LABELS_KEY)
