# SPDX-License-Identifier: Apache-2.0
"""Python twins of the structs for the node's own processes in bpf/programs/maps.h. As `l7bpf.layouts`, of which it is a
part: pure bytes, and what does not fit raises `struct.error`.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from l7bpf.flows import LIFETIME_OTHERS_NS, LIFETIME_TCP_NS, TCP, silent_ns

HOST_SIDE_DENIED: Final = 1


@dataclass(frozen=True, slots=True)
class CgroupEndpoint:
    """struct cgroup_endpoint."""

    cgroup_id: int
    endpoint_id: int
    level: int
    """Depth below the root of the hierarchy."""
    LAYOUT: ClassVar = struct.Struct("=QII")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.cgroup_id, self.endpoint_id, self.level)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class HostSide:
    """struct host_side."""

    revision: int = 0
    endpoint_id: int = 0
    """0: the end is no process of an endpoint."""
    flags: int = 0
    """HOST_SIDE_DENIED"""
    LAYOUT: ClassVar = struct.Struct("=IHH")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.revision, self.endpoint_id, self.flags)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class HostFlow:
    """struct host_flow."""

    last_seen_ns: int
    """CLOCK_MONOTONIC_COARSE"""
    packets: int
    octets: int
    began: HostSide
    other: HostSide
    proxy: int
    pending: int
    inner: int
    LAYOUT: ClassVar = struct.Struct("=QQQ8s8sBBB5x")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.last_seen_ns,
            self.packets,
            self.octets,
            self.began.pack(),
            self.other.pack(),
            self.proxy,
            self.pending,
            self.inner,
        )

    def alive(self, protocol: int, now_ns: int) -> bool:
        """Whether the programs still go by it (`host_flow_alive` in hostflow.h)."""
        lifetime = LIFETIME_TCP_NS if protocol == TCP else LIFETIME_OTHERS_NS
        return silent_ns(self.last_seen_ns, now_ns) <= lifetime

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        seen, packets, size, began, other, proxy, pending, inner = cls.LAYOUT.unpack(data)
        return cls(seen, packets, size, HostSide.unpack(began), HostSide.unpack(other), proxy, pending, inner)
