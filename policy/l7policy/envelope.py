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
_CILIUM: Final = fields("apiVersion kind metadata spec specs status", required="metadata")
_FIELDS: Final = {
    CNP: _CILIUM,
    CCNP: _CILIUM,
    NETWORK_POLICY: fields("apiVersion kind metadata spec status", required="metadata spec"),
    LIST: fields("apiVersion kind metadata items", required="items"),
}
_METADATA: Final = fields("name namespace labels annotations", required="name")
_WRITTEN_BY_THE_SERVER: Final = frozenset(
    {
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    }
)
"""What ``kubectl get -o yaml`` adds to metadata. It means nothing for enforcement and may be empty."""


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
    found = reader.mapping(_without(node, {"metadata", "status"}), f"a {kind}", _optional(kind))
    if kind == LIST:
        for item in reader.sequence(found["items"], "items") if "items" in found else ():
            yield from documents(reader, item, in_list=True)
        return
    if "metadata" not in node.fields:
        reader.fail(node, f"a {kind} needs the field metadata")
        return
    name, namespace = _metadata(reader, node.fields["metadata"], kind)
    yield Document(node, kind, name, namespace, found.get("spec"), found.get("specs"))
