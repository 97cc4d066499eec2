# SPDX-License-Identifier: Apache-2.0
"""Who listens, and therefore what the datapath and the proxies should tell of beyond denies.

The kernel is told for a few seconds at a time, again and again: an agent that dies while somebody listens leaves
nothing on the packets' way. The proxies stop by themselves when their agent goes.
"""

import asyncio
import time
from typing import Final

from l7agent.kernel_state import KernelState
from l7agent.supervisor import Supervisor
from l7bpf.layouts import EVENT_TRACE, EVENT_VERDICT
from l7observe.flow import FlowType
from l7observe.hub import Hub, Lost

RENEW_SECONDS: Final = 1.0
LEASE_SECONDS: Final = 4.0

_EVENTS: Final = {FlowType.POLICY_VERDICT: EVENT_VERDICT, FlowType.TRACE: EVENT_TRACE}


class Observation:
    """The hub of one agent, and its demand passed on."""

    def __init__(self, supervisor: Supervisor, *, always: bool) -> None:
        """`always`: the proxies tell of what they let through even if nobody listens."""
        self.hub = Hub(self._demanded)
        self._supervisor = supervisor
        self._always = always
        self._kernel: KernelState | None = None
        self._kernel_lost = 0

    def begin(self, kernel: KernelState) -> None:
        """The datapath is there."""
        self._kernel = kernel
        self._kernel_lost = self.kernel_lost
        self._demanded(self.hub.demand)

    @property
    def kernel_lost(self) -> int:
        """Events that the datapath could not tell of, since its tables were made."""
        return self._kernel.events_lost() + self._kernel.passed_lost() if self._kernel is not None else 0

    @property
    def proxies_lost(self) -> int:
        """Records that the processes of now could not hand over."""
        return sum(process.flows_lost for process in self._supervisor.processes)

    def lost(self, source: str, count: int) -> None:
        """Tells who listens that flows were lost before they came here."""
        if count > 0:
            self.hub.tell(Lost(source, count))

    async def keep(self) -> None:
        """Renews what the kernel was told, and tells what it lost."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if not self.hub.subscribers:
                continue
            self._observe(self.hub.demand)
            now = self.kernel_lost
            self.lost("kernel", now - self._kernel_lost)
            self._kernel_lost = now

    def close(self) -> None:
        """Ends the hub. The kernel tells no more of what passes."""
        self.hub.close()
        self._observe(frozenset())

    def _demanded(self, types: frozenset[FlowType]) -> None:
        self._supervisor.observe(self._always or FlowType.L7 in types)
        self._kernel_lost = self.kernel_lost
        self._observe(types)

    def _observe(self, types: frozenset[FlowType]) -> None:
        if self._kernel is None:
            return
        what = sum(bit for kind, bit in _EVENTS.items() if kind in types)
        until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(LEASE_SECONDS * 1e9) if what else 0
        self._kernel.observe(what, until)
