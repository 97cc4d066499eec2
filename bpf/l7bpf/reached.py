# SPDX-License-Identifier: Apache-2.0
"""Which addresses living flows lead to, as the kernel remembers them."""

from collections.abc import Iterable

from l7bpf.flows import CONNTRACK_DENIED, ConntrackKey
from l7bpf.layouts import pack_address
from l7bpf.maps import Conntrack, raw_rows

_DESTINATION = slice(16, 32)
"""Where a conntrack key has it."""


def reached(conntrack: Conntrack, addresses: Iterable[str], now_ns: int) -> dict[str, set[str]]:
    """Of `addresses` those that a flow leads to which is alive by CLOCK_MONOTONIC and may pass, and who began it.

    Blocking, and long for a full table: for a thread.
    """
    wanted = {pack_address(address): address for address in addresses}
    candidates = {packed for _, packed in wanted}
    found: dict[str, set[str]] = {}
    spec = conntrack.spec
    for raw, value in raw_rows(conntrack.fd, spec.key_size, spec.value_size, conntrack.capacity):
        if raw[_DESTINATION] not in candidates:
            continue
        key, entry = ConntrackKey.unpack(raw), conntrack.row.unpack(value)
        address = wanted.get(pack_address(key.destination))
        if address is not None and not entry.flags & CONNTRACK_DENIED and entry.alive(key.protocol, now_ns):
            found.setdefault(address, set()).add(key.source)
    return found
