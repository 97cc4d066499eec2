# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables, typed: keys and rows are the dataclasses of `l7bpf.layouts`.

Failure verdicts: those of `l7bpf.pinned`.
"""

import functools
import hashlib
import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

from l7bpf import libbpf
from l7bpf.flowtables import Conntrack, Fragments, HostFlows
from l7bpf.hostflows import CgroupEndpoint
from l7bpf.layouts import (
    U32,
    WHOLE,
    AddressKey,
    Config,
    Endpoint,
    FqdnIdentity,
    IpcacheEntry,
    IpcacheKey,
    ListenerKey,
    Metric,
    PolicyEntry,
    PolicyKey,
)
from l7bpf.pinned import Pinned, Table, raw_batches


def hash64(label: str) -> int:
    """A selector's name in the kernel: `FqdnPeer.label`, hashed."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little")


class _Numbers(Pinned):
    """Tables from something to an endpoint's id."""

    def _get(self, key: bytes) -> int | None:
        data = libbpf.lookup(self.fd, key, 4)
        return None if data is None else U32.unpack(data).value


class Endpoints(Pinned):
    """endpoint id → Endpoint. One write flips an endpoint to another policy."""

    name = "endpoints"

    def get(self, endpoint_id: int) -> Endpoint | None:
        data = libbpf.lookup(self.fd, U32(endpoint_id).pack(), self.spec.value_size)
        return None if data is None else Endpoint.unpack(data)

    def update(self, endpoint_id: int, row: Endpoint) -> None:
        if not endpoint_id:
            raise ValueError("an endpoint's id is not 0: the datapath reads 0 as none")
        self._write(U32(endpoint_id).pack(), row.pack())

    def delete(self, endpoint_id: int) -> bool:
        return libbpf.delete(self.fd, U32(endpoint_id).pack())

    def items(self) -> Iterator[tuple[int, Endpoint]]:
        for key, value in self._rows():
            yield U32.unpack(key).value, Endpoint.unpack(value)


class EndpointByIfindex(_Numbers):
    """Index of the node's end of the veth → endpoint id."""

    name = "endpoint_by_ifindex"

    def get(self, ifindex: int) -> int | None:
        return self._get(U32(ifindex).pack())

    def update(self, ifindex: int, endpoint_id: int) -> None:
        self._write(U32(ifindex).pack(), U32(endpoint_id).pack())

    def delete(self, ifindex: int) -> bool:
        return libbpf.delete(self.fd, U32(ifindex).pack())

    def items(self) -> Iterator[tuple[int, int]]:
        for key, value in self._rows():
            yield U32.unpack(key).value, U32.unpack(value).value


# Proxies look the same addresses up for every connection.


@functools.lru_cache(maxsize=1024)
def _address_key(address: str) -> bytes:
    return AddressKey(address).pack()


@functools.lru_cache(maxsize=1024)
def _ipcache_key(prefix: str) -> bytes:
    return IpcacheKey(prefix).pack()


class EndpointByAddress(_Numbers):
    """Address of a workload → endpoint id."""

    name = "endpoint_by_address"

    def get(self, address: str) -> int | None:
        return self._get(_address_key(address))

    def update(self, address: str, endpoint_id: int) -> None:
        self._write(AddressKey(address).pack(), U32(endpoint_id).pack())

    def delete(self, address: str) -> bool:
        return libbpf.delete(self.fd, AddressKey(address).pack())

    def items(self) -> Iterator[tuple[str, int]]:
        for key, value in self._rows():
            yield AddressKey.unpack(key).address, U32.unpack(value).value


class Ipcache(Pinned):
    """Prefix → identity. `get` finds the longest prefix that covers an address."""

    name = "ipcache"

    def get(self, prefix: str) -> IpcacheEntry | None:
        data = libbpf.lookup(self.fd, _ipcache_key(prefix), self.spec.value_size)
        return None if data is None else IpcacheEntry.unpack(data)

    def update(self, prefix: str, row: IpcacheEntry) -> None:
        self._write(IpcacheKey(prefix).pack(), row.pack())

    def delete(self, prefix: str) -> bool:
        return libbpf.delete(self.fd, IpcacheKey(prefix).pack())

    def items(self) -> Iterator[tuple[str, IpcacheEntry]]:
        for key, value in self._rows():
            yield IpcacheKey.unpack(key).prefix, IpcacheEntry.unpack(value)

    def addresses(self) -> Iterator[tuple[bytes, int, int]]:
        """Of every row that is one address: the address packed (4 or 16 bytes), identity, established."""
        sizes = self.spec.key_size, self.spec.value_size
        for keys, values in raw_batches(self.fd, *sizes, self.capacity):
            rows = zip(IpcacheKey.LAYOUT.iter_unpack(keys), IpcacheEntry.LAYOUT.iter_unpack(values), strict=True)
            for (prefixlen, family, address), (identity, established) in rows:
                if prefixlen == WHOLE:
                    yield address if family == 6 else address[12:], identity, established


class PolicyMap(Table[PolicyKey, PolicyEntry]):
    """Verdicts of every policy id."""

    name = "policy"
    key = PolicyKey
    row = PolicyEntry


class CgroupEndpoints(Pinned):
    """Cgroup → whose endpoint it is. The kernel makes a row, of zeros, with the first program, and takes it away."""

    name = "cgroup_endpoints"

    def get(self, cgroup_id: int) -> CgroupEndpoint | None:
        data = libbpf.lookup(self.fd, cgroup_id.to_bytes(8, sys.byteorder), self.spec.value_size)
        return None if data is None else CgroupEndpoint.unpack(data)

    def update(self, row: CgroupEndpoint) -> None:
        """Until this is done, all packets of the cgroup's processes are dropped."""
        self._write(row.cgroup_id.to_bytes(8, sys.byteorder), row.pack())


class Uplinks(Pinned):
    """Interfaces whose program can turn a packet back to a proxy. The value says nothing."""

    name = "uplinks"

    def add(self, ifindex: int) -> None:
        self._write(U32(ifindex).pack(), U32(1).pack())

    def discard(self, ifindex: int) -> None:
        libbpf.delete(self.fd, U32(ifindex).pack())

    def indexes(self) -> set[int]:
        return {U32.unpack(key).value for key, _ in self._rows()}


class FqdnIdentities(Pinned):
    """Identity that the DNS process made → its base identity and selectors."""

    name = "fqdn_identities"

    def get(self, identity: int) -> FqdnIdentity | None:
        data = libbpf.lookup(self.fd, U32(identity).pack(), self.spec.value_size)
        return None if data is None else FqdnIdentity.unpack(data)

    def update(self, identity: int, row: FqdnIdentity) -> None:
        self._write(U32(identity).pack(), row.pack())

    def delete(self, identity: int) -> bool:
        return libbpf.delete(self.fd, U32(identity).pack())

    def items(self) -> Iterator[tuple[int, FqdnIdentity]]:
        for key, value in self._rows():
            yield U32.unpack(key).value, FqdnIdentity.unpack(value)


class ConfigMap(Pinned):
    """The revision that new verdicts are dated with. Reading it is a memory access."""

    name = "config"
    _KEY = U32(0).pack()

    def __init__(self, pins: Path) -> None:
        super().__init__(pins)
        self._page = mmap.mmap(self.fd, mmap.PAGESIZE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        self._words = memoryview(self._page).cast("I")

    @property
    def revision(self) -> int:
        return self._words[0]

    def update(self, revision: int) -> None:
        """Every flow judged under another revision is judged again at its next packet."""
        self._write(self._KEY, replace(self._row(), revision=revision).pack())

    def observe(self, what: int, until_ns: int) -> None:
        """Has the datapath tell of what passes (EVENT_VERDICT, EVENT_TRACE) until then, by CLOCK_MONOTONIC."""
        self._write(self._KEY, replace(self._row(), observe=what, observe_until_ns=until_ns).pack())

    def _row(self) -> Config:
        return Config.unpack(libbpf.lookup(self.fd, self._KEY, self.spec.value_size) or Config(0).pack())

    def close(self) -> None:
        if hasattr(self, "_words"):
            self._words.release()
            self._page.close()
        super().close()


class Listeners(Pinned):
    """Where the proxies listen. A socket that is closed leaves by itself."""

    name = "listeners"

    def update(self, key: ListenerKey, socket_fd: int) -> None:
        """Registers a listening TCP or bound UDP socket."""
        self._write(key.pack(), socket_fd.to_bytes(8, sys.byteorder))

    def get(self, key: ListenerKey) -> int | None:
        """The socket's cookie, or None."""
        data = libbpf.lookup(self.fd, key.pack(), 8)
        return None if data is None else int.from_bytes(data, sys.byteorder)

    def delete(self, key: ListenerKey) -> bool:
        return libbpf.delete(self.fd, key.pack())

    def items(self) -> Iterator[tuple[ListenerKey, int]]:
        """Live listeners and their sockets' cookies."""
        for key, value in self._rows():
            yield ListenerKey.unpack(key), int.from_bytes(value, sys.byteorder)

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        """This kind of table has no batch read."""
        seen: set[bytes] = set()
        key = libbpf.next_key(self.fd, None, self.spec.key_size)
        while key is not None and key not in seen:
            seen.add(key)
            value = libbpf.lookup(self.fd, key, 8)
            if value is not None:
                yield key, value
            key = libbpf.next_key(self.fd, key, self.spec.key_size)


class Metrics(Pinned):
    """Packets and bytes by reason (layouts.METRIC_… for the rows that are none), summed over the processors."""

    name = "metrics"

    def get(self, row: int) -> Metric:
        size = self.spec.value_size
        data = libbpf.lookup(self.fd, U32(row).pack(), size * libbpf.possible_cpus())
        if data is None:
            raise KeyError(row)
        values = [Metric.unpack(data[i : i + size]) for i in range(0, len(data), size)]
        return Metric(sum(value.packets for value in values), sum(value.octets for value in values))

    def items(self) -> Iterator[tuple[int, Metric]]:
        """Rows that counted anything."""
        for row in range(self.capacity):
            metric = self.get(row)
            if metric.packets:
                yield row, metric

    def __len__(self) -> int:
        return sum(1 for _ in self.items())


@dataclass(frozen=True, slots=True)
class Maps:
    """All tables of one datapath."""

    endpoints: Endpoints
    endpoint_by_ifindex: EndpointByIfindex
    endpoint_by_address: EndpointByAddress
    ipcache: Ipcache
    policy: PolicyMap
    conntrack: Conntrack
    fragments: Fragments
    host_flows: HostFlows
    cgroup_endpoints: CgroupEndpoints
    uplinks: Uplinks
    config: ConfigMap
    fqdn_identities: FqdnIdentities
    listeners: Listeners
    metrics: Metrics

    @classmethod
    def open(cls, pins: Path) -> Self:
        """Opens every table pinned below `pins`; all or none."""
        opened: list[Pinned] = []
        try:
            for kind in (
                Endpoints,
                EndpointByIfindex,
                EndpointByAddress,
                Ipcache,
                PolicyMap,
                Conntrack,
                Fragments,
                HostFlows,
                CgroupEndpoints,
                Uplinks,
                ConfigMap,
                FqdnIdentities,
                Listeners,
                Metrics,
            ):
                opened.append(kind(pins))  # noqa: PERF401 - what was opened must be closed if one fails
        except BaseException:
            for table in opened:
                table.close()
            raise
        return cls(*opened)  # type: ignore[arg-type]

    def all(self) -> tuple[Pinned, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def close(self) -> None:
        for table in self.all():
            table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
