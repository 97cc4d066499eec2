# SPDX-License-Identifier: Apache-2.0
"""Listener: queries as they come in, over UDP in batches and over TCP pipelined.

May not read what is inside a message, nor judge. Failure verdict: a datagram whose destination is unknown is dropped
and counted; a TCP stream that is idle, broken or too greedy is closed.
"""

import asyncio
import socket
from collections import deque
from typing import Final, cast
from typing import Protocol as Interface

from l7dns import sockets
from l7dns.frames import Frames, frame
from l7dns.reply import OnQuery
from l7dns.sockets import Address

_BATCH: Final = 64
_STREAM_BATCH: Final = 16
"""Of one connection. Thousands of queries fit into what is read at once, and one that is refused waits for nobody."""
_BUFFER: Final = 65535
_ANCILLARY: Final = 128
_LAST_BATCHES: Final = 128
"""Of a flood, this much is read before the socket is closed."""


class UdpListener:
    """One socket of `sockets.udp_listener`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, on_query: OnQuery) -> None:
        """Starts reading."""
        self._loop = loop
        self._socket = listener
        self._on_query = on_query
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self.lost = 0
        """Datagrams without a destination."""
        loop.add_reader(listener, self._readable)

    def close(self) -> None:
        """Reads what has come in already, stops reading, and closes the socket."""
        if self._socket.fileno() >= 0:
            for _ in range(_LAST_BATCHES):
                if not self._readable():
                    break
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def _readable(self) -> bool:
        """Whether there may be more."""
        receive = self._socket.recvmsg_into
        buffers = [self._buffer]
        # Bounded, so that answers get their turn in a flood of queries.
        for _ in range(_BATCH):
            try:
                size, ancillary, _, client = receive(buffers, _ANCILLARY)
            except BlockingIOError:
                return False
            except OSError:  # an ICMP error about an earlier answer: nobody to tell
                continue
            server = sockets.original_destination(ancillary)
            if server is None:
                self.lost += 1
                continue
            self._on_query(bytes(self._view[:size]), client[:2], server)
        return True


class StreamServer(Interface):
    """What a TCP session needs of its owner."""

    def opened(self, session: "TcpSession") -> bool:
        """Whether there is room for one more."""

    def stream_query(self, session: "TcpSession", message: bytes) -> None:
        """A message came. The owner calls `session.reply` once, now or later."""

    def gone(self, session: "TcpSession") -> None:
        """The client hung up, or was hung up on."""


class TcpSession(asyncio.Protocol):
    """One client connection."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, server: StreamServer, idle_timeout: float, max_pipelined: int
    ) -> None:
        """Not connected yet."""
        self._loop = loop
        self._server = server
        self._idle_timeout = idle_timeout
        self._max_pipelined = max_pipelined
        self._frames = Frames()
        self._queue: deque[bytes] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._active = 0.0
        self._unanswered = 0
        self._admitted = False
        self._paused = False
        self._full = False
        self._ended = False
        self._working = False
        self._goes_on = False
        """Whether the loop will call when others have had their turn."""
        self.client: Address = ("", 0)
        self.destination: Address = ("", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket's own address is the name server that the client dialled."""
        self._transport = cast(asyncio.Transport, transport)
        self.client = tuple(transport.get_extra_info("peername")[:2])
        self.destination = tuple(transport.get_extra_info("sockname")[:2])
        self._admitted = self._server.opened(self)
        if not self._admitted:
            self._transport.abort()
            return
        self._active = self._loop.time()
        self._timer = self._loop.call_later(self._idle_timeout, self._check)

    def data_received(self, data: bytes) -> None:
        """Queries, or parts of them."""
        # A message that trickles in is no activity: only whole ones are.
        messages = self._frames.feed(data)
        if messages:
            self._active = self._loop.time()
        self._queue.extend(messages)
        self._work()

    def eof_received(self) -> bool:
        """The client may have asked its last question and still want the answer."""
        self._ended = True
        self._finish()
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers, so it may not ask more."""
        self._full = True
        self._throttle()

    def resume_writing(self) -> None:
        """It reads again."""
        self._full = False
        self._work()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """Nobody waits any more."""
        self._transport = None
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._admitted:
            self._server.gone(self)

    def reply(self, server: Address, client: Address, message: bytes | None) -> None:  # noqa: ARG002 - of one stream
        """Answers one query. None: it gets no answer."""
        self._unanswered -= 1
        if self._transport is None:
            return
        self._active = self._loop.time()
        if message is not None:
            self._transport.write(frame(message))
        self._work()

    def abort(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.abort()

    def _work(self) -> None:
        if self._working:  # an answer given at once comes back here
            return
        self._working = True
        for _ in range(_STREAM_BATCH):
            if not self._may_work():
                break
            self._unanswered += 1
            self._server.stream_query(self, self._queue.popleft())
        self._working = False
        if self._may_work() and not self._goes_on:
            self._goes_on = True
            self._loop.call_soon(self._go_on)
        self._throttle()
        self._finish()

    def _may_work(self) -> bool:
        able = self._transport is not None and not self._full and self._unanswered < self._max_pipelined
        return able and bool(self._queue)

    def _go_on(self) -> None:
        self._goes_on = False
        self._work()

    def _throttle(self) -> None:
        transport = self._transport
        wanted = bool(self._queue) or self._full or self._unanswered >= self._max_pipelined
        if transport is None or transport.is_closing() or wanted == self._paused:
            return
        self._paused = wanted
        if wanted:
            transport.pause_reading()
        else:
            transport.resume_reading()

    def _finish(self) -> None:
        idle = not self._queue and not self._unanswered
        if self._transport is not None and idle and (self._ended or self._frames.broken):
            self._transport.close()

    def _check(self) -> None:
        left = self._active + self._idle_timeout - self._loop.time()
        if left <= 0 and not self._unanswered:
            self.abort()
            return
        self._timer = self._loop.call_later(max(left, 0.1), self._check)
