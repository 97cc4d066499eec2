# SPDX-License-Identifier: Apache-2.0
"""Flows and fragments as the kernel remembers them, and for how long: twins of structs in bpf/programs/maps.h.

Pure bytes, like `l7bpf.layouts`, and held equal to C by the same test.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from l7bpf.layouts import PORT, pack_address, unpack_address

CONNTRACK_LOCAL: Final = 1
CONNTRACK_FROM_NODE: Final = 2
CONNTRACK_DENIED: Final = 4
CONNTRACK_GUESSED: Final = 8

CONNTRACK_ANSWERED: Final = 1
CONNTRACK_FIN: Final = 2
CONNTRACK_FINS: Final = CONNTRACK_FIN | 4
CONNTRACK_RESET: Final = 8

SECOND_NS: Final = 10**9
LIFETIME_TCP_NS: Final = 8000 * SECOND_NS
LIFETIME_BEGUN_NS: Final = 60 * SECOND_NS
LIFETIME_CLOSING_NS: Final = 10 * SECOND_NS
LIFETIME_OTHERS_NS: Final = 60 * SECOND_NS
LIFETIME_FRAGMENTS_NS: Final = 30 * SECOND_NS

TCP: Final = 6


def silent_ns(last_seen_ns: int, now_ns: int) -> int:
    """How long a flow has been silent; signed, as in C: another processor's clock may be a tick ahead."""
    return (now_ns - last_seen_ns + 2**63) % 2**64 - 2**63


@dataclass(frozen=True, slots=True)
class ConntrackKey:
    """struct conntrack_key: the tuple of the side that began. Of ICMP echo the source port is the id."""

    source: str
    destination: str
    source_port: int
    destination_port: int
    protocol: int
    LAYOUT: ClassVar = struct.Struct("=16s16s2s2sBB2x")

    def pack(self) -> bytes:
        family, source = pack_address(self.source)
        _, destination = pack_address(self.destination)
        return self.LAYOUT.pack(
            source, destination, PORT.pack(self.source_port), PORT.pack(self.destination_port), self.protocol, family
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        source, destination, source_port, destination_port, protocol, family = cls.LAYOUT.unpack(data)
        return cls(
            unpack_address(family, source),
            unpack_address(family, destination),
            PORT.unpack(source_port)[0],
            PORT.unpack(destination_port)[0],
            protocol,
        )


@dataclass(frozen=True, slots=True)
class ConntrackEntry:
    """struct conntrack_entry."""

    last_seen_ns: int
    """CLOCK_MONOTONIC_COARSE"""
    packets: int
    octets: int
    revision: int
    proxy: int
    upstream: int
    flags: int
    """CONNTRACK_LOCAL | CONNTRACK_FROM_NODE | CONNTRACK_DENIED | CONNTRACK_GUESSED"""
    state: int = 0
    """Of TCP: CONNTRACK_ANSWERED | CONNTRACK_FINS | CONNTRACK_RESET"""
    LAYOUT: ClassVar = struct.Struct("=QQQIBBBB")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
            self.last_seen_ns,
            self.packets,
            self.octets,
            self.revision,
            self.proxy,
            self.upstream,
            self.flags,
            self.state,
        )

    def alive(self, protocol: int, now_ns: int) -> bool:
        """Whether the programs still go by it (`conntrack_alive` in conntrack.h)."""
        return silent_ns(self.last_seen_ns, now_ns) <= self.lifetime_ns(protocol)

    def lifetime_ns(self, protocol: int) -> int:
        """How long it may be silent."""
        if protocol != TCP:
            return LIFETIME_OTHERS_NS
        if self.state & CONNTRACK_RESET or self.state & CONNTRACK_FINS == CONNTRACK_FINS:
            return LIFETIME_CLOSING_NS
        return LIFETIME_TCP_NS if self.state & CONNTRACK_ANSWERED else LIFETIME_BEGUN_NS

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class FragmentKey:
    """struct fragment_key: one packet's fragments as one program sees them on one interface."""

    source: str
    destination: str
    id: int
    ifindex: int
    point: int
    protocol: int
    """Of IPv4; 0 of IPv6."""
    LAYOUT: ClassVar = struct.Struct("=16s16s4sIBBB5x")

    def pack(self) -> bytes:
        family, source = pack_address(self.source)
        _, destination = pack_address(self.destination)
        identifier = self.id.to_bytes(4, "big")
        return self.LAYOUT.pack(source, destination, identifier, self.ifindex, self.point, self.protocol, family)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        source, destination, identifier, ifindex, point, protocol, family = cls.LAYOUT.unpack(data)
        addresses = unpack_address(family, source), unpack_address(family, destination)
        return cls(*addresses, int.from_bytes(identifier, "big"), ifindex, point, protocol)


@dataclass(frozen=True, slots=True)
class FragmentEntry:
    """struct fragment_entry: what the first fragment said."""

    begun_ns: int
    """CLOCK_MONOTONIC_COARSE"""
    end: int
    """The bytes up to here have been seen; 2**32 - 1: the rest is doomed."""
    source_port: int
    destination_port: int
    port: int
    protocol: int
    flags: int
    opaque: int
    complete: int
    LAYOUT: ClassVar = struct.Struct("=QI2s2s2sBBBB2x")

    def pack(self) -> bytes:
        ports = (PORT.pack(port) for port in (self.source_port, self.destination_port, self.port))
        rest = (self.protocol, self.flags, self.opaque, self.complete)
        return self.LAYOUT.pack(self.begun_ns, self.end, *ports, *rest)

    def alive(self, now_ns: int) -> bool:
        """Whether the programs still go by it (`follow_fragments` in fragments.h)."""
        return silent_ns(self.begun_ns, now_ns) <= LIFETIME_FRAGMENTS_NS

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        begun, end, source, destination, port, *rest = cls.LAYOUT.unpack(data)
        return cls(begun, end, *(PORT.unpack(one)[0] for one in (source, destination, port)), *rest)
