# SPDX-License-Identifier: Apache-2.0
"""A data-plane process's side of the wire: it listens, obeys one agent at a time, and sends its flows.

It never waits for the agent: flows go to a bounded buffer, and what finds it full is counted. Without an agent the
process goes on judging with what it has.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from l7agent import wire
from l7observe import flowbytes
from l7observe.backlog import Backlog, Rows
from l7observe.demand import Demand
from l7observe.flow import Flow
from l7observe.tasks import Tasks
from l7policy.model import Snapshot
from l7policy.verdict import Verdict

BUFFERED_FLOWS: Final = 8192
"""Of those that passed, and as many that did not: the ones do not push the others out."""
BUFFERED_BYTES: Final = 16 << 20
"""Of either, too: a path may be long."""
BATCH: Final = 256
BATCH_PASSED: Final = 1024
"""Of those that passed, which nobody looks into on their way."""
FLUSH_SECONDS: Final = 0.05
ROWS_AT_ONCE: Final = 64


class Role(Protocol):
    """What the agent steers in a data-plane process."""

    def prepare(self, snapshot: Snapshot) -> str:
        """Gets ready for a revision. Returns an error, or an empty string."""

    def commit(self, revision: int) -> None:
        """The kernel has flipped to this revision."""

    def abort(self, revision: int) -> None:
        """The prepared revision is called off."""

    def answer(self, question: str) -> Any:
        """Plain values for the agent's API. An iterator is read in pieces, with other work in between."""


class AlreadyRunning(Exception):
    """Another process serves this socket."""


async def _gathered(answer: Any) -> Any:
    """An iterator's rows, each encoded as it comes: a long list must not keep queries waiting."""
    if not isinstance(answer, Iterator):
        return answer
    rows: list[msgspec.Raw] = []
    for row in answer:
        rows.append(msgspec.Raw(msgspec.msgpack.encode(row)))
        if not len(rows) % ROWS_AT_ONCE:
            await asyncio.sleep(0)
    return rows


class ControlPort:
    """Serves one role on a unix socket (mode 0600)."""

    def __init__(
        self, path: Path, hello: Callable[[], wire.Hello], role: Role, shutdown: Callable[[float], Awaitable[None]]
    ) -> None:
        self.demand = Demand()
        """What the agent wants to be told, for the process's server."""
        self._path = path
        self._hello = hello
        self._role = role
        self._shutdown = shutdown
        self._tasks = Tasks()
        self._flows = Backlog(BUFFERED_FLOWS, BUFFERED_BYTES)
        self._passed = Rows(BUFFERED_FLOWS, BUFFERED_BYTES)
        self._lost = 0
        self._writer: asyncio.StreamWriter | None = None
        self._wake = asyncio.Event()
        self._server: asyncio.Server | None = None

    def record(self, flow: Flow) -> None:
        """Queues a flow for the agent; never blocks."""
        if flow.verdict == Verdict.FORWARDED:
            self.passed(flowbytes.row(flow))
        else:
            self._taken(self._flows.add(flow))

    def passed(self, row: bytes) -> None:
        """Queues a flow that passed, as a row of `flowbytes`; never blocks."""
        self._taken(self._passed.add(row))

    def _taken(self, taken: bool) -> None:
        if not taken:
            self._lost += 1
        elif not self._wake.is_set():
            self._wake.set()

    async def start(self) -> None:
        """Binds the socket. Raises AlreadyRunning if a live process holds it."""
        if self._path.exists():
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
                try:
                    probe.connect(str(self._path))
                except OSError:
                    self._path.unlink(missing_ok=True)
                else:
                    raise AlreadyRunning(f"{self._path}: another process is serving it")
        old_mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(self._path))
        finally:
            os.umask(old_mask)
        self._tasks.start(self._send_flows(), name="send-flows")

    async def close(self) -> None:
        """Stops listening and removes the socket."""
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.close()
        self._path.unlink(missing_ok=True)
        await self._tasks.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The newest agent wins: an older one's connection is what a killed agent left behind.
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        writer.write(wire.frame(msgspec.structs.replace(self._hello(), lost=self._lost)))
        self._wake.set()
        try:
            while (message := await wire.read_from_agent(reader)) is not None:
                await self._obey(message, writer)
        except wire.WireError:
            pass  # the agent replaces a process it cannot talk to
        finally:
            if self._writer is writer:
                self._writer = None
                self.demand.forwarded = False
            writer.close()

    async def _obey(self, message: wire.ToProcess, writer: asyncio.StreamWriter) -> None:
        match message:
            case wire.Prepare(snapshot):
                error = self._role.prepare(snapshot)
                writer.write(wire.frame(wire.Prepared(snapshot.revision, error)))
            case wire.Commit(revision):
                self._role.commit(revision)
            case wire.Abort(revision):
                self._role.abort(revision)
            case wire.Observe(forwarded):
                self.demand.forwarded = forwarded
            case wire.Ask(number, question):
                writer.write(wire.frame(wire.Answer(number, await _gathered(self._role.answer(question)))))
            case wire.Shutdown(drain):
                await self._shutdown(drain)

    async def _send_flows(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (self._flows or self._passed) and self._writer is not None:
                flows, passed = self._flows.take(BATCH), self._passed.take(BATCH_PASSED)
                message = wire.Flows(flows, self._lost, flowbytes.batch(passed) if passed else b"", len(passed))
                self._writer.write(wire.frame(message))
                try:
                    await self._writer.drain()
                except ConnectionError:
                    self._lost += len(flows) + len(passed)
            # Batches grow under load instead of the number of writes.
            await asyncio.sleep(FLUSH_SECONDS)
