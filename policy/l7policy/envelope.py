# SPDX-License-Identifier: Apache-2.0
"""The outside of a policy document: which kind it is, what it is called, and in which namespace.

Unpacks ``kind: List``. What is inside ``spec`` belongs to `l7policy.cilium` and `l7policy.kubernetes`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from l7policy import labels
from l7policy.errors import did_you_mean
from l7policy.reader import Reader, fields
from l7policy.yamltree import Kind, Node

CNP: Final = "CiliumNetworkPolicy"
CCNP: Final = "CiliumClusterwideNetworkPolicy"
NETWORK_POLICY: Final = "NetworkPolicy"
LIST: Final = "List"

API_VERSIONS: Final = {CNP: "cilium.io/v2", CCNP: "cilium.io/v2", NETWORK_POLICY: "networking.k8s.io/v1", LIST: "v1"}
_CILIUM: Final = fields("apiVersion kind metadata spec specs", required="metadata", ignored="status")
_FIELDS: Final = {
    CNP: _CILIUM,
    CCNP: _CILIUM,
    NETWORK_POLICY: fields("apiVersion kind metadata spec", required="metadata spec", ignored="status"),
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
    name: str
    namespace: str
    """Empty for a clusterwide policy."""
    spec: Node | None
    specs: Node | None

    @property
    def title(self) -> str:
        """See `policydoc.Policy.name`."""
        if self.kind == CCNP:
            return self.name
        return f"{'networkpolicy:' if self.kind == NETWORK_POLICY else ''}{self.namespace}/{self.name}"


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
        yield Document(node, kind, name, namespace, found.get("spec"), found.get("specs"))


def _kind(reader: Reader, node: Node) -> str | None:
    if node.kind is not Kind.MAPPING:
        reader.fail(node, f"a policy must be a mapping, not {node.kind}")
        return None
    missing = {"apiVersion", "kind"} - node.fields.keys()
    if missing:
        reader.fail(node, f"no field {' and no field '.join(sorted(missing))}: this is not a policy")
        return None
    kind = reader.text(node.fields["kind"], "kind")
    version = reader.text(node.fields["apiVersion"], "apiVersion")
    if not kind or not version:
        return None
    if kind not in API_VERSIONS:
        reader.fail(node.fields["kind"], f"kind {kind[:80]} is not supported", did_you_mean(kind, API_VERSIONS))
        return None
    if version != API_VERSIONS[kind]:
        reader.fail(node.fields["apiVersion"], f"a {kind} has apiVersion {API_VERSIONS[kind]}, not {version[:80]}")
        return None
    return kind


def _metadata(reader: Reader, node: Node, kind: str) -> tuple[str, str]:
    found = reader.mapping(node, "metadata", _METADATA)
    name = reader.checked(found["name"], "name", _name) if "name" in found else None
    namespace: str | None = "" if kind == CCNP else labels.DEFAULT_NAMESPACE
    if "namespace" in found:
        if kind == CCNP:
            reader.fail(
                node.keys["namespace"], "a clusterwide policy is in no namespace", f"leave it out, or use {CNP}"
            )
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
