# SPDX-License-Identifier: Apache-2.0
"""The pump between real sockets, under both event loops."""

import asyncio
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from l7proxy.head import ANY
from l7proxy.pump import PIPE_BYTES, Pump, Stop

RESET = struct.pack("ii", 1, 0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    def runner(main: Any) -> Any:
        with asyncio.Runner(loop_factory=request.param) as loop:
            return loop.run(asyncio.wait_for(main, 20))

    return runner


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket, socket.socket, socket.socket]]:
    """The far end of the source, the source, the target, and its far end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def pair() -> tuple[socket.socket, socket.socket]:
            far = socket.create_connection(server.getsockname())
            near = server.accept()[0]
            for sock in (far, near):
                sock.setblocking(False)
            return far, near

        source_far, source = pair()
        target_far, target = pair()
    with source_far, source, target, target_far:
        yield source_far, source, target, target_far


class Teller:
    """Remembers what a pump tells."""

    def __init__(self) -> None:
        self.size = 0
        self.slows: list[bool] = []
        self.reason: asyncio.Future[Stop] = asyncio.get_running_loop().create_future()

    def moved(self, size: int) -> None:
        self.size += size

    def slow(self, slow: bool) -> None:
        self.slows.append(slow)

    def stopped(self, reason: Stop) -> None:
        self.reason.set_result(reason)


async def received(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(sock, 1 << 20)
        if not piece:
            break
        data += piece
    return data


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_it_moves_everything_and_stops_at_the_sources_end(ends: Any, run: Callable[[Any], Any]) -> None:
    far, source, target, reader = ends
    data = os.urandom(5 * PIPE_BYTES + 17)

    async def main() -> None:
        teller = Teller()
        before = descriptors()
        pump = Pump(source.fileno(), target.fileno(), ANY, teller)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(far, data))  # noqa: TID251
        assert await received(reader, len(data)) == data
        await sending
        assert pump.active
        far.shutdown(socket.SHUT_WR)
        assert await teller.reason is Stop.DONE
        assert (teller.size, pump.active, descriptors()) == (len(data), False, before)

    run(main())


def test_it_stops_at_its_limit_and_leaves_what_follows(ends: Any, run: Callable[[Any], Any]) -> None:
    far, source, target, reader = ends

    async def main() -> None:
        teller = Teller()
        Pump(source.fileno(), target.fileno(), 1000, teller)
        far.send(bytes(1000) + b"the rest")
        assert await teller.reason is Stop.DONE
        assert len(await received(reader, 1000)) == 1000
        assert source.recv(100) == b"the rest"

    run(main())


def test_a_reader_that_is_slow_is_waited_for_and_told_of(ends: Any, run: Callable[[Any], Any]) -> None:
    far, source, target, reader = ends
    data = os.urandom(24 << 20)

    async def main() -> None:
        teller = Teller()
        pump = Pump(source.fileno(), target.fileno(), ANY, teller)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(far, data))  # noqa: TID251
        while True not in teller.slows:
            await asyncio.sleep(0.01)
        moved = teller.size
        assert moved < len(data)
        assert await received(reader, len(data)) == data
        await sending
        while teller.slows[-1]:
            await asyncio.sleep(0.01)
        pump.stop()

    run(main())


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_side_that_breaks_is_named(ends: Any, run: Callable[[Any], Any], side: str) -> None:
    far, source, target, reader = ends

    async def main() -> None:
        teller = Teller()
        Pump(source.fileno(), target.fileno(), ANY, teller)
        broken = far if side == "source" else reader
        broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        broken.close()
        while side == "target" and not teller.reason.done():
            far.send(b"x")
            await asyncio.sleep(0.01)
        assert await teller.reason is (Stop.SOURCE_BROKEN if side == "source" else Stop.TARGET_BROKEN)

    run(main())


def test_stopping_gives_every_descriptor_back_also_while_it_waits(ends: Any, run: Callable[[Any], Any]) -> None:
    far, source, target, _ = ends

    async def main() -> None:
        before = descriptors()
        teller = Teller()
        pump = Pump(source.fileno(), target.fileno(), ANY, teller)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(far, bytes(24 << 20)))  # noqa: TID251
        while True not in teller.slows:
            await asyncio.sleep(0.01)
        pump.stop()
        pump.stop()
        sending.cancel()
        await asyncio.sleep(0)
        assert descriptors() == before
        assert not teller.reason.done()

    run(main())


def test_without_descriptors_it_does_not_begin_and_leaves_none(ends: Any, run: Callable[[Any], Any]) -> None:
    _, source, target, _ = ends

    async def main() -> None:
        before = descriptors()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        spare = os.dup(0)
        os.close(spare)
        for left in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare + left, hard))
            try:
                with pytest.raises(OSError, match="Too many open files"):
                    Pump(source.fileno(), target.fileno(), ANY, Teller())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert descriptors() == before

    run(main())
