# SPDX-License-Identifier: Apache-2.0
"""The server on loopback, under both event loops. Only how a server is reached differs from life: see `dial`."""

import asyncio
import gc
import os
import resource
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import pytest
import uvloop

from l7observe.demand import Demand
from l7observe.flow import Flow
from l7policy.verdict import Reason, Verdict
from l7proxy import foreign
from l7proxy import server as server_module
from l7proxy.limits import Limits
from l7proxy.relay import ClientSide
from l7proxy.stream import Stream

HOST = b"Host: shop.example.com\r\n"
GET = b"GET /public HTTP/1.1\r\n" + HOST + b"\r\n"
UPGRADE = b"GET /ws HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
UPLOAD = b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Proxied = Callable[..., AbstractAsyncContextManager[Any]]


async def answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers every request that has no body."""
    while await head_of(reader):
        writer.write(OK)


async def head_of(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speaks WebSocket no further than the upgrade."""
    await head_of(reader)
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    while data := await reader.read(1000):
        writer.write(data)
    writer.write(b"bye")


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends a connection with RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Nothing can be opened within."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_requests_pass_and_are_refused_on_one_connection(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering, demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            assert await reader.readexactly(len(OK)) == OK
            writer.write(GET.replace(b"/public", b"/secret"))
            assert (await head_of(reader)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert await reader.readexactly(15) == b"Access denied\r\n"
            writer.write(GET)
            assert await reader.readexactly(len(OK)) == OK
            writer.close()
            assert [(flow.verdict, flow.http.status) for flow in proxy.flows if flow.http] == [
                (Verdict.FORWARDED, 200),
                (Verdict.DROPPED, 403),
                (Verdict.FORWARDED, 200),
            ]
            assert proxy.flows[1].source.address == "127.0.0.1"
            assert proxy.flows[1].destination.port == proxy.port

    run(main())


def test_every_one_of_very_many_requests_at_once_is_refused(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET.replace(b"/public", b"/secret") * 1000 + GET)
            answers = await reader.readuntil(OK)
            assert answers.count(b"HTTP/1.1 403 Forbidden\r\n") == 1000
            writer.close()
            assert [flow.verdict for flow in proxy.flows] == [Verdict.DROPPED] * 1000

    run(main())


def test_tls_gets_a_400_and_no_server_hears_of_it(run: Callable[[Any], Any], proxied: Proxied) -> None:
    connected: list[bool] = []

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(True)

    async def main() -> None:
        async with proxied(count) as proxy:
            reader, writer = await proxy.open()
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500))
            assert (await reader.read()).startswith(b"HTTP/1.1 400 Bad Request\r\n")
            writer.close()
            assert [(flow.reason, flow.detail) for flow in proxy.flows] == [(Reason.HTTP_MALFORMED, foreign.TLS)]
        assert connected == []

    run(main())


def test_an_unreachable_server_is_a_503(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def refuse(client: tuple[str, int], asked: tuple[str, int]) -> socket.socket:
        raise ConnectionRefusedError(111, "Connection refused")

    async def main() -> None:
        async with proxied(answering, dial=refuse) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert answer.endswith(b"\r\n\r\nupstream connect error\r\n")
            writer.close()
            assert [(flow.verdict, flow.detail) for flow in proxy.flows] == [(Verdict.ERROR, "connection refused")]

    run(main())


def test_a_server_that_speaks_first_is_not_http(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.com ESMTP\r\n")
        await reader.read()

    async def main() -> None:
        async with proxied(greet) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            assert (await reader.read()).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
            writer.close()
            assert [flow.reason for flow in proxy.flows] == [Reason.UPSTREAM_MALFORMED]

    run(main())


def test_a_client_that_leaves_while_the_server_is_dialled_leaves_nothing_behind(
    run: Callable[[Any], Any], proxied: Proxied
) -> None:
    dialled = asyncio.Event()

    async def hang(client: tuple[str, int], asked: tuple[str, int]) -> socket.socket:
        dialled.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody wakes it")

    async def main() -> None:
        async with proxied(answering, dial=hang) as proxy:
            _, writer = await proxy.open()
            writer.write(GET)
            await dialled.wait()
            writer.transport.abort()
            await until(lambda: proxy.server.connections == 0 and len(proxy.server.tasks) == 1)

    run(main())


def test_a_slow_reader_stops_the_sender(run: Callable[[Any], Any], proxied: Proxied) -> None:
    size = 200_000_000
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000

    async def main() -> None:
        async with proxied(pour) as proxy:
            reader, writer = await proxy.open()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(GET)
            held = await settled(lambda: sent)
            assert 0 < held < 40_000_000
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            await head_of(reader)
            received = 0
            while received < 20_000_000:
                received += len(await reader.read(1_000_000))
            assert sent > held
            writer.transport.abort()

    run(main())


def test_a_slow_server_stops_the_uploader(run: Callable[[Any], Any], proxied: Proxied) -> None:
    size = 200_000_000
    go = asyncio.Event()
    received = 0

    async def hesitate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await head_of(reader)
        await go.wait()
        while data := await reader.read(1_000_000):
            received += len(data)

    async def main() -> None:
        sent = 0
        async with proxied(hesitate) as proxy:
            _, writer = await proxy.open()
            writer.write(UPLOAD % size)

            async def upload() -> None:
                nonlocal sent
                while sent < size:
                    writer.write(bytes(100_000))
                    await writer.drain()
                    sent += 100_000

            async with asyncio.TaskGroup() as group:
                uploading = group.create_task(upload())
                assert 0 < await settled(lambda: sent) < 40_000_000
                go.set()
                await until(lambda: received >= 20_000_000)
                uploading.cancel()
            writer.transport.abort()

    run(main())


async def settled(value: Callable[[], int]) -> int:
    """The value once it no longer changes."""
    before, now = -1, 0
    while now == 0 or now != before:
        before = now
        await asyncio.sleep(0.3)
        now = value()
    return now


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_flood_of_refused_requests_does_not_pile_up_answers(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering) as proxy:
            _, writer = await proxy.open()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            flood = GET.replace(b"/public", b"/secret") * 2000
            sent = 0

            async def pour() -> None:
                nonlocal sent
                while True:
                    writer.write(flood)
                    await writer.drain()
                    sent += len(flood)

            async with asyncio.TaskGroup() as group:
                pouring = group.create_task(pour())
                assert 0 < await settled(lambda: sent) < 60_000_000
                pouring.cancel()
            writer.transport.abort()

    run(main())


def test_limits_turn_connections_away(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering, Limits(max_connections=2)) as proxy:
            await one_too_many(proxy, "too many connections")
        async with proxied(answering, Limits(max_connections_per_client=2)) as proxy:
            await one_too_many(proxy, "too many connections of this client")

    async def one_too_many(proxy: Any, detail: str) -> None:
        kept = [await proxy.open() for _ in range(2)]
        for reader, writer in kept:
            writer.write(GET)
            await reader.readexactly(len(OK))
        reader, writer = await proxy.open()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        assert [(flow.reason, flow.detail) for flow in proxy.flows] == [(Reason.HTTP_LIMIT, detail)]
        kept[0][1].close()
        await until(lambda: proxy.server.connections == 1)
        reader, writer = await proxy.open()
        writer.write(GET)
        assert await reader.readexactly(len(OK)) == OK
        for _, opened in [*kept, (reader, writer)]:
            opened.close()

    run(main())


def test_a_connection_between_strangers_is_reset(world: Any, run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        world.workloads.clear()
        async with proxied(answering) as proxy:
            reader, writer = await proxy.open()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()
            assert [flow.reason for flow in proxy.flows] == [Reason.ENDPOINT_UNKNOWN]

    run(main())


def test_a_slow_head_is_ended_by_the_clock(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering, Limits(head_timeout=0.2)) as proxy:
            reader, writer = await proxy.open()
            writer.write(b"GET /")
            assert (await reader.read()).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            writer.close()
            assert [flow.reason for flow in proxy.flows] == [Reason.HTTP_TIMEOUT]

    run(main())


def test_a_websocket_is_spliced(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(echo) as proxy:
            reader, writer = await proxy.open()
            writer.write(UPGRADE)
            assert (await head_of(reader)).startswith(b"HTTP/1.1 101 ")
            writer.write(GET.replace(b"/public", b"/secret"))
            assert await reader.readexactly(len(GET)) == GET.replace(b"/public", b"/secret")
            writer.write_eof()
            assert await reader.read() == b"bye"
            writer.close()

    run(main())


def test_tunnels_that_are_denied_end_with_no_descriptor_left(
    world: Any, run: Callable[[Any], Any], proxied: Proxied
) -> None:
    """The copy that was made to reset one could not be had: that ended the task that judges all of them."""

    async def main() -> None:
        async with proxied(echo) as proxy:
            tunnels = [await proxy.open() for _ in range(3)]
            for reader, writer in tunnels:
                writer.write(UPGRADE)
                assert (await head_of(reader)).startswith(b"HTTP/1.1 101 ")
            with no_descriptor_left():
                world.load(())
                for reader, _ in tunnels:
                    with pytest.raises(ConnectionResetError):
                        await asyncio.wait_for(reader.read(), 5)
            assert len(proxy.server.tasks) == 1, "the task that looks at the deadlines"
            for _, writer in tunnels:
                writer.close()

    run(main())


def test_the_owner_is_told_when_deadlines_are_no_longer_kept(
    run: Callable[[Any], Any], proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []

    def broken(relay: ClientSide, now: float) -> None:
        raise RuntimeError("a bug")

    async def main() -> None:
        monkeypatch.setattr(ClientSide, "tick", broken)
        async with proxied(answering, on_error=lambda name, _: failed.append(name)) as proxy:
            _, writer = await proxy.open()
            await until(lambda: bool(failed))
            writer.close()

    run(main())
    assert failed == ["http deadlines"]


def test_a_reset_of_the_server_is_a_reset_for_the_client(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhel")
        await writer.drain()
        await asyncio.sleep(0.1)
        handle = writer.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async def main() -> None:
        async with proxied(break_off) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            await head_of(reader)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(500)
            writer.close()
            assert [flow.detail for flow in proxy.flows] == ["answer cut short"]

    run(main())


def test_draining_lets_a_request_end_and_closes_the_rest(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await head_of(reader):
            await asyncio.sleep(0.3)
            writer.write(OK)

    async def main() -> None:
        async with proxied(slow) as proxy:
            busy, idle = await proxy.open(), await proxy.open()
            idle[1].write(GET)
            assert await idle[0].readexactly(len(OK)) == OK
            busy[1].write(GET)
            await until(lambda: proxy.server.connections == 2)
            await asyncio.sleep(0.1)
            await proxy.server.close(drain=5)
            assert await busy[0].read() == OK
            assert await idle[0].read() == b""
            with pytest.raises(ConnectionRefusedError):
                await proxy.open()
            for _, writer in (busy, idle):
                writer.close()

    run(main())


def test_closing_without_drain_resets_what_is_under_way(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with proxied(never) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            await asyncio.sleep(0.1)
            await proxy.server.close()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()
            assert proxy.server.connections == 0

    run(main())


def test_closing_does_not_wait_for_a_connection_that_never_ends(
    run: Callable[[Any], Any], proxied: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "_ABORTED", 0.05)

    async def main() -> None:
        async with proxied(answering) as proxy:
            stuck = ClientSide(proxy.server)
            assert proxy.server.admit(stuck, ("127.0.0.1", 1), ("198.51.100.7", 80)) is not None
            await asyncio.wait_for(proxy.server.close(), 5)
            assert proxy.server.connections == 1

    run(main())


def test_a_connection_whose_end_cannot_be_recorded_is_gone_all_the_same(
    run: Callable[[Any], Any], proxied: Proxied
) -> None:
    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with proxied(never, demand=Demand(True)) as proxy:

            def broken(flow: Flow) -> None:
                raise RuntimeError(flow.detail)

            proxy.server._on_flow = broken
            _, writer = await proxy.open()
            writer.write(GET)
            await until(lambda: proxy.server.connections == 1)
            reset(writer)
            await until(lambda: proxy.server.connections == 0)

    run(main())


def relays() -> list[object]:
    """What connections of any test are made of, as far as it is there."""
    return [one for one in gc.get_objects() if isinstance(one, ClientSide | Stream)]


def test_a_connection_that_ended_leaves_nothing_to_the_collector(proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering, demand=Demand(True)) as proxy:
            gc.collect()
            gc.disable()
            try:
                before = relays()
                reader, writer = await proxy.open()
                writer.write(GET)
                await reader.readexactly(len(OK))
                writer.close()
                await proxy.idle()
                await asyncio.sleep(0.01)
                assert len(relays()) == len(before)
            finally:
                gc.enable()

    uvloop.run(main())
