# SPDX-License-Identifier: Apache-2.0
"""Where a workload is: which interface of the node leads to its network namespace and which addresses it has, or which
cgroup its processes live in."""

import contextlib
import errno
import os
import socket
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netns import setns

from l7bpf import cgroups
from l7bpf.cgroups import Cgroup
from l7bpf.errors import DatapathError

NETNS_FOLDER: Final = Path("/run/netns")
GLOBAL: Final = 0
_TABLE_LOCAL: Final = 255
_DELIVERED: Final = frozenset({2, 3, 4})
"""Kinds of route that end at this node: local, broadcast, anycast."""
_ETHERNET: Final = 1
_ONE_BY_ONE: Final = 16
"""So many links are asked for singly."""
FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class WorkloadError(Exception):
    """The namespace cannot be an endpoint, and why."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
        """The namespace or its interface does not exist (yet)."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where a workload meets the node: behind an interface, or in a cgroup of the node itself."""

    interface: str = ""
    """Name of the node's side of the pair; empty for a cgroup."""
    ifindex: int = 0
    """Index of it, in the node's namespace; 0 for a cgroup."""
    addresses: tuple[str, ...] = ()
    """The workload's addresses, without prefix length; no link-local ones. A cgroup's processes have the node's."""
    namespace: int = 0
    """Inode of the namespace: a name can come back with another one behind it."""
    cgroup: Cgroup | None = None

    def stands(self, netns: str, cgroup: str) -> bool:
        """Whether all of it is still the same: a system call or two instead of a look inside."""
        try:
            if self.cgroup is not None:
                return cgroups.find(cgroup) == self.cgroup
            return (
                socket.if_indextoname(self.ifindex) == self.interface
                and netns_path(netns).stat().st_ino == self.namespace
            )
        except OSError:
            return False


def netns_path(netns: str) -> Path:
    """The file behind a namespace's name, as `ip netns` has it."""
    return Path(netns) if netns.startswith("/") else NETNS_FOLDER / netns


def inspect_cgroup(path: str) -> Attachment:
    """Finds a cgroup of the unified hierarchy. Blocking. Raises WorkloadError."""
    try:
        found = cgroups.find(path)
        own = cgroups.root() / cgroups.of_process("self").lstrip("/")
    except FileNotFoundError as error:
        raise WorkloadError(f"no cgroup {path!r} ({error.filename} does not exist)", missing=True) from error
    except OSError as error:
        raise WorkloadError(f"cgroup {path!r}: {error.strerror}") from error
    except DatapathError as error:
        raise WorkloadError(f"cgroup {path!r}: {error}") from error
    if own.is_relative_to(found.folder):
        raise WorkloadError(
            f"l7d itself runs in cgroup {path!r}: its proxies must not be subject to a workload's policy"
        )
    return Attachment(cgroup=found)


def inspect(netns: str, interface: str = "") -> Attachment:
    """Finds the veth pair between this namespace and `netns`. Blocking. Raises WorkloadError."""
    path = netns_path(netns)
    try:
        if not path.exists():
            raise WorkloadError(f"no network namespace {netns!r} ({path} does not exist)", missing=True)
        if path.samefile("/proc/self/ns/net"):
            raise WorkloadError(f"{netns!r} is the node's own network namespace, not a workload's")
        namespace = path.stat().st_ino
        links, addresses = _inside(path)
        with contextlib.closing(IPRoute()) as node:
            outside = _links(node, {link.get_attr("IFLA_LINK") for link in links if _kind(link) == "veth"})
            outside |= _links(node, {peer.get_attr("IFLA_MASTER") for peer in outside.values()})
            number = _number_of(node, path)
            routed = {address: _way_to(node, address) for address in _own(addresses)}
    except NetlinkError as error:
        raise WorkloadError(f"network namespace {netns!r}: {error}", missing=True) from error
    except OSError as error:
        raise WorkloadError(f"network namespace {netns!r}: {error.strerror or error}") from error
    links = [link for link in links if _kind(link) == "veth" and interface in ("", link.get_attr("IFLA_IFNAME"))]
    if not links:
        wanted = f"interface {interface!r}" if interface else "veth interface"
        raise WorkloadError(f"network namespace {netns!r} has no {wanted}", missing=True)
    # An index means nothing without the namespace that it counts in: a pair that ends elsewhere has one, too.
    pairs = [
        (link, peer)
        for link in links
        if (peer := outside.get(link.get_attr("IFLA_LINK"))) is not None
        and _kind(peer) == "veth"
        and (peer.get_attr("IFLA_LINK"), peer.get_attr("IFLA_LINK_NETNSID")) == (link["index"], number)
    ]
    if not pairs:
        raise WorkloadError(f"network namespace {netns!r} has no veth pair that ends in this namespace")
    if len(pairs) > 1:
        names = ", ".join(sorted(link.get_attr("IFLA_IFNAME") for link, _ in pairs))
        raise WorkloadError(f"network namespace {netns!r} has several veth pairs; choose one of {names} as interface")
    link, peer = pairs[0]
    name = link.get_attr("IFLA_IFNAME")
    own = [address for address, index in _own(addresses).items() if index == link["index"]]
    if not own:
        raise WorkloadError(f"network namespace {netns!r} has no address on {name}", missing=True)
    outer = peer.get_attr("IFLA_IFNAME")
    if (master := outside.get(peer.get_attr("IFLA_MASTER"))) is not None:
        # Neighbours on a bridge reach each other by what they claim in ARP, and the uplink without the node's routes,
        # on which the way to the proxies depends.
        raise WorkloadError(
            f"{outer} is a port of {master.get_attr('IFLA_IFNAME')}, where frames go around the proxies; route to the "
            f"workload instead: ip link set {outer} nomaster; ip route add {min(own)} dev {outer}"
        )
    # Only the node's routes say whose an address is: inside its namespace a workload may call itself what it likes.
    theirs = tuple(sorted(address for address in own if routed[address] == peer["index"]))
    if not theirs:
        raise WorkloadError(
            f"this node does not route {', '.join(sorted(own))} to {outer}; try: ip route add {min(own)} dev {outer}",
            missing=True,
        )
    return Attachment(outer, peer["index"], theirs, namespace)


def _links(node: Any, indexes: set[int | None]) -> dict[int, Any]:
    """Those of the node's links. One by one, for a node has a link for each workload; all at once for one that claims
    many."""
    wanted = {index for index in indexes if index}
    if len(wanted) > _ONE_BY_ONE:
        return {link["index"]: link for link in node.get_links() if link["index"] in wanted}
    found: dict[int, Any] = {}
    for index in wanted:
        try:
            found |= {link["index"]: link for link in node.get_links(index)}
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
    return found


def _own(addresses: list[Any]) -> dict[str, int]:
    """The global addresses among netlink's, and the index of each one's link."""
    return {
        address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"): address["index"]
        for address in addresses
        if address["scope"] == GLOBAL and address["family"] in FAMILIES
    }


def _number_of(node: Any, path: Path) -> int:
    """What this namespace calls the other one, which it does once a link leads there; a large number otherwise."""
    namespace = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return int(node.get_netnsid(fd=namespace)["nsid"])
    finally:
        os.close(namespace)


def _way_to(node: Any, address: str) -> int | None:
    """The interface this node would send a packet for the address to."""
    try:
        route = next(iter(node.route("get", dst=address)), None)
    except NetlinkError:
        return None
    return None if route is None else route.get_attr("RTA_OIF")


def _inside(path: Path) -> tuple[list[Any], list[Any]]:
    """Links and addresses of another namespace. Raises OSError, NetlinkError.

    A thread can change its namespace, and this one ends with it. pyroute2's own way is a forked child, which shares the
    signal pipe of this process's event loop: the SIGTERM that ends the child would end the agent.
    """
    found: list[tuple[list[Any], list[Any]]] = []
    failed: list[Exception] = []

    def look() -> None:
        try:
            namespace = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                setns(namespace)
            finally:
                os.close(namespace)
            with contextlib.closing(IPRoute()) as netlink:
                found.append((list(netlink.get_links()), list(netlink.get_addr())))
        except (OSError, NetlinkError) as error:
            failed.append(error)

    looker = threading.Thread(target=look, name="look-into-namespace")
    looker.start()
    looker.join()
    if failed:
        raise failed[0]
    return found[0]


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""


def ethernet(interfaces: Iterable[str]) -> set[int]:
    """Indexes of those interfaces whose frames begin with addresses like Ethernet's. Blocking."""
    with contextlib.closing(IPRoute()) as node:
        names = {link.get_attr("IFLA_IFNAME"): link for link in node.get_links()}
        return {names[name]["index"] for name in interfaces if name in names and names[name]["ifi_type"] == _ETHERNET}


def node_addresses() -> dict[str, str]:
    """Every address of this namespace and its interface, and every prefix that the kernel delivers here. Blocking.

    The latter are broadcast and anycast addresses, all of 127.0.0.0/8, and what an operator routed to ``local``: a
    packet to one of them reaches sockets of the node, though no interface has it as its address.
    """
    with contextlib.closing(IPRoute()) as node:
        names = dict(socket.if_nameindex())  # pyroute2 takes milliseconds to read a link
        delivered = {
            f"{route.get_attr('RTA_DST')}/{route['dst_len']}": names.get(route.get_attr("RTA_OIF"), "")
            for family in FAMILIES
            for route in node.get_routes(family=family, table=_TABLE_LOCAL)
            if route["type"] in _DELIVERED and route.get_attr("RTA_DST") and route["dst_len"]
        }
        addresses = {
            address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"): names.get(address["index"], "")
            for address in node.get_addr()
            if address["family"] in FAMILIES
        }
    whole = {f"{address}/{128 if ':' in address else 32}" for address in addresses}
    return addresses | {prefix: name for prefix, name in delivered.items() if prefix not in whole}


def uplinks(except_ifindexes: set[int]) -> list[str]:
    """Interfaces through which this node reaches others: those with a default route or a subnet. Blocking."""
    with contextlib.closing(IPRoute()) as node:
        found: set[int] = set()
        for route in node.get_routes(table=254):
            device = route.get_attr("RTA_OIF")
            host_route = route["dst_len"] == (32 if route["family"] == socket.AF_INET else 128)
            if device and not host_route and not (route.get_attr("RTA_DST") or "").startswith("fe80:"):
                found.add(device)
        return sorted(
            link.get_attr("IFLA_IFNAME")
            for link in node.get_links()
            if link["index"] in found and link["index"] not in except_ifindexes and link.get_attr("IFLA_IFNAME") != "lo"
        )
