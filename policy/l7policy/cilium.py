# SPDX-License-Identifier: Apache-2.0
"""CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: from ``spec`` to `Policy`.

The semantics are Cilium 1.20's (pkg/policy/api/rule*.go, pkg/k8s/apis/cilium.io/utils). Where Cilium accepts a text
that allows more than its author can have meant (an empty list of HTTP rules allows every request), or that does
nothing, this module refuses it. docs/reference/policy.md lists these.

Failure verdict: a mistake in the `Reader`, which rejects every file of the reading.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from msgspec.structs import replace

from l7policy import ciliumports, labels
from l7policy.ciliumpeers import KINDS, Peers, in_namespace, is_namespace_key
from l7policy.envelope import CCNP, Document
from l7policy.labelselector import requirements
from l7policy.model import Action, Origin, Peer, Requirement, Rule
from l7policy.objects import Objects
from l7policy.policydoc import Policy, SubjectKind
from l7policy.reader import Fields, Reader, fields
from l7policy.selectors import INIT_LABEL
from l7policy.verdict import Direction
from l7policy.yamltree import Node

_REMOVED: Final = "Cilium removed it in 1.19"
_GROUPS: Final = "security groups of a cloud are known to that cloud's API only; name their prefixes"
_AUTHENTICATION: Final = "l7gate has no mutual authentication that it could ask for"
_UNAUTHENTICATED: Final = "what is denied needs none"
_SPEC: Final = fields(
    "description enableDefaultDeny egress egressDeny endpointSelector ingress ingressDeny labels log nodeSelector"
)
_INGRESS: Final = fields(
    "fromCIDR fromCIDRSet fromEndpoints fromEntities fromNodes icmps toPorts",
    refused={"fromRequires": _REMOVED, "fromGroups": _GROUPS, "authentication": _AUTHENTICATION},
)
_EGRESS: Final = fields(
    "icmps toCIDR toCIDRSet toEndpoints toEntities toFQDNs toNodes toPorts toServices",
    refused={"toRequires": _REMOVED, "toGroups": _GROUPS, "authentication": _AUTHENTICATION},
)
_INGRESS_DENY: Final = fields(
    "fromCIDR fromCIDRSet fromEndpoints fromEntities fromNodes icmps toPorts",
    refused={"fromRequires": _REMOVED, "fromGroups": _GROUPS, "authentication": _UNAUTHENTICATED},
)
_EGRESS_DENY: Final = fields(
    "icmps toCIDR toCIDRSet toEndpoints toEntities toNodes toPorts toServices",
    refused={
        "toRequires": _REMOVED,
        "toGroups": _GROUPS,
        "authentication": _UNAUTHENTICATED,
        "toFQDNs": "a deny rule cannot go by name, since an address may belong to many names",
    },
)
_DEFAULT_DENY: Final = fields("egress ingress")
_LABEL: Final = fields("key value source", required="key")
_LOG: Final = fields("value")
_LONGEST_LOG: Final = 32


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


_OF_NO_WORKLOAD: Final = frozenset(
    f"{labels.RESERVED}:{name}" for name in labels.RESERVED_NAMES - {"init", "health", "ingress"}
)
"""An endpoint without labels of its own is ``reserved:init``. Those for health checks and Ingress are Cilium's own:
none is here, and policies for them select nobody. The others are no endpoints that policy could select."""

_SECTIONS: Final = (
    _Section("ingress", Direction.INGRESS, False, _INGRESS),
    _Section("ingressDeny", Direction.INGRESS, True, _INGRESS_DENY),
    _Section("egress", Direction.EGRESS, False, _EGRESS),
    _Section("egressDeny", Direction.EGRESS, True, _EGRESS_DENY),
)


def policies(reader: Reader, document: Document, objects: Objects) -> Iterator[Policy]:
    """The policies of one document: one of ``spec``, and one of each element of ``specs``."""
    if document.spec is None and document.specs is None:
        if not {"spec", "specs"} & document.node.fields.keys():
            message = f"a {document.kind} needs the field spec or specs"
            reader.lacks(document.node, document.known, "spec specs", message)
        return
    if document.spec is not None:
        yield _Spec(reader, document, objects, "").policy(document.spec)
    if document.specs is not None:
        elements = reader.sequence(document.specs, "specs")
        if not elements and document.spec is None:
            reader.fail(document.specs, "specs is empty")
        for index, element in enumerate(elements):
            yield _Spec(reader, document, objects, f"specs[{index}]").policy(element)


class _Spec:
    """Reads one spec."""

    def __init__(self, reader: Reader, document: Document, objects: Objects, part: str) -> None:
        self._reader = reader
        self._document = document
        self._title = document.title
        self._part = part
        self._read_peers = Peers(reader, document.namespace, objects)
        self._kind = SubjectKind.ENDPOINT
        self._log = ""

    def policy(self, node: Node) -> Policy:
        """The spec as a policy."""
        reader, document = self._reader, self._document
        found = reader.mapping(node, "spec", _SPEC)
        subject = self._subject(node, found)
        if "log" in found:
            value = reader.mapping(found["log"], "log", _LOG).get("value")
            self._log = (reader.checked(value, "log.value", _log_value) or "") if value is not None else ""
        if "labels" in found:
            self._check_labels(found["labels"])
        sections = [
            (section, reader.sequence(found[section.name], section.name))
            for section in _SECTIONS
            if section.name in found
        ]
        broken = any(section.name in node.fields and section.name not in found for section in _SECTIONS)
        if not broken and not any(elements for _, elements in sections):
            reader.lacks(
                node,
                _SPEC,
                "ingress ingressDeny egress egressDeny",
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
            name=self._title,
            namespace=document.namespace,
            kind=document.kind,
            subject=subject,
            rules=rules,
            default_deny_egress=deny[Direction.EGRESS],
            default_deny_ingress=deny[Direction.INGRESS],
            part=self._part,
            description=reader.text(found["description"], "description") if "description" in found else "",
            file=node.path,
            subject_kind=self._kind,
            line=(node if self._part else document.node).line,
            column=(node if self._part else document.node).column,
        )

    def _subject(self, node: Node, found: Mapping[str, Node]) -> tuple[Requirement, ...]:
        named = [name for name in ("endpointSelector", "nodeSelector") if name in node.fields]
        if not named:
            hint = "{} selects every endpoint of the namespace" if self._document.namespace else ""
            message = "spec needs the field endpointSelector"
            self._reader.lacks(node, _SPEC, "endpointSelector nodeSelector", message, hint)
        for name in named[1:]:
            self._reader.fail(node.keys[name], f"combining {named[0]} and {name} is not supported", "write two specs")
        if "nodeSelector" in found:
            self._kind = SubjectKind.NODE
            if self._document.kind != CCNP:
                self._reader.fail(node.keys["nodeSelector"], "nodes are in no namespace", f"use {CCNP}")
            return requirements(self._reader, found["nodeSelector"], "nodeSelector", labels.node_key)
        return self._endpoints(found["endpointSelector"]) if "endpointSelector" in found else ()

    def _endpoints(self, node: Node) -> tuple[Requirement, ...]:
        conditions = requirements(self._reader, node, "endpointSelector", labels.selector_key)
        namespace = self._document.namespace
        for condition in conditions:
            if condition.key in _OF_NO_WORKLOAD:
                self._reader.fail(
                    node, f"no workload has the label {condition.key}", "to select nodes use nodeSelector"
                )
            elif (
                namespace
                and is_namespace_key(condition.key)
                and condition != replace(in_namespace(namespace), key=condition.key)
            ):
                self._reader.fail(
                    node,
                    f"the policy is in namespace {namespace} and can select endpoints of that namespace only",
                    f"put the policy into the other namespace, or use {CCNP}",
                )
        if not namespace or any(condition.key == INIT_LABEL for condition in conditions):
            return conditions  # a workload without labels is in no namespace yet
        others = tuple(condition for condition in conditions if not is_namespace_key(condition.key))
        return (*others, in_namespace(namespace))

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
        named = [name for name in node.fields if name in KINDS]
        for name in named[1:]:
            reader.fail(
                node.keys[name],
                f"combining {named[0]} and {name} is not supported",
                "write two elements; either may allow",
            )
        peers: tuple[Peer, ...] | None = None
        for name in named:
            if name in found:
                peers = self._read_peers.read(name, found[name])
        if "icmps" in node.fields and "toPorts" in node.fields:
            reader.fail(node.keys["icmps"], "combining icmps and toPorts is not supported", "write two elements")
        make = partial(Rule, section.direction, peers=peers, action=section.action, log=self._log)
        if "toPorts" in found:
            elements = reader.sequence(found["toPorts"], "toPorts")
            if not elements:
                reader.fail(node.keys["toPorts"], "toPorts is empty", "leave it out for every port")
            for index, element in enumerate(elements):
                ports = ciliumports.read(
                    reader, element, section.direction, self._document.namespace, deny=section.deny
                )
                self._check_host(section, element, ports)
                yield make(
                    self._origin(element, f"{path}.toPorts[{index}]"),
                    ports=ports.ports,
                    http=ports.http,
                    dns=ports.dns,
                    server_names=ports.server_names,
                )
        elif "icmps" in found:
            elements = reader.sequence(found["icmps"], "icmps")
            if not elements:
                reader.fail(node.keys["icmps"], "icmps is empty", "leave it out for every type")
            for index, element in enumerate(elements):
                types = ciliumports.icmps(reader, element)
                yield make(self._origin(element, f"{path}.icmps[{index}]"), ports=types)
        elif peers is not None:
            yield make(self._origin(node, path))
        elif section.deny and not node.fields:
            # An empty element of `ingress` makes the direction default-deny. Here its author means more than that.
            reader.fail(node, f"an empty element of {section.name} denies nothing", "name peers or ports")

    def _check_host(self, section: _Section, node: Node, ports: ciliumports.Ports) -> None:
        if self._kind == SubjectKind.NODE and (ports.http is not None or ports.server_names is not None):
            at = node.keys.get("rules", node.keys.get("serverNames", node))
            self._reader.fail(at, f"the only L7 rules of a policy for nodes are dns, on egress; not on {section.name}")

    def _origin(self, node: Node, path: str) -> Origin:
        rule = f"{self._part}.{path}" if self._part else path
        return Origin(self._title, sys.intern(rule), node.path, node.line, node.column)


def _log_value(text: str) -> str:
    if len(text) > _LONGEST_LOG:
        raise ValueError(f"{len(text)} characters are more than the {_LONGEST_LOG} that a flow's record has room for")
    if not text.isprintable():
        raise ValueError(f"{text[:80]!r} holds characters that cannot be printed")
    return text
