# SPDX-License-Identifier: Apache-2.0
"""Keeps the data-plane processes running and in step: the DNS process and the HTTP workers (`l7agent.dataprocess`)."""

import asyncio
import sys
from pathlib import Path

from l7agent import dataplane
from l7agent.dataprocess import DataProcess, NotAcknowledged, OnFlows, Slot
from l7observe.tasks import Tasks
from l7policy.model import Snapshot


class Supervisor:
    """All data-plane processes of the node."""

    def __init__(self, run: Path, config: Path | None, http_workers: int, on_flows: OnFlows) -> None:
        def command(slot: Slot) -> list[str]:
            arguments = [sys.executable, "-P", "-m", "l7agent.main"]  # -P: nothing from the working directory
            if config is not None:
                arguments += ["--config", str(config)]
            return [*arguments, slot.kind, "--slot", str(slot.number)]

        slots = [Slot("dns", 0), *(Slot("http", number) for number in range(http_workers))]
        self.processes = tuple(DataProcess(slot, run, command(slot), on_flows, dataplane.version()) for slot in slots)
        self._tasks = Tasks()

    def start(self, *, adopt: bool = True) -> None:
        """Begins to adopt (unless told not to) and start processes."""
        for process in self.processes:
            process.adopt = adopt
            self._tasks.start(process.run(), name=f"supervise-{process.slot.name}")

    async def close(self) -> None:
        """Stops supervising. The processes go on."""
        await self._tasks.close()

    async def withdraw(self) -> None:
        """Ends the processes that this agent started itself: it could not start, and nobody would look after them."""
        await self._tasks.close()
        for process in self.processes:
            await process.end_own()

    def observe(self, forwarded: bool) -> None:
        """Tells every process, now or when it comes, whether to record what passes."""
        for process in self.processes:
            process.observe(forwarded)

    @property
    def dns(self) -> DataProcess:
        """The one that knows names."""
        return self.processes[0]

    async def prepare(self, snapshot: Snapshot) -> None:
        """Gets every process ready for a revision, or none. Raises NotAcknowledged saying who was not."""
        results = await asyncio.gather(
            *(process.prepare(snapshot) for process in self.processes), return_exceptions=True
        )
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            self.abort(snapshot.revision)
            for failure in failures:
                if not isinstance(failure, NotAcknowledged):
                    raise failure
            raise NotAcknowledged("; ".join(str(failure) for failure in failures))

    def commit(self, snapshot: Snapshot) -> None:
        """Tells every process that the kernel flipped."""
        for process in self.processes:
            process.commit(snapshot)

    def abort(self, revision: int) -> None:
        """Calls a prepared revision off everywhere."""
        for process in self.processes:
            process.abort(revision)
