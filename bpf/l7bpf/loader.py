# SPDX-License-Identifier: Apache-2.0
"""Loads the datapath and pins its maps and programs below one folder of a bpffs.

A map that is pinned already is used as it is, with its contents; programs are replaced by rename(2), and running ones
stay attached until `l7bpf.attach` updates their links. Failure verdict: `DatapathError`, and what ran before runs on.
"""

import dataclasses
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from l7bpf import bpffs, compiler, libbpf
from l7bpf.bytecode import Bytecode
from l7bpf.errors import DatapathError
from l7bpf.mapspecs import MAPS
from l7bpf.programs import PROGRAMS


@dataclass(frozen=True, slots=True)
class Constants:
    """Sizes of the tables. They count when a table is made; a pinned one keeps its size."""

    max_endpoints: int = 1024
    max_endpoint_addresses: int = 8192
    max_ipcache: int = 65536
    max_policy: int = 65536
    max_conntrack: int = 131072
    max_fragments: int = 4096
    max_host_flows: int = 32768
    max_fqdn_identities: int = 16384
    max_event_bytes: int = 1 << 20
    """A power of two."""
    events_per_second: int = 10_000
    """Of each kind, per processor. Compiled into the programs."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it."""

    instructions: dict[str, int]
    """Of each program, as loaded."""
    kept_sizes: dict[str, tuple[int, int]]
    """Tables that were there with another size: name to (size, the size asked for)."""


def load(
    pins: Path,
    constants: Constants | None = None,
    *,
    cache: Path | None = None,
    python: Path = compiler.SYSTEM_PYTHON,
) -> Loaded:
    """Compiles or finds in `cache`, loads, pins. `pins` is a folder on a bpffs whose name carries `layouts.LAYOUT`."""
    constants = constants or Constants()
    if bpffs.kind_at(pins) != "bpf":
        raise DatapathError(f"{pins} is not on a bpf file system: nothing pinned there would outlive its maker")
    for folder in ("maps", "programs", "links"):
        (pins / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    check_layout(pins)
    bytecode = compiler.bytecode({"EVENTS_PER_SECOND": constants.events_per_second}, cache, python)
    kept: dict[str, tuple[int, int]] = {}
    with ExitStack() as opened:
        maps = {}
        for name, shape in bytecode.maps.items():
            wanted = _sized(name, shape, constants)
            maps[name] = _map(name, wanted, pins / "maps")
            opened.callback(os.close, maps[name])
            actual = libbpf.map_info(maps[name])
            if actual.max_entries != wanted.max_entries:
                kept[name] = (actual.max_entries, wanted.max_entries)
        check_layout(pins)
        programs = {}
        for name in PROGRAMS:
            programs[name] = _program(name, bytecode, maps)
            opened.callback(os.close, programs[name])
        _pin(programs, pins / "programs")
    sizes = {name: len(bytecode.programs[name].instructions) // libbpf.INSTRUCTION_BYTES for name in PROGRAMS}
    return Loaded(sizes, kept)


def _sized(name: str, shape: libbpf.MapInfo, constants: Constants) -> libbpf.MapInfo:
    """The shape with the size that was asked for, if one can be."""
    if name in MAPS and (field := MAPS[name].sized_by):
        return dataclasses.replace(shape, max_entries=getattr(constants, field))
    return shape


def _map(name: str, shape: libbpf.MapInfo, folder: Path) -> int:
    """The map that is pinned there, or a new one. What programs keep to themselves is not pinned."""
    path = folder / name
    if path.exists():
        return libbpf.obj_get(path)
    try:
        fd = libbpf.map_create(name, shape)
    except OSError as error:
        raise DatapathError(f"the table {name} of {shape.max_entries} cannot be made: {error.strerror}") from error
    if name in MAPS:
        try:
            libbpf.obj_pin(fd, path)
        except OSError as error:
            os.close(fd)
            raise DatapathError(f"{path}: the table cannot be pinned: {error.strerror}") from error
    return fd


def _program(name: str, bytecode: Bytecode, maps: dict[str, int]) -> int:
    kind = PROGRAMS[name]
    try:
        return libbpf.program_load(name, kind.type, kind.attach_type, bytecode.programs[name].linked(maps))
    except libbpf.ProgramRefused as error:
        raise DatapathError(f"the kernel refuses {name}: {_reason(error.log)} ({error.strerror})") from error


def _reason(log: str) -> str:
    """The verifier ends with the line that matters, then statistics."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not line.startswith("processed ")]
    return lines[-1] if lines else "no message"


def _pin(programs: dict[str, int], folder: Path) -> None:
    """All of them, each in the place of the one before it."""
    drafts: dict[str, Path] = {}
    for left in folder.iterdir():
        if left.name not in programs:
            left.unlink()  # of a process that was killed here
    try:
        for name, fd in programs.items():
            draft = folder / f"{name}_{os.getpid()}"
            libbpf.obj_pin(fd, draft)
            drafts[name] = draft
        for name in list(drafts):
            drafts.pop(name).rename(folder / name)
    except OSError as error:
        raise DatapathError(f"the programs cannot be pinned: {error}") from error
    finally:
        for draft in drafts.values():
            draft.unlink()


def check_layout(pins: Path) -> None:
    """Raises if a pinned table is not of the shape that this version expects."""
    for spec in MAPS.values():
        path = pins / "maps" / spec.name
        if not path.exists():
            continue
        with bpffs.opened(path) as fd:
            info = libbpf.map_info(fd)
        if (info.type, info.key_size, info.value_size) != (spec.type, spec.key_size, spec.value_size):
            raise DatapathError(
                f"{path} is pinned with another layout (type {info.type}, key {info.key_size}, value {info.value_size} "
                f"bytes; expected {spec.type}, {spec.key_size}, {spec.value_size}): remove {pins} or use another folder"
            )
