# SPDX-License-Identifier: Apache-2.0
"""That something changed on the node's interfaces or addresses, told by the kernel (rtnetlink's groups).

What changed is not read: whoever waits looks at everything anyhow, and the kernel does not tell of what happens inside
the namespaces of workloads, so that it looks every now and then in any case. A workload may let its carrier come and go
as often as it likes: news come at most every `PAUSE` seconds. Failure verdict: what the socket has no room for is news.
"""

import asyncio
import contextlib
import socket
from typing import Final, Self

PAUSE: Final = 0.2
_LINK, _IPV4_ADDRESS, _IPV6_ADDRESS = 1, 0x10, 0x100
"""RTMGRP_LINK and its kin (linux/rtnetlink.h)."""


class LinkNews:
    """A listener in the calling thread's network namespace, as a context manager within the loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)

    def __enter__(self) -> Self:
        self._socket.setblocking(False)
        self._socket.bind((0, _LINK | _IPV4_ADDRESS | _IPV6_ADDRESS))
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
        self._changed.set()
        # Until it would block, or says that more happened than there was room for (ENOBUFS).
        with contextlib.suppress(OSError):
            while self._socket.recv(65536):
                pass
