# SPDX-License-Identifier: Apache-2.0
"""What left the tables of flows and fragments: swept because it was over, or pushed out because the table was full.

The kernel does not tell what it evicts. The programs count what they make and delete, `sweep` what it removes; the rest
that is not there any more was evicted. Most of it blocks, for a thread. May decide nothing. Failure verdict: OSError.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from l7bpf.flowtables import FlowTable
from l7bpf.layouts import (
    METRIC_CONNTRACK_GONE,
    METRIC_CONNTRACK_MADE,
    METRIC_FRAGMENTS_MADE,
    METRIC_HOST_FLOWS_GONE,
    METRIC_HOST_FLOWS_MADE,
)
from l7bpf.maps import Maps

_ROWS: Final[Mapping[str, tuple[int, int | None]]] = {
    "conntrack": (METRIC_CONNTRACK_MADE, METRIC_CONNTRACK_GONE),
    "host_flows": (METRIC_HOST_FLOWS_MADE, METRIC_HOST_FLOWS_GONE),
    "fragments": (METRIC_FRAGMENTS_MADE, None),
}
"""Where the programs count what they make, and what they delete."""
SWEEP_SECONDS: Final = 30.0
"""How often what is over is swept from the tables."""
EVICTING: Final = frozenset(_ROWS)
"""Tables that make room by themselves: full is what they are meant to be."""


class Evictions:
    """Counts since it was made."""

    def __init__(self, maps: Maps) -> None:
        self._maps = maps
        self._tables: tuple[FlowTable[Any, Any], ...] = (maps.conntrack, maps.host_flows, maps.fragments)
        self.expired: Counter[str] = Counter()
        """By table: removed by `sweep`."""
        self.evicted: Counter[str] = Counter()
        """By table, as of the last `count`."""
        self._before = {table.name: self._left(table.name) - len(table) for table in self._tables}

    def sweep(self) -> None:
        """Removes what is over."""
        for table in self._tables:
            self.expired[table.name] += table.sweep().expired

    async def keep_sweeping(self) -> None:
        """For ever, beside the loop."""
        while True:
            await asyncio.to_thread(self.sweep)
            await asyncio.sleep(SWEEP_SECONDS)

    def count(self, name: str, entries: int) -> None:
        """Takes note that the table holds so many now. Packets pass meanwhile: never less than it was."""
        evicted = self._left(name) - self._before[name] - self.expired[name] - entries
        self.evicted[name] = max(self.evicted[name], evicted)

    def _left(self, name: str) -> int:
        made, gone = _ROWS[name]
        metrics = self._maps.metrics
        return metrics.get(made).packets - (0 if gone is None else metrics.get(gone).packets)
