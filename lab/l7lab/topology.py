# SPDX-License-Identifier: Apache-2.0
"""Topology: the addresses, links and routes of a lab. Documentation ranges only, and no way to the real network.

    outside ── ext0 ── node ──┬─ lxc-frontend ── frontend
                              ├─ lxc-batch ───── batch
                              └─ lxc-backend ─── backend

Each workload has a /32 and a /128 address on a routed veth pair, so that all of its traffic, to its neighbours too,
crosses the node's side of the pair. The gateway address sits on that side itself: a node without a default route would
not answer ARP for it by proxy. This module may not start services.
"""

from dataclasses import dataclass, field
from typing import Final

from l7lab.namespace import Namespace

NODE_V4: Final = "192.0.2.1"
NODE_V6: Final = "2001:db8::1"
RESOLVER_V4: Final = "192.0.2.10"
RESOLVER_V6: Final = "2001:db8::10"
GATEWAY_V4: Final = "203.0.113.1"
GATEWAY_V6: Final = "fe80::1"
UPLINK: Final = "ext0"

IN_CIDR: Final = "198.51.100.70"
"""In 198.51.100.64/26, for rules by CIDR."""
DENIED_IN_CIDR: Final = "198.51.100.127"
"""In 198.51.100.64/26 too, for a deny within what a rule allows."""
UNNAMED: Final = "198.51.100.200"
"""No DNS name leads here."""

SERVICES_V4: Final = (*(f"198.51.100.{host}" for host in (1, 2, 3, 4)), IN_CIDR, DENIED_IN_CIDR, UNNAMED)
SERVICES_V6: Final = tuple(f"2001:db8:100::{host}" for host in (1, 2, 3, 4))


@dataclass(frozen=True, slots=True)
class Host:
    """What all machines of the lab have."""

    namespace: Namespace


@dataclass(frozen=True, slots=True)
class Workload(Host):
    """One endpoint-to-be: its own namespace, two addresses, and the labels it gets."""

    name: str
    v4: str
    v6: str
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def interface(self) -> str:
        """Its veth's end on the node."""
        return f"lxc-{self.name}"


@dataclass(frozen=True, slots=True)
class Topology:
    """All namespaces of one lab."""

    node: Host
    outside: Host
    frontend: Workload
    batch: Workload
    backend: Workload

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """In the order in which they are built."""
        return (self.frontend, self.batch, self.backend)

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """Everything that has to go when the lab goes."""
        return tuple(host.namespace for host in (self.node, self.outside, *self.workloads))


def plan(prefix: str) -> Topology:
    """The lab's machines, named but not built. `prefix` makes the names unique."""

    def workload(name: str, host: int) -> Workload:
        labels = {"app": name, "io.kubernetes.pod.namespace": "shop"}
        return Workload(Namespace(prefix + name), name, f"203.0.113.{host}", f"2001:db8:244::{host}", labels)

    return Topology(
        node=Host(Namespace(prefix + "node")),
        outside=Host(Namespace(prefix + "outside")),
        frontend=workload("frontend", 11),
        batch=workload("batch", 12),
        backend=workload("backend", 21),
    )


def build(topology: Topology) -> None:
    """Make namespaces, links and routes. If it raises, the caller removes what there is."""
    for namespace in topology.namespaces:
        namespace.create()
        namespace.sysctl({"net.ipv6.conf.all.accept_dad": 0, "net.ipv6.conf.default.accept_dad": 0})
    # No reverse-path filter on the node: what stops a forged source must be what the lab is there to prove.
    topology.node.namespace.sysctl(
        {
            "net.ipv4.ip_forward": 1,
            "net.ipv6.conf.all.forwarding": 1,
            "net.ipv4.conf.all.rp_filter": 0,
            "net.ipv4.conf.default.rp_filter": 0,
        }
    )
    _connect_outside(topology.node.namespace, topology.outside.namespace)
    for workload in topology.workloads:
        _connect_workload(topology.node.namespace, workload)


def _connect_outside(node: Namespace, outside: Namespace) -> None:
    # Indices that differ: the kernel takes a pair with equal ones for a slow physical link, and tells IPv6 of its
    # carrier up to a second late.
    node.ip(
        [
            f"link add {UPLINK} index 100 type veth peer name {UPLINK} netns {outside.name}",
            f"addr add {NODE_V4}/24 dev {UPLINK}",
            f"addr add {NODE_V6}/64 dev {UPLINK} nodad",
            f"link set {UPLINK} up",
        ]
    )
    outside.ip(
        [
            f"addr add {RESOLVER_V4}/24 dev {UPLINK}",
            f"addr add {RESOLVER_V6}/64 dev {UPLINK} nodad",
            *(f"addr add {address}/32 dev {UPLINK}" for address in SERVICES_V4),
            *(f"addr add {address}/128 dev {UPLINK} nodad" for address in SERVICES_V6),
            f"link set {UPLINK} up",
            f"route add 203.0.113.0/24 via {NODE_V4}",
            f"route add 2001:db8:244::/64 via {NODE_V6}",
        ]
    )
    node.ip(
        [
            f"route add 198.51.100.0/24 via {RESOLVER_V4}",
            f"route add 2001:db8:100::/64 via {RESOLVER_V6}",
        ]
    )


def _connect_workload(node: Namespace, workload: Workload) -> None:
    host_side = workload.interface
    node.ip(
        [
            f"link add {host_side} type veth peer name eth0 netns {workload.namespace.name}",
            f"link set {host_side} addrgenmode none",
            f"addr add {GATEWAY_V4}/32 dev {host_side} scope link",
            f"addr add {GATEWAY_V6}/64 dev {host_side} nodad",
            f"link set {host_side} up",
            f"route add {workload.v4}/32 dev {host_side}",
            f"route add {workload.v6}/128 dev {host_side}",
        ]
    )
    workload.namespace.ip(
        [
            f"addr add {workload.v4}/32 dev eth0",
            f"addr add {workload.v6}/128 dev eth0 nodad",
            "link set eth0 up",
            f"route add {GATEWAY_V4} dev eth0 scope link",
            f"route add default via {GATEWAY_V4}",
            f"route add ::/0 via {GATEWAY_V6} dev eth0",
        ]
    )
