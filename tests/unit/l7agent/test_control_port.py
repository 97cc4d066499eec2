# SPDX-License-Identifier: Apache-2.0
"""A data-plane process's side of the wire: it obeys the newest agent, and never waits for one."""

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from l7agent import control_port, wire
from l7agent.control_port import AlreadyRunning, ControlPort
from l7observe.flow import Flow, FlowPeer
from l7policy.ids import Revision
from l7policy.model import Snapshot
from l7policy.verdict import Direction, Reason, Verdict

FLOW = Flow(
    time.time(),
    "http",
    Verdict.DROPPED,
    Reason.HTTP_DENIED,
    Direction.EGRESS,
    6,
    FlowPeer("192.0.2.1"),
    FlowPeer("192.0.2.2"),
)


class Role:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def prepare(self, snapshot: Snapshot) -> str:
        self.told.append(("prepare", snapshot.revision))
        return "cannot" if snapshot.revision == 13 else ""

    def commit(self, revision: int) -> None:
        self.told.append(("commit", revision))

    def abort(self, revision: int) -> None:
        self.told.append(("abort", revision))

    def answer(self, question: str) -> Any:
        if question == "rows":
            return ({"row": number} for number in range(1000))
        return {"question": question}


class Agent:
    """The other side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, *messages: wire.ToProcess) -> None:
        for message in messages:
            self.writer.write(wire.frame(message))

    async def hear(self) -> wire.ToAgent | None:
        return await asyncio.wait_for(wire.read_from_process(self.reader), 5)


@asynccontextmanager
async def serving(path: Path, role: Role) -> AsyncIterator[ControlPort]:
    async def shutdown(drain: float) -> None:
        role.told.append(("shutdown", drain))

    port = ControlPort(path, lambda: wire.Hello(wire.PROTOCOL, "test", 0, 1, "0", 7), role, shutdown)
    await port.start()
    try:
        yield port
    finally:
        await port.close()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Agent]:
    agent = Agent(*await asyncio.open_unix_connection(str(path)))
    try:
        assert isinstance(await agent.hear(), wire.Hello)
        yield agent
    finally:
        agent.writer.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(scenario)


def test_it_greets_obeys_and_answers(tmp_path: Path) -> None:
    path, role = tmp_path / "test.sock", Role()

    async def scenario() -> None:
        async with serving(path, role), connected(path) as agent:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            agent.say(wire.Prepare(Snapshot(Revision(8), {}, {}, {}, ())), wire.Commit(8))
            agent.say(wire.Prepare(Snapshot(Revision(13), {}, {}, {}, ())), wire.Abort(13), wire.Ask(4, "cache"))
            agent.say(wire.Shutdown(1.5))
            assert [await agent.hear() for _ in range(3)] == [
                wire.Prepared(8),
                wire.Prepared(13, "cannot"),
                wire.Answer(4, {"question": "cache"}),
            ]
            while ("shutdown", 1.5) not in role.told:
                await asyncio.sleep(0.01)
        assert not path.exists()

    run(scenario())
    told = [("prepare", 8), ("commit", 8), ("prepare", 13), ("abort", 13), ("shutdown", 1.5)]
    assert role.told == told


def test_a_long_answer_leaves_room_for_other_work(tmp_path: Path) -> None:
    async def scenario() -> None:
        turns = 0
        answer: wire.ToAgent | None = None

        async def hear() -> None:
            nonlocal answer
            answer = await agent.hear()

        async def other_work() -> None:
            nonlocal turns
            while answer is None:
                turns += 1
                await asyncio.sleep(0)

        async with serving(tmp_path / "test.sock", Role()), connected(tmp_path / "test.sock") as agent:
            agent.say(wire.Ask(1, "rows"))
            await asyncio.gather(hear(), other_work())
        assert answer == wire.Answer(1, [{"row": number} for number in range(1000)])
        assert turns >= 1000 // control_port.ROWS_AT_ONCE

    run(scenario())


def test_flows_wait_for_an_agent_and_arrive_in_order(tmp_path: Path) -> None:
    path = tmp_path / "test.sock"

    async def scenario() -> None:
        async with serving(path, Role()) as port:
            for number in range(600):
                port.record(Flow(float(number), *FLOW_REST))
            async with connected(path) as agent:
                seen: list[float] = []
                while len(seen) < 600:
                    message = await agent.hear()
                    assert isinstance(message, wire.Flows)
                    assert message.lost == 0
                    seen += [flow.time for flow in message.flows]
                assert seen == [float(number) for number in range(600)]

    run(scenario())


FLOW_REST = (
    FLOW.layer,
    FLOW.verdict,
    FLOW.reason,
    FLOW.direction,
    FLOW.protocol,
    FLOW.source,
    FLOW.destination,
)


def test_what_finds_the_buffer_full_is_counted_and_never_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_port, "BUFFERED_FLOWS", 10)
    path = tmp_path / "test.sock"

    async def scenario() -> None:
        async with serving(path, Role()) as port:
            for _ in range(25):
                port.record(FLOW)
            async with connected(path) as agent:
                message = await agent.hear()
                assert isinstance(message, wire.Flows)
                assert (len(message.flows), message.lost) == (10, 15)

    run(scenario())


def test_what_passed_does_not_push_denies_out_and_goes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_port, "BUFFERED_FLOWS", 10)
    path = tmp_path / "test.sock"
    passed = msgspec.structs.replace(FLOW, verdict=Verdict.FORWARDED)

    async def scenario() -> None:
        async with serving(path, Role()) as port:
            for one in (*[passed] * 12, *[FLOW] * 10):
                port.record(one)
            async with connected(path) as agent:
                message = await agent.hear()
                assert isinstance(message, wire.Flows)
                assert (len(message.flows), message.lost, message.count) == (10, 2, 10)
                assert wire.decoded(message.passed) == [passed] * 10

    run(scenario())


def test_the_newest_agent_wins(tmp_path: Path) -> None:
    path, role = tmp_path / "test.sock", Role()

    async def scenario() -> None:
        async with serving(path, role) as port, connected(path) as old, connected(path) as new:
            assert await old.hear() is None
            port.record(FLOW)
            assert isinstance(await new.hear(), wire.Flows)
            new.say(wire.Ask(1, "x"))
            assert await new.hear() == wire.Answer(1, {"question": "x"})

    run(scenario())


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\5hello", b"\0\0"])
def test_an_agent_of_another_version_is_hung_up_on_and_the_next_is_served(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "test.sock"

    async def scenario() -> None:
        async with serving(path, Role()):
            async with connected(path) as agent:
                agent.writer.write(data)
                agent.writer.write_eof()
                assert await agent.hear() is None
            async with connected(path) as agent:
                agent.say(wire.Ask(1, "x"))
                assert await agent.hear() == wire.Answer(1, {"question": "x"})

    run(scenario())


def test_a_socket_is_served_once_and_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "test.sock"

    async def scenario() -> None:
        async with serving(path, Role()):
            with pytest.raises(AlreadyRunning):
                async with serving(path, Role()):
                    raise AssertionError
            assert path.exists()
        path.touch()
        async with serving(path, Role()), connected(path):
            pass

    run(scenario())
