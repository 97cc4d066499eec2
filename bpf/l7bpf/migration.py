# SPDX-License-Identifier: Apache-2.0
"""Tables of an older layout, taken over into those of this one: an upgrade keeps verdicts, names and connections.

Each layout has a folder of its own below the pins' parent. The new one is made beside the old, whose programs go on
judging by their own tables. Then, in this order, each of which may be cut short and begun again:

    copy      every row, made into what this version reads; the revision last, which says that the copy is whole
    flip      links are given the new programs and moved over, by whoever attaches (`l7bpf.attach`)
    follow    flows that began since the copy
    remove    the old folder

A layout from which no steps lead here (a newer one, or one that was given up) is not copied: flows are then judged as
if they began now. Failure verdict: `DatapathError`; before the flip nothing has changed for any packet.
"""

import errno
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from l7bpf import bpffs, libbpf
from l7bpf.errors import DatapathError, MapFull
from l7bpf.mapspecs import MAPS
from l7bpf.pinned import raw_rows

Convert = Callable[[bytes, bytes], tuple[bytes, bytes] | None]
"""A row's key and value in the next layout, or None to leave it behind."""


@dataclass(frozen=True, slots=True)
class Step:
    """From one layout to the next."""

    before: str
    after: str
    shapes: Mapping[str, tuple[int, int]]
    """Key and value size that tables had before, where they differ from now."""
    convert: Mapping[str, Convert] = field(default_factory=dict)
    """For tables whose rows became others."""


STEPS: Final = (
    Step("v1", "v2", {"policy": (16, 32)}, {"policy": lambda key, value: (key + bytes(4), value)}),
    Step("v2", "v3", {}),
)
"""v2: keys of `policy` are four bytes longer, so that its rows' counters are aligned. v3: tables for the node's own
processes, which an older layout has no rows of."""

TABLES: Final = (
    "fqdn_identities",
    "ipcache",
    "policy",
    "endpoint_by_address",
    "endpoint_by_ifindex",
    "endpoints",
    "conntrack",
    "host_flows",
    "config",
)
"""What is copied, in this order. Counters and fragments begin anew, listeners are their owners' to register."""

_FLOWS: Final = "conntrack"


def older(pins: Path) -> list[Path]:
    """Folders of other layouts beside this one, the newest first."""
    if not pins.parent.is_dir():
        return []
    found = [path for path in pins.parent.iterdir() if path != pins and (path / "maps").is_dir() and _number(path.name)]
    return sorted(found, key=lambda path: _number(path.name), reverse=True)


def chain(before: str, after: str, steps: Sequence[Step] = STEPS) -> list[Step] | None:
    """The steps from one layout to another, None if none lead there."""
    found: list[Step] = []
    while before != after:
        step = next((step for step in steps if step.before == before), None)
        if step is None:
            return None
        found.append(step)
        before = step.after
    return found


def copy(old: Path, new: Path, steps: Sequence[Step] = STEPS) -> dict[str, int] | None:
    """Copies every row of the tables pinned below `old`. Returns how many of which; None: no steps lead here."""
    way = chain(old.name, new.name, steps)
    if way is None:
        return None
    return {name: _copy(old, new, name, way) for name in TABLES if (old / "maps" / name).exists()}


def follow(old: Path, new: Path, steps: Sequence[Step] = STEPS) -> int:
    """Copies flows that the old programs made since, where the new ones know none. Returns how many it looked at."""
    way = chain(old.name, new.name, steps)
    return 0 if way is None else _copy(old, new, _FLOWS, way, libbpf.BPF_NOEXIST)


def remove(old: Path) -> None:
    """Removes a folder, and with it what is attached by its links and held by nothing else."""
    for folder in ("links", "programs", "maps"):
        if (old / folder).exists():
            shutil.rmtree(old / folder)
    if old.is_mount():  # a file system of its own, see `l7bpf.bpffs.ensure`
        bpffs.unmount(old)
    old.rmdir()


def _number(name: str) -> int:
    return int(name[1:]) if name[:1] == "v" and name[1:].isdecimal() else 0


def _copy(old: Path, new: Path, name: str, way: Sequence[Step], flags: int = libbpf.BPF_ANY) -> int:
    spec = MAPS[name]
    shape = next((step.shapes[name] for step in way if name in step.shapes), (spec.key_size, spec.value_size))
    count = 0
    with bpffs.opened(old / "maps" / name) as source, bpffs.opened(new / "maps" / name) as target:
        info, room = libbpf.map_info(source), libbpf.map_info(target).max_entries
        if (info.key_size, info.value_size) != shape:
            raise DatapathError(f"{old / 'maps' / name} is not as {old.name} had it: remove {old} to begin anew")
        for key, value in raw_rows(source, *shape, info.max_entries):
            row = _converted(key, value, name, way)
            if row is None:
                continue
            try:
                libbpf.update(target, *row, flags)
            except OSError as error:
                if error.errno == errno.EEXIST:
                    continue
                if error.errno in {errno.E2BIG, errno.ENOSPC, errno.ENOMEM}:
                    raise MapFull(name, room) from error
                raise
            count += 1
    return count


def _converted(key: bytes, value: bytes, name: str, way: Sequence[Step]) -> tuple[bytes, bytes] | None:
    row: tuple[bytes, bytes] | None = (key, value)
    for step in way:
        if row is not None and name in step.convert:
            row = step.convert[name](*row)
    return row
