# SPDX-License-Identifier: Apache-2.0
"""Which addresses living flows lead to, as the kernel remembers them: those of workloads and of the node itself."""

from collections.abc import Iterable

from l7bpf.flows import CONNTRACK_DENIED, ConntrackEntry, ConntrackKey
from l7bpf.hostflows import HOST_SIDE_DENIED, HostFlow
from l7bpf.layouts import pack_address
from l7bpf.maps import Maps
from l7bpf.pinned import raw_rows

_DESTINATION = slice(16, 32)
"""Where a key has it."""


def reached(maps: Maps, addresses: Iterable[str], now_ns: int) -> dict[str, set[str]]:
    """Of `addresses` those that a flow leads to which is alive by CLOCK_MONOTONIC and may pass, and who began it.

    Blocking, and long for full tables: for a thread.
    """
    wanted = {pack_address(address): address for address in addresses}
    candidates = {packed for _, packed in wanted}
    found: dict[str, set[str]] = {}
    for table in (maps.conntrack, maps.host_flows):
        spec = table.spec
        for raw, value in raw_rows(table.fd, spec.key_size, spec.value_size, table.capacity):
            if raw[_DESTINATION] not in candidates:
                continue
            key = ConntrackKey.unpack(raw)
            address = wanted.get(pack_address(key.destination))
            if address is not None and _passes(table.row.unpack(value), key.protocol, now_ns):
                found.setdefault(address, set()).add(key.source)
    return found


def _passes(row: ConntrackEntry | HostFlow, protocol: int, now_ns: int) -> bool:
    if isinstance(row, HostFlow):
        return not row.began.flags & HOST_SIDE_DENIED and row.alive(protocol, now_ns)
    return not row.flags & CONNTRACK_DENIED and row.alive(protocol, now_ns)
