# SPDX-License-Identifier: Apache-2.0
"""Carries one connection: two transports, and the `Exchange` that says what happens between them.

All I/O of a connection is here and nothing is decided here, except one thing: a side whose reader is slow stops the
reading of the other side, so that what is held stays within the transports' write buffers.
"""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, cast

from l7observe.tasks import Tasks
from l7proxy import commands as do
from l7proxy import sockets
from l7proxy.commands import Record, SendToClient, SendToServer
from l7proxy.exchange import Exchange
from l7proxy.head import ANY
from l7proxy.limits import Limits
from l7proxy.sockets import Address
from l7proxy.stream import Stream
from l7proxy.tls_exchange import TlsExchange
from l7proxy.transaction import Transaction

Dial = Callable[[Address, Address], Awaitable[socket.socket]]
"""Connects from a client's address to a destination. Raises OSError if it cannot."""

_LARGE: Final = 16 * 1024
"""A piece of this size is worth asking whether more will come."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Owner(Protocol):
    """Whoever accepts connections."""

    tasks: Tasks
    dial: Dial
    limits: Limits
    pumps: int
    """How many are at work."""
    max_pumps: int

    def admit(self, relay: "ClientSide", client: Address, destination: Address) -> Exchange | TlsExchange | None:
        """What is to happen on a new connection, None if it is refused."""
        ...

    def report(self, relay: "ClientSide", record: do.Record) -> None:
        """Something happened that is worth a flow."""
        ...

    def passed(self, relay: "ClientSide", answered: Transaction) -> None:
        """A request has come to its end in the short way."""
        ...

    def gone(self, relay: "ClientSide") -> None:
        """The connection has ended."""
        ...


class ClientSide(asyncio.Protocol):
    """The client's transport, and the home of the connection."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        # Not the loop's time, which stands still while it works off what has arrived.
        self._now = time.monotonic
        self._transport: asyncio.Transport | None = None
        self._server: ServerSide | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._held = False
        """The exchange does not want more of the client."""
        self._server_slow = False
        self._client_slow = False
        self._down = Stream()
        self._up = Stream()
        self.client: Address = ("", 0)
        self.source: Address = ("", 0)
        """From where the server is called."""
        self.destination: Address = ("", 0)
        self.exchange: Exchange | TlsExchange | None = None
        self._usual: Exchange | None = None
        """The same, if requests may take the short way."""

    # The client's transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The kernel accepted a connection: where it was going is our own address of it."""
        # uvloop's transports are not asyncio's classes, but have their methods.
        self._transport = transport = cast(asyncio.Transport, transport)
        peer, name = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if peer is None or name is None:
            transport.abort()
            return
        self.client, self.destination = (peer[0], peer[1]), (name[0], name[1])
        self.source = self.client
        transport.set_write_buffer_limits(high=self._owner.limits.write_buffer)
        self.exchange = self._owner.admit(self, self.client, self.destination)
        if self.exchange is None:
            self._reset(transport)
        elif isinstance(self.exchange, Exchange):
            self._usual = self.exchange

    def data_received(self, data: bytes) -> None:
        """Bytes came from the client."""
        now, usual, server = self._now(), self._usual, self._server
        if usual is not None and server is not None and usual.usual_request(data, now):
            server.transport.write(data)
        elif self.exchange is not None:
            self._perform(self.exchange.client_data(data, now))
            if len(data) >= _LARGE:
                self._bulk(self._up, len(data))

    def eof_received(self) -> bool:
        """The client sent FIN; what it asked for may still be on its way."""
        if self.exchange is None:
            return False
        self._perform(self.exchange.client_eof(self._now()))
        return True

    def pause_writing(self) -> None:
        """The client reads slowly."""
        self._client_reads(False)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._client_reads(True)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - part of the interface
        """The client is gone."""
        self._transport = None
        self._stop_pumps()
        if self.exchange is not None:
            try:
                self._perform(self.exchange.client_lost(self._now()))
            finally:
                self.exchange = self._usual = None
                self._owner.gone(self)

    # Events of the owner

    def tick(self, now: float) -> None:
        """Time has passed."""
        exchange = self.exchange
        if exchange is not None and (now >= exchange.deadline or now >= exchange.expires or exchange.tunnel):
            self._perform(exchange.tick(now))

    def drain(self) -> None:
        """The process is about to end."""
        if self.exchange is not None:
            self._perform(self.exchange.drain(self._now()))

    def abort(self) -> None:
        """Ends the connection now."""
        self._stop_pumps()
        if self._transport is not None:
            self._reset(self._transport)

    # Events of the server's side

    def server_connected(self, server: "ServerSide") -> bool:
        """The server is there; at once, so that none of its bytes come before. False if nobody wants it any more."""
        if self._dialling is None or self.exchange is None:
            return False
        self._dialling = None
        self._server = server
        if self._client_slow:
            # Not now: uvloop begins to read when this has returned, whatever was said before.
            asyncio.get_running_loop().call_soon(lambda: server.read(not self._client_slow))
        self._perform(self.exchange.server_connected(self._now()))
        return True

    def server_data(self, data: bytes) -> None:
        """Bytes came from the server."""
        now, usual, client = self._now(), self._usual, self._transport
        if usual is not None and client is not None and (answered := usual.usual_answer(data, now)) is not None:
            client.write(data)
            self._owner.passed(self, answered)
        elif self.exchange is not None:
            self._perform(self.exchange.server_data(data, now))
            if len(data) >= _LARGE:
                self._bulk(self._down, len(data))

    def server_eof(self) -> None:
        """The server sent FIN."""
        if self.exchange is not None:
            self._perform(self.exchange.server_eof(self._now()))

    def server_lost(self) -> None:
        """The server's connection is gone, and not because we closed it."""
        self._server = None
        if self.exchange is not None:
            self._perform(self.exchange.server_lost(self._now()))

    def server_slow(self, slow: bool) -> None:
        """The server reads slowly, or has caught up."""
        self._server_slow = slow
        if self.exchange is not None:
            self._perform(self.exchange.server_slow(slow, self._now()))
        self._read()

    # Commands

    def _perform(self, commands: Sequence[do.Command]) -> None:
        for command in commands:
            if isinstance(command, SendToClient):
                if self._transport is not None:
                    self._transport.write(command.data)
            elif isinstance(command, SendToServer):
                if self._server is not None:
                    self._server.transport.write(command.data)
            elif isinstance(command, Record):
                self._owner.report(self, command)
            else:
                self._arrange(command)

    def _arrange(self, command: do.Command) -> None:
        match command:
            case do.Connect():
                self._dialling = self._owner.tasks.start(self._dial(), name=f"dial {self.destination[0]}")
            case do.PauseClient() | do.ResumeClient():
                self._held = isinstance(command, do.PauseClient)
                self._read()
            case do.GoOn():
                asyncio.get_running_loop().call_soon(self._go_on)
            case do.HalfCloseServer():
                if self._server is not None:
                    self._server.transport.write_eof()
            case do.HalfCloseClient():
                if self._transport is not None:
                    self._transport.write_eof()
            case do.CloseServer() | do.ResetServer():
                self._drop_server(reset=isinstance(command, do.ResetServer))
            case do.CloseClient():
                self._stop_pumps()
                if self._transport is not None:
                    self._transport.close()
            case do.ResetClient():
                self._stop_pumps()
                if self._transport is not None:
                    self._reset(self._transport)
            case _:
                raise AssertionError(f"unknown command {command!r}")

    def _go_on(self) -> None:
        if isinstance(self.exchange, Exchange):
            self._perform(self.exchange.go_on(self._now()))

    async def _dial(self) -> None:
        try:
            sock = await self._owner.dial(self.source, self.destination)
        except OSError as failed:
            self._dialling = None
            if self.exchange is not None:
                detail = os.strerror(failed.errno).lower() if failed.errno else "cannot connect"
                self._perform(self.exchange.server_failed(detail, self._now()))
            return
        try:
            await asyncio.get_running_loop().create_connection(self._server_side, sock=sock)
        finally:
            sockets.hand_over(sock)

    def _server_side(self) -> "ServerSide":
        return ServerSide(self, self._owner.limits.write_buffer)

    def _drop_server(self, *, reset: bool) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        self._stop_pumps()
        if self._server is not None:
            server, self._server = self._server, None
            server.relay = None
            if reset:
                self._reset(server.transport)
            else:
                server.transport.close()
        self._server_slow = False
        self._read()

    def _client_reads(self, reads: bool) -> None:
        self._client_slow = not reads
        if self._server is not None:
            self._server.read(reads and not self._down.pumping)
        if self.exchange is not None:
            self._perform(self.exchange.client_slow(not reads, self._now()))

    def _read(self) -> None:
        _read(self._transport, not (self._held or self._server_slow or self._up.pumping))

    # Bulk

    def _bulk(self, stream: Stream, size: int) -> None:
        """A large piece passed: moves what follows without looking at it, if that may be and there is enough of it."""
        exchange, server, limits = self.exchange, self._server, self._owner.limits
        if exchange is None or server is None or self._transport is None:
            return
        unseen = exchange.unseen(of_server=stream is self._down)
        stream.seen = stream.seen + size if unseen else 0
        if (stream.seen if unseen == ANY else unseen) < limits.pump_from or self._owner.pumps >= self._owner.max_pumps:
            return
        source, target = server.transport, self._transport
        if stream is self._up:
            source, target = target, source
        if source.is_closing() or target.is_closing() or target.get_write_buffer_size():
            return
        if stream.start(self, source, target, unseen):
            self._owner.pumps += 1
            source.pause_reading()

    def moved(self, size: int) -> None:
        """Bytes went by."""
        if self.exchange is not None:
            self.exchange.went_by(size, self._now())

    def slow(self, stream: Stream, slow: bool) -> None:
        """Who is to read them is slow, or has caught up."""
        if self.exchange is not None:
            event = self.exchange.client_slow if stream is self._down else self.exchange.server_slow
            self._perform(event(slow, self._now()))

    def pumped(self, stream: Stream, broken: asyncio.Transport | None) -> None:
        """There is nothing more to move, or a transport is found broken: its end is an event as any other."""
        self._owner.pumps -= 1
        if broken is not None:
            self._stop_pumps()
            broken.abort()
        elif stream is self._up:
            self._read()
        elif self._server is not None:
            self._server.read(not self._client_slow)

    def _stop_pumps(self) -> None:
        self._owner.pumps -= self._down.stop() + self._up.stop()

    @staticmethod
    def _reset(transport: asyncio.Transport) -> None:
        """Closes with RST whatever the state: the peer must not take it for an orderly end."""
        handle = transport.get_extra_info("socket")
        if handle is not None and handle.fileno() >= 0:
            # uvloop hides setsockopt of sockets it accepted. Borrowed and not copied: that must work with no file left.
            same = socket.socket(fileno=handle.fileno())
            try:
                same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            finally:
                same.detach()
        transport.abort()


class ServerSide(asyncio.Protocol):
    """The server's transport."""

    transport: asyncio.Transport

    def __init__(self, relay: ClientSide, write_buffer: int) -> None:
        self.relay: ClientSide | None = relay
        """None once the connection was given up."""
        self._write_buffer = write_buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=self._write_buffer)
        if self.relay is None or not self.relay.server_connected(self):
            self.relay = None
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes came from the server."""
        if self.relay is not None:
            self.relay.server_data(data)

    def eof_received(self) -> bool:
        """The server sent FIN."""
        if self.relay is not None:
            self.relay.server_eof()
        return self.relay is not None

    def pause_writing(self) -> None:
        """The server reads slowly."""
        if self.relay is not None:
            self.relay.server_slow(True)

    def resume_writing(self) -> None:
        """The server has caught up."""
        if self.relay is not None:
            self.relay.server_slow(False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - part of the interface
        """Gone."""
        if self.relay is not None:
            self.relay.server_lost()

    def read(self, wanted: bool) -> None:
        """Read from the server, or let it wait."""
        _read(self.transport, wanted)


def _read(transport: asyncio.Transport | None, wanted: bool) -> None:
    if transport is None or transport.is_closing() or transport.is_reading() == wanted:
        return
    if wanted:
        transport.resume_reading()
    else:
        transport.pause_reading()
