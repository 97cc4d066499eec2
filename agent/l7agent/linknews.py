# SPDX-License-Identifier: Apache-2.0
"""That something changed on the node's interfaces, addresses or local routes, told by the kernel (rtnetlink's groups).

What changed is not read, but for the routing table that a route is in: a router's tables change all the time, and only
the local one says what the kernel takes for the node's own. A workload may let its carrier come and go as often as it
likes: news come at most every `PAUSE` seconds. Of what happens inside the namespaces of workloads the kernel does not
tell. Failure verdict: what the socket has no room for is news.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Final, Self

PAUSE: Final = 0.2
_GROUPS: Final = 1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, addresses and routes of IPv4 and IPv6 (linux/rtnetlink.h)."""
_HEADER: Final = struct.Struct("=IHHII")
_ROUTES: Final = frozenset({24, 25})
"""RTM_NEWROUTE, RTM_DELROUTE"""
_TABLE_AT: Final = 4
"""rtm_table in struct rtmsg"""
_LOCAL: Final = 255


class LinkNews:
    """A listener in the calling thread's network namespace, as a context manager within the loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

    def __enter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()

    async def wait(self, seconds: float) -> bool:
        """Until there are news, or for so long. Whether there were any."""
        await asyncio.sleep(PAUSE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds - PAUSE)):
                await self._changed.wait()
        changed = self._changed.is_set()
        self._changed.clear()
        return changed

    def _read(self) -> None:
        try:
            while data := self._socket.recv(65536):
                if tells(data):
                    self._changed.set()
        except BlockingIOError:
            pass
        except OSError:  # ENOBUFS: more happened than there was room for
            self._changed.set()


def tells(data: bytes) -> bool:
    """Whether some of these messages is about more than a route of another table than the local one."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        table = at + _HEADER.size + _TABLE_AT
        if kind not in _ROUTES or (table < len(data) and data[table] == _LOCAL):
            return True
        at += max(length + 3 & ~3, _HEADER.size)
    return False
