# SPDX-License-Identifier: Apache-2.0
"""Backlog and Rows: flows that wait for a reader, bounded by their number and by the bytes that they take.

A path may be as long as a request's head, so the number alone bounds nothing that a workload could not make large.
Adding never waits and never fails: what finds no room is not taken, and whoever adds counts it.
"""

from collections import deque
from typing import Final

from l7observe.flow import Flow

PLAIN: Final = 1024
"""Bytes that a flow takes beside what its workload chose the length of."""


def weight(flow: Flow) -> int:
    """About how many bytes the flow takes in memory, or on its way."""
    size = PLAIN
    if flow.http is not None:
        size += len(flow.http.path) + len(flow.http.host)
        if flow.http.missing_headers or flow.http.rejected_headers:
            size += sum(map(len, (*flow.http.missing_headers, *flow.http.rejected_headers)))
    elif flow.dns is not None:
        size += sum(map(len, (*flow.dns.addresses, *flow.dns.cnames)))
    elif flow.tls is not None:
        size += sum(map(len, flow.tls.alpn))
    return size


class Backlog:
    """First in, first out."""

    __slots__ = ("_bytes", "_flows", "_most", "_most_bytes")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._flows: deque[tuple[Flow, int]] = deque()
        self._bytes = 0
        self._most = most
        self._most_bytes = most_bytes

    def __len__(self) -> int:
        return len(self._flows)

    def add(self, flow: Flow) -> bool:
        """Whether there was room for it."""
        size = weight(flow)
        if len(self._flows) >= self._most or self._bytes + size > self._most_bytes:
            return False
        self._bytes += size
        self._flows.append((flow, size))
        return True

    def take(self, count: int) -> list[Flow]:
        """The oldest, up to so many."""
        taken = []
        for _ in range(min(count, len(self._flows))):
            flow, size = self._flows.popleft()
            self._bytes -= size
            taken.append(flow)
        return taken


class Rows:
    """First in, first out, of flows that are bytes already (`l7observe.flowbytes`)."""

    __slots__ = ("_bytes", "_most", "_most_bytes", "_rows")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._rows: list[bytes] = []
        self._bytes = 0
        self._most = most
        self._most_bytes = most_bytes

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: bytes) -> bool:
        """Whether there was room for it."""
        size = self._bytes + len(row)
        if size > self._most_bytes or len(self._rows) >= self._most:
            return False
        self._bytes = size
        self._rows.append(row)
        return True

    def take(self, count: int) -> list[bytes]:
        """The oldest, up to so many."""
        taken, self._rows = self._rows[:count], self._rows[count:]
        self._bytes -= sum(map(len, taken))
        return taken
