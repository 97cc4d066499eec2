# SPDX-License-Identifier: Apache-2.0
"""Large bodies and tunnels through the server on loopback: moved by pumps, and nothing else may be different."""

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from l7observe.demand import Demand
from l7policy.verdict import Reason
from l7proxy.limits import Limits

GET = b"GET /public HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"
WEBSOCKET = b"GET /ws HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
HELLO = bytes.fromhex("16030100450100004103030000000000000000000000000000000000000000000000000000000000000000") + (
    b"\0\0\x02\x13\x01\x01\0\0\x16\0\0\0\x12\0\x10\0\0\x0dabcdef.ex.com"
)
ANSWER = b"\x16\x03\x03\0\x4a\x02\0\0\x46\x03\x03" + bytes(68)
BODY = os.urandom(6 << 20)
RESET = struct.pack("ii", 1, 0)

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Proxied = Callable[..., AbstractAsyncContextManager[Any]]


def answering(head: bytes, *, close: bool = False) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            writer.write(BODY)
            await writer.drain()
            if close:
                return

    return handler


WITH_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)


def test_a_large_answer_is_pumped_and_the_next_request_follows_it(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering(WITH_LENGTH), demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            for _ in range(3):
                writer.write(GET)
                assert await reader.readexactly(len(WITH_LENGTH)) == WITH_LENGTH
                assert await reader.readexactly(len(BODY)) == BODY
            writer.write(GET.replace(b"/public", b"/secret"))
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 403")
            writer.close()
            await proxy.idle()
            assert proxy.server.started >= 3
            assert [flow.http.response_bytes for flow in proxy.flows if flow.http] == [len(BODY)] * 3 + [0]

    run(main())


def test_an_answer_that_ends_with_the_connection_is_pumped(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        head = b"HTTP/1.1 200 OK\r\n\r\n"
        async with proxied(answering(head, close=True), demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            assert await reader.read(-1) == head + BODY
            writer.close()
            await proxy.idle()
            assert proxy.server.started == 1
            assert [flow.http.response_bytes for flow in proxy.flows if flow.http] == [len(BODY)]

    run(main())


def test_a_slow_reader_gets_it_all(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering(WITH_LENGTH), demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            received = b""
            while len(received) < len(WITH_LENGTH) + len(BODY):
                received += await reader.read(1 << 20)
                await asyncio.sleep(0.02)
            assert received == WITH_LENGTH + BODY
            writer.close()
            await proxy.idle()
            assert proxy.server.started

    run(main())


def test_an_answer_that_breaks_off_is_broken_off(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def breaking(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(WITH_LENGTH.replace(b"\r\n\r\n", b"0\r\n\r\n") + BODY)
        await writer.drain()
        await asyncio.sleep(0.2)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()

    async def main() -> None:
        async with proxied(breaking, demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)
            writer.close()
            await proxy.idle()
            assert proxy.server.started == 1
            assert [(flow.reason, flow.detail) for flow in proxy.flows] == [
                (Reason.UPSTREAM_UNREACHABLE, "answer cut short")
            ]

    run(main())


def test_a_client_that_goes_away_ends_the_servers_side(run: Callable[[Any], Any], proxied: Proxied) -> None:
    ended: list[str] = []

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while True:
                writer.write(BODY)
                await writer.drain()
        except ConnectionError as error:
            ended.append(type(error).__name__)

    async def main() -> None:
        async with proxied(endless, demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            await reader.readexactly(3 * len(BODY))
            writer.transport.abort()
            await proxy.idle()
            while not ended:
                await asyncio.sleep(0.01)
            assert proxy.server.started == 1

    run(main())


@pytest.mark.parametrize("kind", ["websocket", "tls"])
def test_a_tunnel_is_pumped_both_ways_and_half_closes(
    world: Any, run: Callable[[Any], Any], proxied: Proxied, kind: str
) -> None:
    if kind == "tls":
        world.load_names(("abcdef.ex.com",))
    opening, answer = (WEBSOCKET, SWITCH) if kind == "websocket" else (HELLO, ANSWER)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(len(opening)) == opening
        writer.write(answer)
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
        writer.write(b"the end")

    async def main() -> None:
        async with proxied(echo, demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(opening)
            assert await reader.readexactly(len(answer)) == answer

            async def send() -> None:
                for at in range(0, len(BODY), 1 << 18):
                    writer.write(BODY[at : at + (1 << 18)])
                    await writer.drain()
                writer.write_eof()

            sending = asyncio.get_running_loop().create_task(send())
            assert await reader.read(-1) == BODY + b"the end"
            await sending
            writer.close()
            await proxy.idle()
            assert proxy.server.started == 2

    run(main())


def test_a_reload_breaks_a_pumped_connection_off(world: Any, run: Callable[[Any], Any], proxied: Proxied) -> None:
    world.load_names(("abcdef.ex.com",))

    async def sending(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(HELLO))
        writer.write(ANSWER)
        while True:
            writer.write(BODY)
            await writer.drain()

    async def main() -> None:
        async with proxied(sending, demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(HELLO)
            await reader.readexactly(len(ANSWER) + 2 * len(BODY))
            assert proxy.server.pumps == 1
            world.load_names(("other.example",))
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1 << 30)
            writer.close()
            await proxy.idle()
            assert proxy.flows[-1].reason == Reason.POLICY_CHANGED

    run(main())


def test_there_are_no_more_pumps_than_allowed(run: Callable[[Any], Any], proxied: Proxied) -> None:
    async def main() -> None:
        async with proxied(answering(WITH_LENGTH), Limits(max_pumps=0), demand=Demand(True)) as proxy:
            reader, writer = await proxy.open()
            writer.write(GET)
            assert await reader.readexactly(len(WITH_LENGTH) + len(BODY)) == WITH_LENGTH + BODY
            writer.close()
            await proxy.idle()
            assert proxy.server.started == 0

    run(main())
