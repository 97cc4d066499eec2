# SPDX-License-Identifier: Apache-2.0
"""Python twins of the structs for fragments in bpf/programs/maps.h. As `l7bpf.layouts`: pure bytes."""

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from l7bpf.layouts import pack_address, unpack_address

_PORT = struct.Struct(">H")


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
        ports = (_PORT.pack(port) for port in (self.source_port, self.destination_port, self.port))
        rest = (self.protocol, self.flags, self.opaque, self.complete)
        return self.LAYOUT.pack(self.begun_ns, self.end, *ports, *rest)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        begun, end, source, destination, port, *rest = cls.LAYOUT.unpack(data)
        return cls(begun, end, *(_PORT.unpack(one)[0] for one in (source, destination, port)), *rest)
