# SPDX-License-Identifier: Apache-2.0
"""Reply: UDP answers that come from the name server's address and port, which is what the client's socket waits for.

One socket per name server, bound to its address, kept while it is used. The kernel fragments what is over the MTU.
Where no `sk_lookup` program stands in front, such a socket is the best match for the next query to that server: what
it receives is therefore a query like any other and goes to `on_query`. Where a program of the node listens on the same
port of every address and will not share it, answers go out through a raw socket instead.

May not judge. Failure verdict: an answer that cannot be sent is counted; the client asks again.
"""

import asyncio
import errno
import socket
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from l7dns import sockets
from l7dns.sockets import Address

OnQuery = Callable[[bytes, Address, Address], None]
"""Gets a datagram, the client, and the name server it asked."""

_BATCH: Final = 64
_BUFFER: Final = 65535


class Replies:
    """Sockets bound to name servers' addresses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_query: OnQuery, max_sockets: int = 256) -> None:
        """None yet."""
        self._loop = loop
        self._on_query = on_query
        self._max = max_sockets
        self._sockets: OrderedDict[Address, socket.socket] = OrderedDict()
        self._raw: dict[socket.AddressFamily, socket.socket] = {}
        self._buffer = memoryview(bytearray(_BUFFER))
        self.errors = 0
        """Answers that could not be sent."""

    def send(self, server: Address, client: Address, message: bytes | None) -> None:
        """Sends an answer as `server`. None: there is none."""
        if message is None:
            return
        try:
            found = self._socket(server)
            if found is not None:
                found.sendto(message, client)
            else:
                sockets.send_raw(self._raw_socket(sockets.family_of(client[0])), server, client, message)
        except OSError:  # the buffer is full, or the client's route is gone
            self.errors += 1

    def close(self) -> None:
        """Closes every socket."""
        while self._sockets:
            self._close_oldest()
        while self._raw:
            self._raw.popitem()[1].close()

    def _raw_socket(self, family: socket.AddressFamily) -> socket.socket:
        if family not in self._raw:
            self._raw[family] = sockets.raw_udp(family)
        return self._raw[family]

    def _socket(self, server: Address) -> socket.socket | None:
        """None if a program of this node has the port for itself."""
        found = self._sockets.get(server)
        if found is not None:
            self._sockets.move_to_end(server)
            return found
        if len(self._sockets) >= self._max:
            self._close_oldest()
        try:
            made = sockets.spoofed(server)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return None
            raise
        self._sockets[server] = made
        self._loop.add_reader(made, self._readable, made, server)
        return made

    def _close_oldest(self) -> None:
        _, oldest = self._sockets.popitem(last=False)
        self._loop.remove_reader(oldest)
        oldest.close()

    def _readable(self, ready: socket.socket, server: Address) -> None:
        for _ in range(_BATCH):
            if ready.fileno() < 0:  # closed by what the datagram before led to
                return
            try:
                size, client = ready.recvfrom_into(self._buffer)
            except OSError:
                return
            self._on_query(bytes(self._buffer[:size]), client[:2], server)
