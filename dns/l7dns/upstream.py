# SPDX-License-Identifier: Apache-2.0
"""Upstream: asking the name server that the client asked, from the client's address, over the protocol the client used.

UDP queries between the same two addresses share a socket for a while (`queries_per_port`, `channel_life`): each has a
random ID of its own, each socket a random port and ears for this name server only. Sharing keeps the node's connection
table from filling with one entry per query. TCP queries of one client connection share one upstream connection.

May not judge answers: every message goes to its waiter, which says whether it was the answer. Failure verdict: the
waiter is told that asking failed; nothing is asked again but when a name server hung up between two queries.
"""

import asyncio
import os
import socket
from typing import Final, cast
from typing import Protocol as Interface

from l7dns import sockets
from l7dns.frames import Frames, frame
from l7dns.sockets import Address
from l7observe.tasks import Tasks

_BATCH: Final = 64
_MANY: Final = 4
_BUFFER: Final = 65535


class Waiter(Interface):
    """Someone who asked."""

    def query(self, ident: int) -> bytes:
        """The message to send under this ID."""

    def received(self, message: bytes) -> bool:
        """A message under this ID came. Returns whether it was the answer."""

    def failed(self, problem: str) -> None:
        """The name server could not be asked, or hung up."""

    def abandoned(self) -> None:
        """Whoever wanted the answer has gone."""


class RandomIds:
    """Unpredictable query IDs, from the kernel's generator in gulps."""

    __slots__ = ("_pool", "_position")

    def __init__(self) -> None:
        """Nothing drawn yet."""
        self._pool = b""
        self._position = 0

    def draw(self, taken: dict[int, Waiter]) -> int:
        """An ID that is not in use."""
        while True:
            if self._position >= len(self._pool):
                self._pool, self._position = os.urandom(1024), 0
            ident = int.from_bytes(self._pool[self._position : self._position + 2], "big")
            self._position += 2
            if ident not in taken:
                return ident


class Asked:
    """A query that waits for its answer."""

    __slots__ = ("_id", "_waiting")

    def __init__(self, waiting: dict[int, Waiter], ident: int) -> None:
        """In `waiting` under `ident`."""
        self._waiting = waiting
        self._id = ident

    def forget(self) -> None:
        """Nobody waits any more. Late answers are dropped."""
        self._waiting.pop(self._id, None)


class _Channel:
    """One UDP socket from a client's address to a name server."""

    __slots__ = ("_upstream", "born", "socket", "used", "waiting")

    def __init__(self, upstream: "UdpUpstream", client: str, server: Address, now: float) -> None:
        self._upstream = upstream
        self.waiting: dict[int, Waiter] = {}
        self.used = 0
        self.born = now
        self.socket = sockets.upstream(socket.SOCK_DGRAM, client)
        try:
            self.socket.connect(server)
        except OSError:
            self.socket.close()
            raise
        upstream.loop.add_reader(self.socket, self._readable)

    def close(self, problem: str = "") -> None:
        """Everyone who still waits is told."""
        self._upstream.loop.remove_reader(self.socket)
        self.socket.close()
        waiting = list(self.waiting.values())
        self.waiting.clear()
        for waiter in waiting:
            waiter.failed(problem)

    def _readable(self) -> None:
        buffer, waiting, receive = self._upstream.buffer, self.waiting, self.socket.recv_into
        # Where few answers are awaited, to look for a second one in vain costs more than to be called again.
        for _ in range(_BATCH if len(waiting) > _MANY else 1):
            try:
                size = receive(buffer)
            except BlockingIOError:
                return
            except OSError as error:  # what an ICMP message said
                self._upstream.lost(self, error.strerror or str(error))
                return
            message = bytes(buffer[:size])
            waiter = waiting.get(message[0] << 8 | message[1]) if size > 1 else None
            if waiter is None or not waiter.received(message):
                self._upstream.strays += 1
            if self.socket.fileno() < 0:  # closed by what the waiter did
                return


class UdpUpstream:
    """UDP towards every name server."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        queries_per_port: int = 32,
        channel_life: float = 2.0,
        max_sockets: int = 2048,
    ) -> None:
        """No socket yet."""
        self.loop = loop
        self.buffer = memoryview(bytearray(_BUFFER))
        self.strays = 0
        """Messages that answered nothing: late, doubled, or forged."""
        self._queries_per_port = queries_per_port
        self._life = channel_life
        self._max_sockets = max_sockets
        self._ids = RandomIds()
        self._current: dict[tuple[str, Address], _Channel] = {}
        self._channels: dict[_Channel, tuple[str, Address]] = {}

    def ask(self, client: str, server: Address, waiter: Waiter, now: float) -> Asked | None:
        """Sends the waiter's query. None if that failed, and then the waiter has been told."""
        for attempt in (1, 2):
            try:
                channel = self._channel(client, server, now)
            except OSError as error:
                waiter.failed(error.strerror or str(error))
                return None
            ident = self._ids.draw(channel.waiting)
            query = waiter.query(ident)
            try:
                channel.socket.send(query)
            except BlockingIOError:
                waiter.failed("the socket's buffer is full")
                return None
            except OSError as error:
                # It may tell of an earlier query's fate (an ICMP message), so this one gets a socket of its own.
                self.lost(channel, error.strerror or str(error))
                if attempt == 1:
                    continue
                waiter.failed(error.strerror or str(error))
                return None
            channel.used += 1
            channel.waiting[ident] = waiter
            return Asked(channel.waiting, ident)
        raise AssertionError("unreachable")

    def sweep(self, now: float) -> None:
        """Closes sockets that nobody uses any more."""
        oldest = now - self._life
        for channel in [found for found in self._channels if found.born <= oldest and not found.waiting]:
            self._drop(channel)

    def lost(self, channel: _Channel, problem: str) -> None:
        """A socket is of no use any more."""
        self._forget(channel)
        channel.close(problem)

    def close(self) -> None:
        """Closes every socket; who still waits is told."""
        for channel in list(self._channels):
            self.lost(channel, "the proxy is stopping")

    def _channel(self, client: str, server: Address, now: float) -> _Channel:
        key = (client, server)
        channel = self._current.get(key)
        if channel is not None:
            if channel.used < self._queries_per_port and channel.born + self._life > now:
                return channel
            del self._current[key]
            if not channel.waiting:
                self._drop(channel)
        if len(self._channels) >= self._max_sockets:
            idle = next((found for found in self._channels if not found.waiting), None)
            if idle is None:
                raise OSError("too many sockets towards name servers")
            self._drop(idle)
        channel = self._current[key] = _Channel(self, client, server, now)
        self._channels[channel] = key
        return channel

    def _forget(self, channel: _Channel) -> None:
        key = self._channels.pop(channel, None)
        if key is not None and self._current.get(key) is channel:
            del self._current[key]

    def _drop(self, channel: _Channel) -> None:
        self._forget(channel)
        channel.close()


class TcpUpstream(asyncio.Protocol):
    """The upstream connection of one client connection, made when first needed and again after it was lost."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tasks: Tasks, client: str, server: Address, timeout: float
    ) -> None:
        """Not connected yet."""
        self._loop = loop
        self._tasks = tasks
        self._client = client
        self._server = server
        self._timeout = timeout
        self._ids = RandomIds()
        self._waiting: dict[int, Waiter] = {}
        self._unsent: list[bytes] = []
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._served = False
        self._closed = False

    def ask(self, waiter: Waiter) -> Asked:
        """Sends the waiter's query, at once or when connected."""
        ident = self._ids.draw(self._waiting)
        self._waiting[ident] = waiter
        self._send(waiter.query(ident))
        return Asked(self._waiting, ident)

    def close(self) -> None:
        """The client has gone."""
        self._closed = True
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for waiter in waiting:
            waiter.abandoned()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends what has gathered."""
        self._transport = cast(asyncio.Transport, transport)
        self._frames = Frames()
        self._served = False
        if self._closed:
            self._transport.abort()
            return
        unsent, self._unsent = self._unsent, []
        self._transport.write(b"".join(unsent))

    def data_received(self, data: bytes) -> None:
        """Hands each message to its waiter."""
        for message in self._frames.feed(data):
            ident = int.from_bytes(message[:2], "big")
            waiter = self._waiting.get(ident)
            if waiter is not None and waiter.received(message):
                self._served = True
        if self._frames.broken and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Servers hang up between two queries (RFC 7766 §6.2.4), dnsmasq after a hundred: the rest is asked again.

        Only a connection on which there was an answer is made anew, so that each one brings the end nearer. A query
        that was answered may be among those: what stood unread in a connection that was reset is lost.
        """
        self._transport = None
        self._unsent.clear()
        if self._served and not self._closed:
            for ident, waiter in list(self._waiting.items()):
                self._send(waiter.query(ident))
            return
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for waiter in waiting:
            waiter.failed("the name server closed the connection" if exc is None else str(exc))

    def _send(self, query: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(query))
            return
        self._unsent.append(frame(query))
        if self._connecting is None and self._transport is None:
            self._connecting = self._tasks.start(self._connect(), name="dns upstream connect")

    async def _connect(self) -> None:
        made: socket.socket | None = None
        try:
            made = sockets.upstream(socket.SOCK_STREAM, self._client)
            async with asyncio.timeout(self._timeout):
                await self._loop.sock_connect(made, self._server)
            try:
                await self._loop.create_connection(lambda: self, sock=made)
            finally:
                sockets.hand_over(made)
                made = None
        except TimeoutError:
            self._unsent.clear()  # who waits for an answer to them has a time limit of its own
        except OSError as error:
            self._unsent.clear()
            waiting = list(self._waiting.values())
            self._waiting.clear()
            for waiter in waiting:
                waiter.failed(error.strerror or str(error))
        finally:
            self._connecting = None
            if made is not None:
                made.close()
