# SPDX-License-Identifier: Apache-2.0
"""The kernel's tables, typed: keys and rows are the dataclasses of `l7bpf.layouts`.

Each operation is one system call and takes effect for the next packet. Nothing is cached, so that several processes may
share a table. Failure verdict: `MapFull` when there is no room, `DatapathError` when a table is not there; any other
refusal of the kernel is an `OSError`. The entry that was there before stays.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Generic, Self, TypeVar

from l7bpf import libbpf
from l7bpf.errors import DatapathError, MapFull
from l7bpf.flows import ConntrackEntry, ConntrackKey, FragmentEntry, FragmentKey
from l7bpf.hostflows import CgroupEndpoint, HostFlow
from l7bpf.layouts import (
    U32,
    WHOLE,
    AddressKey,
    Config,
    Endpoint,
    FqdnIdentity,
    IpcacheEntry,
    IpcacheKey,
    Layout,
    ListenerKey,
    Metric,
    PolicyEntry,
    PolicyKey,
)
from l7bpf.mapspecs import MAPS, MapSpec

K = TypeVar("K", bound=Layout)
V = TypeVar("V", bound=Layout)

_BATCH = 1024
_PROTOCOL = 36
"""Where a conntrack key has its protocol."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """What `Conntrack.sweep` met."""

    alive: int
    expired: int
    """Removed."""


def hash64(label: str) -> int:
    """A selector's name in the kernel: `FqdnPeer.label`, hashed."""
    return int.from_bytes(hashlib.blake2b(label.encode(), digest_size=8).digest(), "little")


def raw_batches(fd: int, key_size: int, value_size: int, capacity: int) -> Iterator[tuple[bytes, bytes]]:
    """Every entry of a table that has batch reads, some twice or not at all if others write meanwhile.

    Many at a time: their keys behind each other, and their values.
    """
    position: bytes | None = None
    limit = min(_BATCH, capacity)
    while True:
        try:
            position, keys, values = libbpf.lookup_batch(fd, position, key_size, value_size, limit)
        except OSError as error:
            if error.errno != errno.ENOSPC or limit >= capacity:
                raise
            limit = min(limit * 4, capacity)  # one bucket holds more than we asked for
            continue
        yield keys, values
        if position is None:
            return


def raw_rows(fd: int, key_size: int, value_size: int, capacity: int) -> Iterator[tuple[bytes, bytes]]:
    """As `raw_batches`, one by one."""
    for keys, values in raw_batches(fd, key_size, value_size, capacity):
        for number in range(len(keys) // key_size):
            yield (
                keys[number * key_size : (number + 1) * key_size],
                values[number * value_size : (number + 1) * value_size],
            )


class _Pinned:
    """A table opened by its name below the pins."""

    name: str

    def __init__(self, pins: Path) -> None:
        self.spec: MapSpec = MAPS[self.name]
        path = pins / "maps" / self.name
        try:
            self.fd = libbpf.obj_get(path)
        except OSError as error:
            raise DatapathError(f"{path}: {error.strerror}; is the datapath loaded?") from error
        info = libbpf.map_info(self.fd)
        if (info.key_size, info.value_size) != (self.spec.key_size, self.spec.value_size):
            self.close()
            raise DatapathError(f"{path} has another layout: it belongs to another version")
        self.capacity = info.max_entries

    def close(self) -> None:
        """Lets the descriptor go; the table stays."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _write(self, key: bytes, value: bytes) -> None:
        try:
            libbpf.update(self.fd, key, value)
        except OSError as error:
            if error.errno in {errno.E2BIG, errno.ENOSPC, errno.ENOMEM}:
                raise MapFull(self.name, self.capacity) from error
            raise

    def _rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry, some twice or not at all if others write meanwhile."""
        return raw_rows(self.fd, self.spec.key_size, self.spec.value_size, self.capacity)

    def __len__(self) -> int:
        """Counts by reading them all: for status pages, not for hot paths."""
        return sum(1 for _ in self._rows())


class Table(_Pinned, Generic[K, V]):
    """A table of plain rows."""

    key: type[K]
    row: type[V]

    def get(self, key: K) -> V | None:
        """The row, or None. In a trie: of the longest prefix that covers the key."""
        data = libbpf.lookup(self.fd, key.pack(), self.spec.value_size)
        return None if data is None else self.row.unpack(data)

    def update(self, key: K, row: V) -> None:
        """Writes the row, new or over the old one."""
        self._write(key.pack(), row.pack())

    def delete(self, key: K) -> bool:
        """Removes the row; False if there was none."""
        return libbpf.delete(self.fd, key.pack())

    def items(self) -> Iterator[tuple[K, V]]:
        """Every row."""
        for key, value in self._rows():
            yield self.key.unpack(key), self.row.unpack(value)


class _Numbers(_Pinned):
    """Tables from something to an endpoint's id."""

    def _get(self, key: bytes) -> int | None:
        data = libbpf.lookup(self.fd, key, 4)
        return None if data is None else U32.unpack(data).value


class Endpoints(_Pinned):
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


class EndpointByAddress(_Numbers):
    """Address of a workload → endpoint id."""

    name = "endpoint_by_address"

    def get(self, address: str) -> int | None:
        return self._get(AddressKey(address).pack())

    def update(self, address: str, endpoint_id: int) -> None:
        self._write(AddressKey(address).pack(), U32(endpoint_id).pack())

    def delete(self, address: str) -> bool:
        return libbpf.delete(self.fd, AddressKey(address).pack())

    def items(self) -> Iterator[tuple[str, int]]:
        for key, value in self._rows():
            yield AddressKey.unpack(key).address, U32.unpack(value).value


class Ipcache(_Pinned):
    """Prefix → identity. `get` finds the longest prefix that covers an address."""

    name = "ipcache"

    def get(self, prefix: str) -> IpcacheEntry | None:
        data = libbpf.lookup(self.fd, IpcacheKey(prefix).pack(), self.spec.value_size)
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


class Conntrack(Table[ConntrackKey, ConntrackEntry]):
    """Flows that were judged. The kernel evicts the least recently used."""

    name = "conntrack"
    key = ConntrackKey
    row = ConntrackEntry

    def sweep(self) -> "Sweep":
        """Removes the flows that are over. Blocking, and long for a full table: for a thread.

        The programs ignore such entries anyhow, but they take the place of others. One that a packet renews while we
        look is put back, unless the flow has begun anew in that moment.
        """
        alive = expired = 0
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for key, value in self._rows():
            protocol = key[_PROTOCOL]
            if self.row.unpack(value).alive(protocol, now):
                alive += 1
                continue
            taken = libbpf.take(self.fd, key, self.spec.value_size)
            if taken is None:
                continue
            if not self.row.unpack(taken).alive(protocol, now):
                expired += 1
                continue
            with contextlib.suppress(FileExistsError):
                libbpf.update(self.fd, key, taken, libbpf.BPF_NOEXIST)
            alive += 1
        return Sweep(alive, expired)


class Fragments(Table[FragmentKey, FragmentEntry]):
    """Packets that come in fragments. The kernel evicts the least recently used."""

    name = "fragments"
    key = FragmentKey
    row = FragmentEntry


class HostFlows(Table[ConntrackKey, HostFlow]):
    """Flows of the node's own processes, and whose they are. The kernel evicts the least recently used."""

    name = "host_flows"
    key = ConntrackKey
    row = HostFlow


class CgroupEndpoints(_Pinned):
    """Cgroup → whose endpoint it is. The kernel makes a row, of zeros, with the first program, and takes it away."""

    name = "cgroup_endpoints"

    def get(self, cgroup_id: int) -> CgroupEndpoint | None:
        data = libbpf.lookup(self.fd, cgroup_id.to_bytes(8, sys.byteorder), self.spec.value_size)
        return None if data is None else CgroupEndpoint.unpack(data)

    def update(self, row: CgroupEndpoint) -> None:
        """Until this is done, all packets of the cgroup's processes are dropped."""
        self._write(row.cgroup_id.to_bytes(8, sys.byteorder), row.pack())


class Uplinks(_Pinned):
    """Interfaces whose program can turn a packet back to a proxy. The value says nothing."""

    name = "uplinks"

    def add(self, ifindex: int) -> None:
        self._write(U32(ifindex).pack(), U32(1).pack())

    def discard(self, ifindex: int) -> None:
        libbpf.delete(self.fd, U32(ifindex).pack())

    def indexes(self) -> set[int]:
        return {U32.unpack(key).value for key, _ in self._rows()}


class FqdnIdentities(_Pinned):
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


class ConfigMap(_Pinned):
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


class Listeners(_Pinned):
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


class Metrics(_Pinned):
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
        opened: list[_Pinned] = []
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

    def all(self) -> tuple[_Pinned, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def close(self) -> None:
        for table in self.all():
            table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
