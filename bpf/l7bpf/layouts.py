# SPDX-License-Identifier: Apache-2.0
"""Python twins of the structs in bpf/programs/maps.h, but for those of flows (`l7bpf.flows`).

Pure bytes: nothing here opens anything. Integers are the machine's, addresses and ports big-endian as on the wire.
A value that does not fit its field raises (`struct.error`, `ValueError`): that is a bug of the caller.
tests/bpf/test_layouts.py holds these equal to what the C compiler says.
"""

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol, Self

LAYOUT: Final = "v3"
"""Last part of the pins' path. Raised whenever a struct or a table changes its shape."""

ENFORCE_EGRESS: Final = 1
ENFORCE_INGRESS: Final = 2
AUDIT: Final = 4

ALLOW: Final = 0
DENY: Final = 1
REDIRECT: Final = 2

METRIC_FORWARDED: Final = 0
METRIC_FRAGMENTS_MADE: Final = 247
METRIC_HOST_FLOWS_GONE: Final = 248
METRIC_HOST_FLOWS_MADE: Final = 249
METRIC_CONNTRACK_GONE: Final = 250
METRIC_CONNTRACK_MADE: Final = 251
METRIC_PASSED_LOST: Final = 252
METRIC_AUDITED: Final = 253
METRIC_REDIRECTED: Final = 254
METRIC_EVENTS_LOST: Final = 255

EVENT_DROP: Final = 1
EVENT_VERDICT: Final = 2
EVENT_TRACE: Final = 4
POINTS: Final = (
    "",
    "from-endpoint",
    "to-endpoint",
    "from-uplink",
    "to-uplink",
    "steer",
    "cgroup-egress",
    "cgroup-ingress",
)
"""Names of the programs, by POINT_…"""

LISTENER_SLOTS: Final = 8
FQDN_SELECTORS: Final = 30

MARK_MASK: Final = 0xF00
MARK_TO_PROXY: Final = 0x200
MARK_FROM_HOST: Final = 0x300
MARK_JUDGED: Final = 0x400
MARK_TO_CLIENT: Final = 0xA00
MARK_TO_SERVER: Final = 0xB00

_V4_HEAD = bytes(12)
_POLICY_PREFIX = 32 + 32 + 8
PORT: Final = struct.Struct(">H")
"""As on the wire."""


class Layout(Protocol):
    """A row or key of a table."""

    def pack(self) -> bytes: ...

    @classmethod
    def unpack(cls, data: bytes) -> Self: ...


def pack_address(address: str) -> tuple[int, bytes]:
    """Family (4 or 6) and 16 bytes."""
    if ":" in address:
        return 6, socket.inet_pton(socket.AF_INET6, address)
    return 4, _V4_HEAD + socket.inet_pton(socket.AF_INET, address)


def unpack_address(family: int, data: bytes) -> str:
    """The address in its usual form; empty for a packet whose addresses could not be read."""
    if family == 6:
        return socket.inet_ntop(socket.AF_INET6, data)
    return socket.inet_ntop(socket.AF_INET, data[12:]) if family == 4 else ""


@dataclass(frozen=True, slots=True)
class U32:
    """A bare number, as a key or a row."""

    value: int
    LAYOUT: ClassVar = struct.Struct("=I")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.value)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """struct endpoint."""

    policy_id: int
    identity: int
    ifindex: int
    flags: int
    """ENFORCE_EGRESS | ENFORCE_INGRESS | AUDIT"""
    LAYOUT: ClassVar = struct.Struct("=4I")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.policy_id, self.identity, self.ifindex, self.flags)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class AddressKey:
    """struct address_key."""

    address: str
    LAYOUT: ClassVar = struct.Struct("=I16s")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(*pack_address(self.address))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(unpack_address(*cls.LAYOUT.unpack(data)))


WHOLE: Final = 160
"""`prefixlen` of a prefix that is one address, of either family."""


@dataclass(frozen=True, slots=True)
class IpcacheKey:
    """struct ipcache_key: a prefix (``192.0.2.0/24``) or an address."""

    prefix: str
    LAYOUT: ClassVar = struct.Struct("=II16s")

    def pack(self) -> bytes:
        address, _, length = self.prefix.partition("/")
        family, data = pack_address(address)
        most = 128 if family == 6 else 32
        bits = int(length) if length else most
        if not 0 <= bits <= most:
            raise ValueError(f"{self.prefix}: no such prefix length")
        return self.LAYOUT.pack(32 + bits + (128 - most), family, data)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        prefixlen, family, address = cls.LAYOUT.unpack(data)
        bits = prefixlen - 32 - (96 if family == 4 else 0)
        # Most rows are whole addresses, and there are many. Those that begin with zeros have more than one spelling.
        if prefixlen == WHOLE and (family == 4 or (family == 6 and any(address[:10]))):
            return cls(f"{unpack_address(family, address)}/{bits}")
        network = ipaddress.ip_network((unpack_address(family, address), bits), strict=False)
        return cls(str(network))


@dataclass(frozen=True, slots=True)
class IpcacheEntry:
    """struct ipcache_entry."""

    identity: int
    established: int = 0
    """What flows that have begun already go by; 0: by `identity` too."""
    LAYOUT: ClassVar = struct.Struct("=II")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.identity, self.established)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """struct policy_key. `port_bits` first bits of `port` count: 0 any port, 16 exactly this one.

    Protocol 0 is any protocol, and then no bit of the port counts.
    """

    policy_id: int
    identity: int
    direction: int
    protocol: int = 0
    port: int = 0
    port_bits: int = 0
    LAYOUT: ClassVar = struct.Struct("=IIIBB2s4x")

    def pack(self) -> bytes:
        if not 0 <= self.port_bits <= 16 or (self.port_bits and not self.protocol):
            raise ValueError(f"{self}: port_bits must be 0 to 16, and 0 without a protocol")
        port = self.port & ((0xFFFF << (16 - self.port_bits)) & 0xFFFF)
        prefixlen = _POLICY_PREFIX + (8 + self.port_bits if self.protocol else 0)
        return self.LAYOUT.pack(
            prefixlen, self.policy_id, self.identity, self.direction, self.protocol, PORT.pack(port)
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        prefixlen, policy_id, identity, direction, protocol, port = cls.LAYOUT.unpack(data)
        bits = max(0, prefixlen - _POLICY_PREFIX - 8)
        return cls(policy_id, identity, direction, protocol, PORT.unpack(port)[0], bits)


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """struct policy_entry. The counters are the kernel's: an update sets them to what it holds."""

    verdict: int
    """ALLOW, DENY or REDIRECT"""
    proxy: int = 0
    precedence: int = 0
    cookie: int = 0
    packets: int = 0
    octets: int = 0
    LAYOUT: ClassVar = struct.Struct("=QQQIBB2x")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.cookie, self.packets, self.octets, self.precedence, self.verdict, self.proxy)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        cookie, packets, size, precedence, verdict, proxy = cls.LAYOUT.unpack(data)
        return cls(verdict, proxy, precedence, cookie, packets, size)


@dataclass(frozen=True, slots=True)
class Config:
    """struct config."""

    revision: int
    observe: int = 0
    """EVENT_VERDICT | EVENT_TRACE"""
    observe_until_ns: int = 0
    """CLOCK_MONOTONIC"""
    LAYOUT: ClassVar = struct.Struct("=IIQ")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.revision, self.observe, self.observe_until_ns)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class FqdnIdentity:
    """struct fqdn_identity. `selectors` are 64-bit hashes of the selectors' labels, at most FQDN_SELECTORS."""

    base_identity: int
    selectors: tuple[int, ...]
    LAYOUT: ClassVar = struct.Struct(f"=II{FQDN_SELECTORS}Q")

    def pack(self) -> bytes:
        count = len(self.selectors)
        if count > FQDN_SELECTORS:
            raise ValueError(f"an identity holds {FQDN_SELECTORS} selectors, not {count}")
        return self.LAYOUT.pack(self.base_identity, count, *self.selectors, *(0,) * (FQDN_SELECTORS - count))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        base, count, *selectors = cls.LAYOUT.unpack(data)
        return cls(base, tuple(selectors[:count]))


@dataclass(frozen=True, slots=True)
class ListenerKey:
    """struct listener_key."""

    proxy: int
    family: int
    """4 or 6"""
    protocol: int
    slot: int = 0
    LAYOUT: ClassVar = struct.Struct("=4B")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.proxy, self.family, self.protocol, self.slot)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class Metric:
    """struct metric."""

    packets: int
    octets: int
    LAYOUT: ClassVar = struct.Struct("=QQ")

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.packets, self.octets)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        return cls(*cls.LAYOUT.unpack(data))


@dataclass(frozen=True, slots=True)
class Event:
    """struct event: one packet that was dropped, or would be were its endpoint not audited, or was watched."""

    time_ns: int
    """CLOCK_BOOTTIME"""
    cookie: int
    endpoint_id: int
    source_identity: int
    destination_identity: int
    policy_id: int
    revision: int
    length: int
    source: str
    destination: str
    source_port: int
    destination_port: int
    """Of ICMP: the type."""
    protocol: int
    family: int
    direction: int
    verdict: int
    reason: int
    kinds: int = 0
    """EVENT_DROP | EVENT_VERDICT | EVENT_TRACE"""
    tcp_flags: int = 0
    point: int = 0
    """Index into POINTS: the program."""
    reply: int = 0
    judged: int = 0
    proxy: int = 0
    LAYOUT: ClassVar = struct.Struct("=QQ6I16s16s2s2s11Bx")

    def pack(self) -> bytes:
        source = pack_address(self.source)[1] if self.source else bytes(16)
        destination = pack_address(self.destination)[1] if self.destination else bytes(16)
        return self.LAYOUT.pack(
            self.time_ns,
            self.cookie,
            self.endpoint_id,
            self.source_identity,
            self.destination_identity,
            self.policy_id,
            self.revision,
            self.length,
            source,
            destination,
            PORT.pack(self.source_port),
            PORT.pack(self.destination_port),
            self.protocol,
            self.family,
            self.direction,
            self.verdict,
            self.reason,
            self.kinds,
            self.tcp_flags,
            self.point,
            self.reply,
            self.judged,
            self.proxy,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        fields = list(cls.LAYOUT.unpack(data[: cls.LAYOUT.size]))
        family = fields[13]
        fields[8] = unpack_address(family, fields[8])
        fields[9] = unpack_address(family, fields[9])
        fields[10] = PORT.unpack(fields[10])[0]
        fields[11] = PORT.unpack(fields[11])[0]
        return cls(*fields)
