# SPDX-License-Identifier: Apache-2.0
"""The tables of what passes: flows that were judged, those of the node's own processes, and fragments.

The programs write them; here they are read, and swept. A full one is no error: the kernel evicts what was used least
recently. What the programs no longer go by takes the place of others all the same, until it is swept.
"""

import contextlib
import time
from dataclasses import dataclass

from l7bpf import libbpf
from l7bpf.flows import ConntrackEntry, ConntrackKey, FragmentEntry, FragmentKey
from l7bpf.hostflows import HostFlow
from l7bpf.pinned import K, Table, V

_PROTOCOL = 36
"""Where a conntrack key has its protocol."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What `FlowTable.sweep` met."""

    alive: int
    expired: int
    """Removed."""


class FlowTable(Table[K, V]):
    """A table whose rows are over after some silence."""

    def sweep(self) -> Sweep:
        """Removes what is over. Blocking, and long for a full table: for a thread.

        A row that a packet renews while we look is put back, unless its flow has begun anew in that moment.
        """
        alive = expired = 0
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for key, value in self._rows():
            if self._alive(key, value, now):
                alive += 1
                continue
            taken = libbpf.take(self.fd, key, self.spec.value_size)
            if taken is None:
                continue
            if not self._alive(key, taken, now):
                expired += 1
                continue
            with contextlib.suppress(FileExistsError):
                libbpf.update(self.fd, key, taken, libbpf.BPF_NOEXIST)
            alive += 1
        return Sweep(alive, expired)

    def _alive(self, key: bytes, value: bytes, now_ns: int) -> bool:
        raise NotImplementedError


class Conntrack(FlowTable[ConntrackKey, ConntrackEntry]):
    """Flows that were judged."""

    name = "conntrack"
    key = ConntrackKey
    row = ConntrackEntry

    def _alive(self, key: bytes, value: bytes, now_ns: int) -> bool:
        return self.row.unpack(value).alive(key[_PROTOCOL], now_ns)


class HostFlows(FlowTable[ConntrackKey, HostFlow]):
    """Flows of the node's own processes, and whose they are."""

    name = "host_flows"
    key = ConntrackKey
    row = HostFlow

    def _alive(self, key: bytes, value: bytes, now_ns: int) -> bool:
        return self.row.unpack(value).alive(key[_PROTOCOL], now_ns)


class Fragments(FlowTable[FragmentKey, FragmentEntry]):
    """Packets that come in fragments."""

    name = "fragments"
    key = FragmentKey
    row = FragmentEntry

    def _alive(self, key: bytes, value: bytes, now_ns: int) -> bool:  # noqa: ARG002 - whatever its key
        return self.row.unpack(value).alive(now_ns)
