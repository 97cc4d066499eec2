# SPDX-License-Identifier: Apache-2.0
"""The outside of a document: which kind it is, what it is called, and in which namespace.

Unpacks ``kind: List``. What is inside belongs to `l7policy.cilium`, `l7policy.kubernetes`, `l7policy.adminpolicy` and,
for what policies only refer to, `l7policy.objects`.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from l7policy import labels
from l7policy.errors import did_you_mean, nearest
from l7policy.reader import Fields, Reader, fields
from l7policy.yamltree import Kind, Node

CNP: Final = "CiliumNetworkPolicy"
CCNP: Final = "CiliumClusterwideNetworkPolicy"
NETWORK_POLICY: Final = "NetworkPolicy"
ADMIN_POLICY: Final = "AdminNetworkPolicy"
BASELINE_POLICY: Final = "BaselineAdminNetworkPolicy"
CLUSTER_POLICY: Final = "ClusterNetworkPolicy"
CIDR_GROUP: Final = "CiliumCIDRGroup"
SERVICE: Final = "Service"
ENDPOINT_SLICE: Final = "EndpointSlice"
LIST: Final = "List"

API_VERSIONS: Final = {
    CNP: ("cilium.io/v2",),
    CCNP: ("cilium.io/v2",),
    NETWORK_POLICY: ("networking.k8s.io/v1",),
    ADMIN_POLICY: ("policy.networking.k8s.io/v1alpha1",),
    BASELINE_POLICY: ("policy.networking.k8s.io/v1alpha1",),
    CLUSTER_POLICY: ("policy.networking.k8s.io/v1alpha2",),
    CIDR_GROUP: ("cilium.io/v2", "cilium.io/v2alpha1"),
    SERVICE: ("v1",),
    ENDPOINT_SLICE: ("discovery.k8s.io/v1",),
    LIST: ("v1",),
}
OBJECTS: Final = frozenset({CIDR_GROUP, SERVICE, ENDPOINT_SLICE})
"""What policies refer to and is none itself."""
_CLUSTERWIDE: Final = frozenset({CCNP, ADMIN_POLICY, BASELINE_POLICY, CLUSTER_POLICY, CIDR_GROUP})
_PREFIXES: Final = {
    NETWORK_POLICY: "networkpolicy:",
    ADMIN_POLICY: "adminnetworkpolicy:",
    BASELINE_POLICY: "baselineadminnetworkpolicy:",
    CLUSTER_POLICY: "clusternetworkpolicy:",
}
_CILIUM: Final = fields("apiVersion kind metadata spec specs", required="metadata", ignored="status")
_FIELDS: Final = {
    CNP: _CILIUM,
    CCNP: _CILIUM,
    **dict.fromkeys(
        (NETWORK_POLICY, ADMIN_POLICY, BASELINE_POLICY, CLUSTER_POLICY, CIDR_GROUP),
        fields("apiVersion kind metadata spec", required="metadata spec", ignored="status"),
    ),
    # Not ours to check: of these two only what a policy refers to is read.
    SERVICE: fields("apiVersion kind metadata spec", required="metadata", ignored="status"),
    ENDPOINT_SLICE: fields("apiVersion kind metadata", required="metadata", ignored="addressType endpoints ports"),
    LIST: fields("apiVersion kind items", required="items", ignored="metadata"),
}
# What `kubectl get -o yaml` adds to metadata may be there, and may be empty.
_METADATA: Final = fields(
    "name namespace",
    required="name",
    ignored="annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName"
    " generation labels managedFields ownerReferences resourceVersion selfLink uid",
)


@dataclass(frozen=True, slots=True)
class Document:
    """One policy document, its inside still unread."""

    node: Node
    kind: str
    """One of `API_VERSIONS`."""
    name: str
    namespace: str
    """Empty for a clusterwide policy."""
    spec: Node | None
    specs: Node | None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the document itself, which selectors of CIDR groups and services go by."""

    @property
    def known(self) -> Fields:
        """The fields that it may have."""
        return _FIELDS[self.kind]

    @property
    def title(self) -> str:
        """See `policydoc.Policy.name`."""
        return f"{_PREFIXES.get(self.kind, '')}{self.namespace}{'/' if self.namespace else ''}{self.name}"


def documents(reader: Reader, node: Node, *, in_list: bool = False) -> Iterator[Document]:
    """The policy documents in one YAML document: one, or those of a list."""
    kind = _kind(reader, node)
    if kind is None:
        return
    if kind == LIST and in_list:
        reader.fail(node, "a List inside of a List")
        return
    found = reader.mapping(node, f"a {kind}", _FIELDS[kind])
    if kind == LIST:
        for item in reader.sequence(found["items"], "items") if "items" in found else ():
            yield from documents(reader, item, in_list=True)
    elif "metadata" in found:
        name, namespace = _metadata(reader, found["metadata"], kind)
        yield Document(node, kind, name, namespace, found.get("spec"), found.get("specs"), _labels(found["metadata"]))


def objects(reader: Reader, node: Node) -> Iterator[Document]:
    """What policies may refer to, in a YAML document that may just as well hold anything else of a cluster."""
    kind = node.fields["kind"].text if "kind" in node.fields else ""
    if kind == LIST and "items" in node.fields:
        for item in node.fields["items"].items:
            yield from objects(reader, item)
    elif kind in OBJECTS:
        yield from documents(reader, node)


def _labels(node: Node) -> dict[str, str]:
    if "labels" not in node.fields:
        return {}
    return {key: value.text for key, value in node.fields["labels"].fields.items() if value.kind is Kind.TEXT}


def _kind(reader: Reader, node: Node) -> str | None:
    if node.kind is not Kind.MAPPING:
        reader.fail(node, f"a policy must be a mapping, not {node.kind}")
        return None
    missing = {"apiVersion", "kind"} - node.fields.keys()
    if missing:
        near = [name for name in node.fields.keys() - {"apiVersion", "kind"} if nearest(name, missing)]
        hint = f"{near[0]}: did you mean {nearest(near[0], missing)}?" if near else ""
        reader.fail(node, f"no field {' and no field '.join(sorted(missing))}: this is not a policy", hint)
        return None
    kind = reader.text(node.fields["kind"], "kind")
    version = reader.text(node.fields["apiVersion"], "apiVersion")
    if not kind or not version:
        return None
    if kind not in API_VERSIONS:
        reader.fail(node.fields["kind"], f"kind {kind[:80]} is not supported", did_you_mean(kind, API_VERSIONS))
        return None
    if version not in API_VERSIONS[kind]:
        known = " or ".join(API_VERSIONS[kind])
        reader.fail(node.fields["apiVersion"], f"a {kind} has apiVersion {known}, not {version[:80]}")
        return None
    return sys.intern(kind)


def _metadata(reader: Reader, node: Node, kind: str) -> tuple[str, str]:
    found = reader.mapping(node, "metadata", _METADATA)
    name = reader.checked(found["name"], "name", _name) if "name" in found else None
    namespace: str | None = "" if kind in _CLUSTERWIDE else labels.DEFAULT_NAMESPACE
    if "namespace" in found:
        if kind in _CLUSTERWIDE:
            what = "a clusterwide policy" if kind == CCNP else kind
            hint = f"leave it out, or use {CNP}" if kind == CCNP else "leave it out"
            reader.fail(node.keys["namespace"], f"{what} is in no namespace", hint)
        else:
            namespace = reader.checked(found["namespace"], "namespace", _namespace)
    return name or "", namespace or ""


def _name(text: str) -> str:
    if not labels.is_subdomain(text):
        raise ValueError(f"{text[:80]!r} cannot name a policy: lower-case letters, digits, '-' and '.', at most 253")
    return text


def _namespace(text: str) -> str:
    if not labels.is_namespace(text):
        raise ValueError(f"{text[:80]!r} cannot name a namespace: lower-case letters, digits and '-', at most 63")
    return text
