# SPDX-License-Identifier: Apache-2.0
"""One table of the kernel, opened by its name below the pins.

Each operation is one system call and takes effect for the next packet. Nothing is cached, so that several processes may
share a table. Failure verdict: `MapFull` when there is no room, `DatapathError` when a table is not there; any other
refusal of the kernel is an `OSError`. The entry that was there before stays.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

from l7bpf import libbpf
from l7bpf.errors import DatapathError, MapFull
from l7bpf.layouts import Layout
from l7bpf.mapspecs import MAPS, MapSpec

K = TypeVar("K", bound=Layout)
V = TypeVar("V", bound=Layout)

_BATCH = 1024


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


class Pinned:
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


class Table(Pinned, Generic[K, V]):
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
