# SPDX-License-Identifier: Apache-2.0
"""Sockets that speak with addresses which are not this machine's: towards the client as the name server it asked,
towards the name server as the client.

May not read or write. Failure verdict: OSError; nothing is retried here.
"""

import asyncio
import ctypes
import socket
import struct
from functools import lru_cache
from typing import Final

IP_TRANSPARENT: Final = 19
IP_RECVORIGDSTADDR: Final = 20
IP_BIND_ADDRESS_NO_PORT: Final = 24
IP_PKTINFO: Final = 8
IPV6_CHECKSUM: Final = 7
IPV6_RECVORIGDSTADDR: Final = 74
IPV6_TRANSPARENT: Final = 75
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33

CLIENT_MARK: Final = 0xA00
"""SO_MARK of what goes to the client."""
UPSTREAM_MARK: Final = 0xB00
"""SO_MARK of what goes to the name server."""

DNS_PORT: Final = 10053
"""Of the listeners. Nobody sends to it: flows are steered to the sockets themselves."""

Address = tuple[str, int]
"""Address as text, and port."""

_BPF_RETURN: Final = 0x06
_CHECKSUM_AT: Final = 6
_ORIGINAL_V4: Final = struct.Struct("!2xH4s")
_ORIGINAL_V6: Final = struct.Struct("!2xH4x16s")


def family_of(address: str) -> socket.AddressFamily:
    """Of an address as text."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def transparent(family: socket.AddressFamily, kind: socket.SocketKind, mark: int, protocol: int = 0) -> socket.socket:
    """A socket that may be bound to any address, not yet bound."""
    made = socket.socket(family, kind, protocol)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if family == socket.AF_INET:
            made.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
        else:
            if kind != socket.SOCK_RAW:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    except OSError:
        made.close()
        raise
    return made


def udp_listener(family: socket.AddressFamily, port: int = DNS_PORT, address: str = "") -> socket.socket:
    """Where the kernel delivers queries, each with the address it was sent to."""
    made = transparent(family, socket.SOCK_DGRAM, CLIENT_MARK)
    try:
        if family == socket.AF_INET:
            made.setsockopt(socket.SOL_IP, IP_RECVORIGDSTADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)
        made.bind((address or _loopback(family), port))
    except OSError:
        made.close()
        raise
    return made


def tcp_listener(family: socket.AddressFamily, port: int = DNS_PORT, address: str = "") -> socket.socket:
    """Where the kernel delivers connections. An accepted socket's own address is the one the client dialled."""
    made = transparent(family, socket.SOCK_STREAM, CLIENT_MARK)
    try:
        made.bind((address or _loopback(family), port))
        made.listen(1024)
    except OSError:
        made.close()
        raise
    return made


def upstream(kind: socket.SocketKind, client: str) -> socket.socket:
    """A socket with the client's address and a port of the kernel's choice, which for UDP is a random one."""
    made = transparent(family_of(client), kind, UPSTREAM_MARK)
    try:
        if kind == socket.SOCK_STREAM:  # the port is then chosen by connect(), which knows the whole tuple
            made.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        made.bind((client, 0))
    except OSError:
        made.close()
        raise
    return made


def spoofed(server: Address) -> socket.socket:
    """A UDP socket that answers as the name server."""
    made = transparent(family_of(server[0]), socket.SOCK_DGRAM, CLIENT_MARK)
    try:
        made.bind(server)
    except OSError:
        made.close()
        raise
    return made


def raw_udp(family: socket.AddressFamily) -> socket.socket:
    """A socket for whole UDP packets from any address (see `send_raw`), deaf to all that comes in."""
    made = transparent(family, socket.SOCK_RAW, CLIENT_MARK, socket.IPPROTO_UDP)
    try:
        deny = ctypes.create_string_buffer(struct.pack("HBBI", _BPF_RETURN, 0, 0, 0))
        made.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(deny)))
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_CHECKSUM, _CHECKSUM_AT)
    except OSError:
        made.close()
        raise
    return made


def send_raw(raw: socket.socket, server: Address, client: Address, message: bytes) -> None:
    """Sends a UDP packet from `server`. IPv4 allows it without a checksum (RFC 768); to IPv6 the kernel adds it."""
    packet = struct.pack("!HHHH", server[1], client[1], 8 + len(message), 0) + message
    source = socket.inet_pton(raw.family, server[0])
    if raw.family == socket.AF_INET:
        ancillary = (socket.SOL_IP, IP_PKTINFO, struct.pack("=I4s4x", 0, source))
    else:
        ancillary = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, source + bytes(4))
    raw.sendmsg([packet], [ancillary], 0, (client[0], 0))


def original_destination(ancillary: list[tuple[int, int, bytes]]) -> Address | None:
    """Where a datagram was sent to, from what `recvmsg` gives beside it."""
    for level, kind, data in ancillary:
        if level == socket.SOL_IP and kind == IP_RECVORIGDSTADDR:
            return _original_v4(data)
        if level == socket.IPPROTO_IPV6 and kind == IPV6_RECVORIGDSTADDR:
            return _original_v6(data)
    return None


@lru_cache(maxsize=1024)
def _original_v4(data: bytes) -> Address:
    port, packed = _ORIGINAL_V4.unpack_from(data)
    return socket.inet_ntop(socket.AF_INET, packed), port


@lru_cache(maxsize=1024)
def _original_v6(data: bytes) -> Address:
    port, packed = _ORIGINAL_V6.unpack_from(data)
    return socket.inet_ntop(socket.AF_INET6, packed), port


def _loopback(family: socket.AddressFamily) -> str:
    return "127.0.0.1" if family == socket.AF_INET else "::1"


def hand_over(sock: socket.socket) -> None:
    """Leaves the descriptor to the transport that was made of the socket.

    uvloop's transport works with the number alone and may have closed it already; the socket object must not close the
    same number a second time, when it is another connection's. asyncio's works with the socket object.
    """
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        sock.detach()
