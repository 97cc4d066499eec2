# SPDX-License-Identifier: Apache-2.0
"""Party: one end of a flow, as people would describe it."""

from dataclasses import dataclass, field

NAMESPACE = "io.kubernetes.pod.namespace"
TEAM_PREFIX = "io.cilium.k8s.namespace.labels."


@dataclass(frozen=True)
class Party:
    """A pod, this node (``host``), another node (``remote-node``), an address ``outside``, a workload without labels
    (``init``), or something else that is known by a reserved label alone (``unmanaged``)."""

    kind: str
    labels: dict[str, str] = field(default_factory=dict)
    """A pod's or a node's own, without source."""
    namespace: str = ""
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str = ""
    names: tuple[str, ...] = ()
    """DNS names that the address was learnt for."""
    ports: tuple[tuple[str, str, int], ...] = ()
    """Names that a pod gives its ports: name, protocol, number."""
    audit: bool = False
    apiserver: bool = False
    """Whether Kubernetes' API server is there."""

    @property
    def node(self) -> bool:
        return self.kind in ("host", "remote-node")

    def key(self, key: str) -> str | None:
        """The value of a label by the key in a Cilium selector of endpoints."""
        source, colon, rest = key.partition(":")
        if not colon:
            source, rest = "any", key
        if source == "reserved":
            kind = "world" if self.kind == "outside" else self.kind
            return "" if rest == kind or (rest == "kube-apiserver" and self.apiserver) else None
        if self.kind != "pod" or source not in ("any", "k8s"):
            return None
        if rest == NAMESPACE:
            return self.namespace
        if rest.startswith(TEAM_PREFIX):
            return self.namespace_labels.get(rest.removeprefix(TEAM_PREFIX))
        return self.labels.get(rest)

    def node_key(self, key: str) -> str | None:
        """The value of a node's label by the key in a selector of nodes."""
        source, colon, rest = key.partition(":")
        return self.labels.get(rest if colon else key) if not colon or source in ("any", "k8s") else None
