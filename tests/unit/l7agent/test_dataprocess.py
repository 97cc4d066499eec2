# SPDX-License-Identifier: Apache-2.0
"""Supervision over real processes and sockets: start, acknowledge, adopt, replace."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from l7agent import dataprocess
from l7agent.dataprocess import DataProcess, NotAcknowledged, OnFlows, Slot
from l7observe.flow import Flow
from l7observe.tasks import Tasks
from l7policy.ids import Revision
from l7policy.model import Snapshot

PROCESS = """
import asyncio, os, sys, time
from pathlib import Path
from l7agent import wire
from l7agent.control_port import ControlPort
from l7observe.flow import Flow, FlowPeer
from l7policy.verdict import Direction, Reason, Verdict

class Role:
    revision = 0
    def prepare(self, snapshot):
        return "cannot" if snapshot.revision == 13 else ""
    def commit(self, revision):
        self.revision = revision
    def abort(self, revision):
        pass
    def answer(self, question):
        if question == "flow":
            port.record(Flow(time.time(), "http", Verdict.DROPPED, Reason.HTTP_DENIED, Direction.EGRESS, 6,
                             FlowPeer("192.0.2.1"), FlowPeer("192.0.2.2")))
        return [question, self.revision]

async def main():
    global port
    stop = asyncio.Event()
    async def shutdown(drain):
        stop.set()
    role = Role()
    port = ControlPort(Path(sys.argv[1]), lambda: wire.Hello(PROTOCOL, "test", 0, os.getpid(), "0", role.revision),
                       role, shutdown)
    await port.start()
    await stop.wait()
    await port.close()

asyncio.run(main())
"""


def snapshot(revision: int) -> Snapshot:
    return Snapshot(Revision(revision), {}, {}, {}, ())


@asynccontextmanager
async def supervised(
    tmp_path: Path, protocol: str = "wire.PROTOCOL", on_flows: OnFlows = lambda _flows, _lost: None
) -> AsyncIterator[DataProcess]:
    program = PROCESS.replace("PROTOCOL, ", f"{protocol}, ", 1)
    command = [sys.executable, "-c", program, str(tmp_path / "test-0.sock")]
    process = DataProcess(Slot("test", 0), tmp_path, command, on_flows)
    tasks = Tasks()
    tasks.start(process.run(), name="supervise")
    try:
        await asyncio.wait_for(process.ready.wait(), 10)
        yield process
    finally:
        await tasks.close()


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner() as runner:
        runner.run(scenario)


def test_a_process_is_started_and_acknowledges_a_revision(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            assert not process.adopted
            await process.prepare(snapshot(4))
            process.commit(snapshot(4))
            assert await process.ask("x") == ["x", 4]
            end(process.pid)

    run(scenario())


def test_a_process_that_cannot_follow_says_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            with pytest.raises(NotAcknowledged, match="test-0: cannot"):
                await process.prepare(snapshot(13))
            end(process.pid)

    run(scenario())


def test_the_next_agent_adopts_the_process_of_the_one_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            first = process.pid
        async with supervised(tmp_path) as process:
            assert (process.pid, process.adopted) == (first, True)
            end(first)

    run(scenario())


def test_a_killed_process_comes_back_with_the_revision_in_force(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            await process.prepare(snapshot(5))
            process.commit(snapshot(5))
            first = process.pid
            os.kill(first, signal.SIGKILL)
            while process.pid == first or not process.ready.is_set():
                await asyncio.sleep(0.01)
            assert process.restarts == 1
            assert await process.ask("x") == ["x", 5]
            end(process.pid)

    run(scenario())


def test_a_successor_that_somebody_else_started_is_met_at_once_however_long_the_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataprocess, "SHORTEST_PAUSE", 60.0)
    monkeypatch.setattr(dataprocess, "LONGEST_PAUSE", 60.0)

    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            end(process.pid)
            while process.ready.is_set():
                await asyncio.sleep(0.001)
            program = PROCESS.replace("PROTOCOL, ", "wire.PROTOCOL, ", 1)
            command = [sys.executable, "-c", program, str(tmp_path / "test-0.sock")]
            successor = os.posix_spawn(command[0], command, os.environ)
            await asyncio.wait_for(process.ready.wait(), 10)
            assert (process.pid, await process.ask("x")) == (successor, ["x", 0])
            end(successor)

    run(scenario())


def test_a_reload_waits_for_a_process_that_is_coming_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            os.kill(process.pid, signal.SIGKILL)
            while process.ready.is_set():
                await asyncio.sleep(0.001)
            await process.prepare(snapshot(6))
            end(process.pid)

    run(scenario())


def test_flows_reach_the_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        got: list[Flow] = []
        async with supervised(tmp_path, on_flows=lambda told, _lost: got.extend(told.flows)) as process:
            await process.ask("flow")
            while not got:
                await asyncio.sleep(0.01)
            assert got[0].layer == "http"
            end(process.pid)

    run(scenario())


def test_a_process_that_cannot_start_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataprocess, "ACKNOWLEDGE_SECONDS", 0.3)

    async def scenario() -> None:
        process = DataProcess(Slot("test", 0), tmp_path, [sys.executable, "-c", "exit(7)"], lambda _flows, _lost: None)
        tasks = Tasks()
        tasks.start(process.run(), name="supervise")
        with pytest.raises(NotAcknowledged, match=r"test-0 did not get ready within .*exited with status 7"):
            await process.prepare(snapshot(1))
        await tasks.close()

    run(scenario())


def test_an_agent_that_gives_up_ends_what_it_started_and_not_what_it_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            first = process.pid
        async with supervised(tmp_path) as process:
            await process.end_own()
            os.kill(first, 0)
            end(first)
        async with supervised(tmp_path) as process:
            mine = process.pid
        await process.end_own()
        assert not Path(f"/proc/{mine}").exists()

    run(scenario())


def test_a_process_that_dies_over_a_revision_is_replaced_and_its_successor_asked(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with supervised(tmp_path) as process:
            first = process.pid
            os.kill(first, signal.SIGSTOP)
            asking = asyncio.gather(process.prepare(snapshot(4)))
            await asyncio.sleep(0.05)
            os.kill(first, signal.SIGKILL)
            await asyncio.wait_for(asking, 10)
            assert process.pid != first
            end(process.pid)

    run(scenario())
