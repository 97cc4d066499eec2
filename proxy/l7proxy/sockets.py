# SPDX-License-Identifier: Apache-2.0
"""Sockets that nobody sees: listeners that accept connections to any address, and connections from the client's.

Both need CAP_NET_ADMIN (IP_TRANSPARENT, SO_MARK). The marks tell the datapath which side a packet of ours belongs to.
"""

import asyncio
import errno
import os
import socket
from typing import Final

CLIENT_MARK: Final = 0xA00
"""On listeners, and by inheritance on what they accept."""
UPSTREAM_MARK: Final = 0xB00
"""On connections to servers."""

_IP_TRANSPARENT: Final = 19
_IPV6_TRANSPARENT: Final = 75
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}

Address = tuple[str, int]


def listener(family: socket.AddressFamily, port: int, address: str = "", backlog: int = 4096) -> socket.socket:
    """A listening socket, on loopback unless told otherwise: the datapath steers flows to it, no address does.

    Several processes may hold one each on the same port; the kernel spreads connections over them.
    """
    sock = _transparent(family, CLIENT_MARK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((address or _LOOPBACK[family], port))
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


async def dial(client: Address, destination: Address) -> socket.socket:
    """Connects to the original destination from the client's address and port.

    The port is kept because servers and the datapath's tables know the client by it. It is given up if another
    connection of ours has it: two clients' connections to one server cannot collide, a TIME_WAIT can.
    """
    try:
        return await _connect(client, destination)
    except OSError as refused:
        if refused.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
            raise
    return await _connect((client[0], 0), destination)


async def _connect(source: Address, destination: Address) -> socket.socket:
    sock = _transparent(socket.AF_INET6 if ":" in destination[0] else socket.AF_INET, UPSTREAM_MARK)
    try:
        if not source[1]:
            # The port is chosen at connect, by the whole 4-tuple, and not used up for all destinations at bind.
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind(source)
        failed = sock.connect_ex(destination)
        if failed == errno.EINPROGRESS:
            # A server near by has often answered by now, and to ask costs less than to wait for the loop to tell.
            failed = sock.connect_ex(destination)
        if failed == errno.EALREADY:
            failed = await _connected(sock)
        _check(failed)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connected(sock: socket.socket) -> int:
    """Waits until the connection is there, or cannot be had. Returns its error, 0 if there is none.

    Not `loop.sock_connect`: uvloop's asks a thread to resolve the address first, although it is one.
    """
    loop = asyncio.get_running_loop()
    writable = loop.create_future()
    loop.add_writer(sock, _settle, writable)
    try:
        await writable
    finally:
        loop.remove_writer(sock)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _check(failed: int) -> None:
    if failed:
        raise OSError(failed, os.strerror(failed))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _transparent(family: socket.AddressFamily, mark: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    except OSError:
        sock.close()
        raise
    return sock


def hand_over(sock: socket.socket) -> None:
    """Leaves the descriptor to the transport that was made of the socket.

    uvloop's transport works with the number alone and may have closed it already; the socket object must not close the
    same number a second time, when it is another connection's. asyncio's works with the socket object.
    """
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        sock.detach()
