# SPDX-License-Identifier: Apache-2.0
"""TCP sessions on loopback, of an owner that answers at once, as it does what it refuses."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from l7dns.frames import Frames, frame
from l7dns.listener import TcpSession

QUERY = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x07tracker\x07example\0\0\x01\0\x01"


class Refusing:
    """Sends each message back, and notes in which round of the loop it came."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.round = 0
        self.asked: Counter[int] = Counter()
        self.sessions = 0

    def count_rounds(self) -> None:
        self.round += 1
        self.loop.call_soon(self.count_rounds)

    def session(self) -> TcpSession:
        return TcpSession(self.loop, self, 5.0, 64)

    def opened(self, _session: TcpSession) -> bool:
        self.sessions += 1
        return True

    def stream_query(self, session: TcpSession, message: bytes) -> None:
        self.asked[self.round] += 1
        session.reply(("", 0), ("", 0), message)

    def gone(self, _session: TcpSession) -> None:
        self.sessions -= 1


async def ask(refusing: Refusing, count: int) -> list[bytes]:
    """What comes back of so many queries that are sent at once."""
    server = await refusing.loop.create_server(refusing.session, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(frame(QUERY) * count)
    writer.write_eof()
    frames = Frames()
    answers = frames.feed(await reader.read(-1))
    assert not frames.partial
    writer.close()
    while refusing.sessions:
        await asyncio.sleep(0.001)
    server.close()
    return answers


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("count", [1, 16, 17, 5000])
def test_each_of_very_many_queries_at_once_is_answered(new_loop: Callable[[], Any], count: int) -> None:
    async def main() -> None:
        assert await ask(Refusing(), count) == [QUERY] * count

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main(), 20))


def test_very_many_refused_queries_at_once_let_other_clients_have_their_turn() -> None:
    async def main() -> None:
        refusing = Refusing()
        refusing.count_rounds()
        await ask(refusing, 5000)
        assert max(refusing.asked.values()) <= 16

    asyncio.run(asyncio.wait_for(main(), 20))
