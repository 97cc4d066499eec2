# SPDX-License-Identifier: Apache-2.0
"""One data-plane process as the agent sees it: adopted when it is there, started when it is not, and kept in step.

It lives in a session of its own and survives the agent. It counts as ready only once it has acknowledged the revision
in force; when it is down it is started again at once, then after growing pauses. A successor that somebody else
started (a guardian) is met at once. Its end of the conversation is `l7agent.control_port`.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from l7agent import wire
from l7policy.model import Snapshot

START_SECONDS: Final = 10.0
ACKNOWLEDGE_SECONDS: Final = 10.0
SHORTEST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 5.0
STABLE_SECONDS: Final = 10.0
COMEBACK_SECONDS: Final = 3.0
"""What a guardian gets to start a killed process again."""

OnFlows = Callable[[wire.Flows, int], None]
"""Takes flows, and how many were lost since the ones before."""

_log = logging.getLogger(__name__)


class NotAcknowledged(Exception):
    """A process did not get ready for a revision; nothing may be flipped."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for a process: ``dns-0``, ``http-1``."""

    kind: str
    number: int

    @property
    def name(self) -> str:
        """As shown to people and used for its socket."""
        return f"{self.kind}-{self.number}"


def _dead(handle: int) -> bool:
    return bool(select.select([handle], [], [], 0)[0])


class DataProcess:
    """One supervised process."""

    def __init__(self, slot: Slot, run: Path, command: list[str], on_flows: OnFlows, version: str = "") -> None:
        self.slot = slot
        self.pid = 0
        self.state = "down"
        self.revision = 0
        self.restarts = 0
        self.adopted = False
        self.adopt = True
        """Whether a process that another agent started may stay."""
        self.flows_lost = 0
        self.problem = ""
        """Why it was lost last, empty once it is ready."""
        self._socket = run / f"{slot.name}.sock"
        self._command = command
        self._version = version
        self._on_flows = on_flows
        self._observed = False
        self._active: Snapshot | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._child = 0
        """Pid of the process this agent started itself, 0 if it adopted it: only that one can be waited for."""
        self._handle: int | None = None
        self._held = 0
        """Whose handle it is: the process, or its guardian."""
        self._guarded = False
        self._worker: int | None = None
        """A handle of the process that a guardian looks after, which may outlive it."""
        self._prepared: dict[int, asyncio.Future[str]] = {}
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self.ready = asyncio.Event()
        """Set while the process judges under the revision in force (or waits for the first one)."""

    async def run(self) -> None:
        """Supervises until cancelled. Leaves the process running: it must survive the agent."""
        pause = SHORTEST_PAUSE
        while True:
            began = time.monotonic()
            try:
                reader = await self._connect()
                await self._serve(reader)
            except (OSError, wire.WireError, TimeoutError) as error:
                self.problem = str(error)
                _log.warning("%s: %s", self.slot.name, error)
            finally:
                self._lost()
            pause = SHORTEST_PAUSE if time.monotonic() - began > STABLE_SECONDS else min(pause * 2, LONGEST_PAUSE)
            await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Waits before the next attempt, unless the one that died has a successor which is there already."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if any(_dead(handle) for handle in (self._handle, self._worker) if handle is not None) and self._listens():
                return
            await asyncio.sleep(min(left, 0.01))

    def _listens(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            return probe.connect_ex(str(self._socket)) == 0

    async def _connect(self) -> asyncio.StreamReader:
        try:
            reader, self._writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            if self._handle is None or not await self._comes_back():
                await self._start()
            reader, self._writer = await self._await_socket()
            self.adopted = False
        else:
            self.adopted = not self._child
        return reader

    async def _start(self, *more: str) -> None:
        if self._handle is not None:
            # It does not listen (any more): whatever is left of it must not run beside the next one.
            await self._kill()
            self.restarts += 1
        self.state = "starting"
        # Its own session: a signal to the agent's group must not reach it. Not asyncio's subprocess, which would end
        # the process together with the agent's loop.
        pid = os.posix_spawn(
            self._command[0],
            [*self._command, *more],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)],
            setsid=True,
        )
        self._hold(pid)
        self._child = pid

    async def _comes_back(self) -> bool:
        """Whether the process that went away has a guardian which starts it again at once."""
        if not self._guarded or self._handle is None:
            return False
        # A worker that outlived its guardian has started a successor, which then takes over.
        orphan = _dead(self._handle)
        if orphan and (self._worker is None or _dead(self._worker)):
            return False
        deadline = time.monotonic() + COMEBACK_SECONDS
        while time.monotonic() < deadline and (orphan or not _dead(self._handle)):
            if self._listens():
                return True
            await asyncio.sleep(0.005)
        return False

    async def _replace(self) -> None:
        """Starts a successor, which takes over by itself and ends the one that `_handle` is of."""
        old, self._handle = self._handle, None
        await self._start("--replace")
        deadline = time.monotonic() + START_SECONDS
        while old is not None and not _dead(old) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if old is not None:
            os.close(old)
        self.restarts += 1

    def _hold(self, pid: int) -> None:
        """Remembers a process by a handle: its number may be another's by the time it is needed."""
        if self._handle is not None:
            os.close(self._handle)
        self._handle = os.pidfd_open(pid)
        self.pid = self._held = pid

    async def _kill(self) -> None:
        if self._handle is None:
            return
        for handle in (self._handle, self._worker):  # in this order, or the guardian would start another worker
            if handle is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
        self._let_go_of_worker()
        while self._child and self._exit_status() is None:
            await asyncio.sleep(0.001)
        os.close(self._handle)
        self._handle = None

    def _let_go_of_worker(self) -> None:
        if self._worker is not None:
            os.close(self._worker)
            self._worker = None

    async def end_own(self) -> None:
        """Ends the process if this agent started it, and not one before."""
        if self._child:
            await self._kill()

    def _exit_status(self) -> int | None:
        """Of the process this agent started, None while it runs. Reaps it."""
        if not self._child:
            return None
        pid, status = os.waitpid(self._child, os.WNOHANG)
        if not pid:
            return None
        self._child = 0
        return os.waitstatus_to_exitcode(status)

    async def _await_socket(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return await asyncio.open_unix_connection(str(self._socket))
            except OSError:
                if (status := self._exit_status()) is not None:
                    raise OSError(f"exited with status {status} before it was ready") from None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not ready within {START_SECONDS:.0f} s") from None
                await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        hello = await asyncio.wait_for(wire.read_from_process(reader), START_SECONDS)
        if not isinstance(hello, wire.Hello):
            raise wire.WireError("did not say hello")
        lasting = hello.guardian or hello.pid
        stranger = "speaks another version's words" if hello.protocol != wire.PROTOCOL else ""
        if lasting != self._child and not self.adopt:
            stranger = "uses kernel tables that are gone"
        if stranger:
            self._hold(lasting)
            await self._kill()
            raise wire.WireError(f"pid {hello.pid} {stranger}; replacing it")
        if lasting != self._held:
            self._hold(lasting)
        elif self.pid not in (hello.pid, self._held):
            self.restarts += 1  # by its guardian
        self.pid = hello.pid
        self._guarded = bool(hello.guardian)
        self._let_go_of_worker()
        if self._guarded:
            self._worker = os.pidfd_open(hello.pid)
        if hello.guardian and hello.version != self._version:
            await self._replace()
            raise wire.WireError(f"pid {hello.pid} is of version {hello.version}; its successor takes over")
        self.revision = hello.revision
        self.flows_lost = hello.lost
        self._send(wire.Observe(self._observed))
        if self._active is None:
            self._become_ready()
        else:
            self._send(wire.Prepare(self._active))
            self._send(wire.Commit(self._active.revision))
        while (message := await wire.read_from_process(reader)) is not None:
            match message:
                case wire.Prepared(revision, error):
                    self._acknowledged(revision, error)
                case wire.Flows(lost=lost):
                    self._on_flows(message, max(0, lost - self.flows_lost))
                    self.flows_lost = lost
                case wire.Answer(number, value):
                    future = self._answers.pop(number, None)
                    if future is not None and not future.done():
                        future.set_result(value)
                case wire.Hello():
                    raise wire.WireError("said hello twice")

    def _become_ready(self) -> None:
        self.adopt = True  # what comes after this one works with the same kernel tables
        self.state = "ready"
        self.problem = ""
        self.ready.set()
        _log.info("%s: ready (pid %d, %s)", self.slot.name, self.pid, "adopted" if self.adopted else "started")

    def _acknowledged(self, revision: int, error: str) -> None:
        future = self._prepared.pop(revision, None)
        if future is not None and not future.done():
            future.set_result(error)
        elif self._active is not None and revision == self._active.revision:
            if error:
                raise wire.WireError(f"cannot judge under revision {revision}: {error}")
            self.revision = revision
            self._become_ready()

    def _lost(self) -> None:
        self.ready.clear()
        self.state = "down"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for future in (*self._prepared.values(), *self._answers.values()):
            if not future.done():
                future.set_exception(ConnectionError(f"{self.slot.name} went away"))
        self._prepared.clear()
        self._answers.clear()

    def _send(self, message: wire.ToProcess) -> None:
        if self._writer is None:
            raise ConnectionError(f"{self.slot.name} is not connected")
        self._writer.write(wire.frame(message))

    async def prepare(self, snapshot: Snapshot) -> None:
        """Gives it a revision to get ready for. Raises NotAcknowledged."""
        refusal, awaited = None, "get ready"
        try:
            async with asyncio.timeout(ACKNOWLEDGE_SECONDS):
                while refusal is None:
                    await self.ready.wait()
                    awaited = "answer"
                    # One that dies over it is replaced, and its successor is asked.
                    with contextlib.suppress(ConnectionError):
                        refusal = await self._preparation(snapshot)
        except TimeoutError:
            why = f" ({self.problem})" if self.problem else ""
            raise NotAcknowledged(
                f"{self.slot.name} did not {awaited} within {ACKNOWLEDGE_SECONDS:.0f} s{why}"
            ) from None
        if refusal:
            raise NotAcknowledged(f"{self.slot.name}: {refusal}")

    async def _preparation(self, snapshot: Snapshot) -> str:
        """Its answer, empty for yes. Raises ConnectionError."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._prepared[snapshot.revision] = future
        try:
            self._send(wire.Prepare(snapshot))
            return await future
        finally:
            self._prepared.pop(snapshot.revision, None)

    def commit(self, snapshot: Snapshot) -> None:
        """Tells it that the kernel flipped. A process that is down learns of it when it is back."""
        self._active = snapshot
        if self._writer is not None:
            self._send(wire.Commit(snapshot.revision))
            self.revision = snapshot.revision

    def abort(self, revision: int) -> None:
        """Calls a prepared revision off."""
        if self._writer is not None:
            self._send(wire.Abort(revision))

    def observe(self, forwarded: bool) -> None:
        """Tells it whether to record what passes."""
        self._observed = forwarded
        if self._writer is not None:
            self._send(wire.Observe(forwarded))

    async def ask(self, question: str) -> Any:
        """Puts a question. Raises ConnectionError or TimeoutError."""
        self._asked += 1
        number = self._asked
        future = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self._send(wire.Ask(number, question))
        try:
            return await asyncio.wait_for(future, ACKNOWLEDGE_SECONDS)
        finally:
            self._answers.pop(number, None)
