# SPDX-License-Identifier: Apache-2.0
"""Looks into a network namespace: which addresses the workload has, and which interface of the node leads to it."""

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

NETNS_FOLDER: Final = Path("/run/netns")
LINK_LOCAL: Final = 253
GLOBAL: Final = 0


class WorkloadError(Exception):
    """The namespace cannot be an endpoint, and why."""

    def __init__(self, message: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing
        """The namespace or its interface does not exist (yet)."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """Where a workload meets the node."""

    interface: str
    """Name of the node's side of the pair."""
    ifindex: int
    """Index of it, in the node's namespace."""
    addresses: tuple[str, ...]
    """The workload's addresses, without prefix length; no link-local ones."""


def netns_path(netns: str) -> Path:
    """The file behind a namespace's name, as `ip netns` has it."""
    return Path(netns) if netns.startswith("/") else NETNS_FOLDER / netns


def inspect(netns: str, interface: str = "") -> Attachment:
    """Finds the veth pair between this namespace and `netns`. Blocking. Raises WorkloadError."""
    path = netns_path(netns)
    if not path.exists():
        raise WorkloadError(f"no network namespace {netns!r} ({path} does not exist)", missing=True)
    try:
        with contextlib.closing(IPRoute(netns=str(path))) as inside, contextlib.closing(IPRoute()) as node:
            return _inspect(inside, node, netns, interface)
    except NetlinkError as error:
        raise WorkloadError(f"network namespace {netns!r}: {error}", missing=True) from error
    except OSError as error:
        raise WorkloadError(f"network namespace {netns!r}: {error.strerror or error}") from error


def _inspect(inside: Any, node: Any, netns: str, interface: str) -> Attachment:
    links = [
        link
        for link in inside.get_links()
        if _kind(link) == "veth" and (not interface or link.get_attr("IFLA_IFNAME") == interface)
    ]
    if not links:
        wanted = f"interface {interface!r}" if interface else "veth interface"
        raise WorkloadError(f"network namespace {netns!r} has no {wanted}", missing=True)
    # A link's index of its peer means something only here if the peer really is here and points back.
    outside = {link["index"]: link for link in node.get_links()}
    pairs = [
        (link, peer)
        for link in links
        if (peer := outside.get(link.get_attr("IFLA_LINK"))) is not None
        and _kind(peer) == "veth"
        and peer.get_attr("IFLA_LINK") == link["index"]
    ]
    if not pairs:
        raise WorkloadError(f"network namespace {netns!r} has no veth pair that ends in this namespace")
    if len(pairs) > 1:
        names = ", ".join(sorted(link.get_attr("IFLA_IFNAME") for link, _ in pairs))
        raise WorkloadError(f"network namespace {netns!r} has several veth pairs; choose one of {names} as interface")
    link, peer = pairs[0]
    addresses = tuple(
        sorted(
            address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS")
            for address in inside.get_addr(index=link["index"])
            if address["scope"] == GLOBAL and address["family"] in (socket.AF_INET, socket.AF_INET6)
        )
    )
    if not addresses:
        raise WorkloadError(
            f"network namespace {netns!r} has no address on {link.get_attr('IFLA_IFNAME')}", missing=True
        )
    return Attachment(peer.get_attr("IFLA_IFNAME"), peer["index"], addresses)


def _kind(link: Any) -> str:
    info = link.get_attr("IFLA_LINKINFO")
    return str(info.get_attr("IFLA_INFO_KIND")) if info else ""


def node_addresses() -> dict[str, str]:
    """Every address of this namespace and its interface. Blocking."""
    with contextlib.closing(IPRoute()) as node:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in node.get_links()}
        return {
            address.get_attr("IFA_LOCAL") or address.get_attr("IFA_ADDRESS"): names[address["index"]]
            for address in node.get_addr()
            if address["family"] in (socket.AF_INET, socket.AF_INET6)
        }


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
