# SPDX-License-Identifier: Apache-2.0
"""Servers that answer badly, on loopback: told apart by status and reason, never waited for without end, never asked
again on the connection that they spoilt.
"""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from l7observe.demand import Demand
from l7policy.verdict import Reason, Verdict
from l7proxy.limits import Limits

Proxied = Callable[..., AbstractAsyncContextManager[Any]]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GET = b"GET /public HTTP/1.1\r\nHost: shop.example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LIMITS = Limits(idle_timeout=0.3, request_timeout=0.8)


def saying(data: bytes, *, reset: bool = False, stays: bool = False) -> Handler:
    """A server that says this to whatever it is asked, and closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        if stays:
            await reader.read()
        elif reset:
            await asyncio.sleep(0.05)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    return handler


def trickling(data: bytes) -> Handler:
    """A server that says this a byte at a time, slowly, for as long as somebody listens."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(len(data)):
            writer.write(data[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0.02)

    return handler


async def ask(proxy: Any) -> bytes:
    """All that a client is told until its connection ends; it asks again as soon as there is an answer."""
    reader, writer = await proxy.open()
    told = b""
    try:
        writer.write(GET)
        told = await reader.readuntil(b"\r\n\r\n")
        writer.write(GET)
        while data := await reader.read(65536):
            told += data
    except asyncio.IncompleteReadError as ended:
        told += ended.partial
    except ConnectionError:
        told += b"(reset)"
    finally:
        writer.close()
    return told


@pytest.mark.parametrize(
    ("handler", "status", "detail"),
    [
        (saying(b""), 502, "server closed the connection before answering"),
        (saying(b"", reset=True), 502, "server closed the connection before answering"),
        (saying(HEAD + b"Content-Le"), 502, "server closed the connection before answering"),
        (saying(HEAD + b"Content-Le", reset=True), 502, "server closed the connection before answering"),
        (saying(b"HELLO WORLD\r\n\r\n", stays=True), 502, ""),
        (saying(b"\x16\x03\x01\x00\x05hello", stays=True), 502, ""),
        (saying(b"HTTP/2 200\r\n\r\n", stays=True), 502, ""),
        (saying(HEAD.replace(b"200", b"2000") + b"\r\n", stays=True), 502, ""),
        (saying(HEAD + b"X: y\r\n" * 100_000, stays=True), 502, ""),
        (saying(HEAD + b"X: " + b"y" * 1_000_000, stays=True), 502, ""),
        (saying(HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"0\r\n\r\n", stays=True), 502, ""),
        (saying(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", stays=True), 502, ""),
        (saying(HEAD + b"Content-Length: -5\r\n\r\nhello", stays=True), 502, ""),
        (saying(HEAD + b"X: a\0b\r\n\r\n", stays=True), 502, ""),
        (saying(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, stays=True), 502, "too many interim answers"),
        (saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", stays=True), 502, "server switched protocols unasked"),
        (saying(b"", stays=True), 504, "server did not answer in time"),
        (trickling(HEAD + b"X: " + b"y" * 1000), 504, "server did not answer in time"),
    ],
)
def test_a_bad_answer_is_an_error_with_its_reason_and_ends_the_connection(
    run: Callable[[Any], Any], proxied: Proxied, handler: Handler, status: int, detail: str
) -> None:
    async def main() -> None:
        async with proxied(handler, LIMITS, demand=Demand(True)) as proxy:
            told = await asyncio.wait_for(ask(proxy), 10)
            final = told[told.rindex(b"HTTP/1.1 ") :]
            assert final.startswith(b"HTTP/1.1 %d " % status), told[-300:]
            assert told.count(b"HTTP/1.1 5") == 1
            assert b"connection: close\r\n" in final.lower()
            (flow,) = proxy.flows
            assert (flow.verdict, flow.http.status) == (Verdict.ERROR, status)
            assert flow.reason in (Reason.UPSTREAM_MALFORMED, Reason.UPSTREAM_UNREACHABLE)
            assert detail in flow.detail
            assert flow.detail
            await asyncio.wait_for(proxy.idle(), 5)

    run(main())


@pytest.mark.parametrize(
    ("handler", "relayed", "detail"),
    [
        (saying(HEAD + b"Content-Length: 9\r\n\r\nhello"), b"hello", "answer cut short"),
        (saying(HEAD + b"Content-Length: 9\r\n\r\nhello", reset=True), b"hello", "answer cut short"),
        (saying(HEAD + CHUNKED + b"5\r\nhello\r\n"), b"hello\r\n", "answer cut short"),
        (saying(HEAD + CHUNKED + b"5\r\nhello\r\nfive\r\n", stays=True), b"hello\r\n", "malformed chunk size"),
        (saying(HEAD + CHUNKED + b"5\r\nhello world", stays=True), b"hello", "chunk does not end where its size says"),
        (saying(HEAD + b"Content-Length: 9\r\n\r\nhello", stays=True), b"hello", "no byte in either direction"),
        (trickling(HEAD + b"Content-Length: 900\r\n\r\n" + b"y" * 900), b"y", "took longer than any request may"),
    ],
)
def test_an_answer_that_is_never_whole_is_never_whole_for_the_client(
    run: Callable[[Any], Any], proxied: Proxied, handler: Handler, relayed: bytes, detail: str
) -> None:
    async def main() -> None:
        async with proxied(handler, LIMITS, demand=Demand(True)) as proxy:
            told = await asyncio.wait_for(ask(proxy), 10)
            assert told.startswith(HEAD), told
            assert told.count(b"HTTP/1.1") == 1
            assert told.removesuffix(b"(reset)").endswith(relayed), told
            (flow,) = proxy.flows
            assert (flow.verdict in (Verdict.ERROR, Verdict.DROPPED), flow.detail) == (True, detail)
            await asyncio.wait_for(proxy.idle(), 5)

    run(main())


@pytest.mark.parametrize("rest", [OK, b"x", b"\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"])
def test_what_follows_an_answer_is_never_the_answer_to_the_next_request(
    run: Callable[[Any], Any], proxied: Proxied, rest: bytes
) -> None:
    asked: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(OK + rest)
        await reader.read()

    async def main() -> None:
        async with proxied(handler, LIMITS) as proxy:
            for times in (1, 2):
                assert (await asyncio.wait_for(ask(proxy), 10)).removesuffix(b"(reset)") == OK
                assert asked == [GET] * times

    run(main())
