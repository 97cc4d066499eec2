# SPDX-License-Identifier: Apache-2.0
"""Compiles the datapath for this node and pins its maps and programs below one folder of a bpffs.

A map that is pinned already is used as it is, with its contents; programs are replaced by rename(2), and running ones
stay attached until `l7bpf.attach` updates their links. Failure verdict: `DatapathError`, and what ran before runs on.
"""

import json
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from l7bpf import bpffs, libbpf
from l7bpf.errors import DatapathError
from l7bpf.mapspecs import MAPS

SYSTEM_PYTHON = Path("/usr/bin/python3")
_CHILD = Path(__file__).with_name("compile_child.py")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"\s*$')
_BPF_PROG_TYPE_SCHED_CLS = 3
_BPF_PROG_TYPE_CGROUP_SKB = 8
_BPF_PROG_TYPE_SK_LOOKUP = 30

PROGRAMS = {
    "from_endpoint": (_BPF_PROG_TYPE_SCHED_CLS, -1),
    "to_endpoint": (_BPF_PROG_TYPE_SCHED_CLS, -1),
    "from_uplink": (_BPF_PROG_TYPE_SCHED_CLS, -1),
    "to_uplink": (_BPF_PROG_TYPE_SCHED_CLS, -1),
    "cgroup_ingress": (_BPF_PROG_TYPE_CGROUP_SKB, libbpf.BPF_CGROUP_INET_INGRESS),
    "cgroup_egress": (_BPF_PROG_TYPE_CGROUP_SKB, libbpf.BPF_CGROUP_INET_EGRESS),
    "steer": (_BPF_PROG_TYPE_SK_LOOKUP, libbpf.BPF_SK_LOOKUP),
}

_KCONFIG = """
#define CONFIG_BPF_SYSCALL 1
#define KBUILD_MODNAME "l7gate"
#include <linux/types.h>
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;
typedef __s8 s8; typedef __s16 s16; typedef __s32 s32; typedef __s64 s64;
typedef _Bool bool; typedef __SIZE_TYPE__ size_t; typedef __UINTPTR_TYPE__ uintptr_t;
#define PAGE_SIZE 4096UL
"""


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
    """Of each kind, per processor."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of it."""

    instructions: dict[str, int]
    """Of each program, as loaded."""
    kept_sizes: dict[str, tuple[int, int]]
    """Tables that were there with another size: name to (size, the size asked for)."""


def load(pins: Path, constants: Constants | None = None, *, python: Path = SYSTEM_PYTHON) -> Loaded:
    """Compiles, loads, pins. `pins` is a folder on a bpffs whose name carries `layouts.LAYOUT`."""
    constants = constants or Constants()
    if bpffs.kind_at(pins) != "bpf":
        raise DatapathError(f"{pins} is not on a bpf file system: nothing pinned there would outlive its maker")
    for folder in ("maps", "programs", "links"):
        (pins / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    check_layout(pins)
    with compile_job(pins, constants) as job:
        instructions = _run_child(python, job)
    check_layout(pins)
    return Loaded(instructions, dict(_kept_sizes(pins, constants)))


@contextmanager
def compile_job(pins: Path, constants: Constants) -> Iterator[dict[str, Any]]:
    """What the child needs to compile for `pins`; the headers it names are gone afterwards."""
    if any(character in str(pins) for character in ':"\\\n'):
        raise DatapathError(f"{pins}: a folder for pins may not contain a colon, quote or backslash")
    macros = {name.upper(): value for name, value in asdict(constants).items()}
    with tempfile.TemporaryDirectory(prefix="l7bpf-") as work:
        _build_shim(Path(work))
        yield {
            "source": translation_unit(programs_folder()),
            "cflags": [
                *(f"-D{name}={value}" for name, value in macros.items()),
                f'-DPINS="{pins}"',
                "-Wno-everything",
                *(f"-isystem{folder}" for folder in _include_folders()),
            ],
            "kernel_source": work,
            "programs": PROGRAMS,
            "folder": str(pins / "programs"),
        }


def programs_folder() -> Path:
    """The C sources: beside the package in a checkout, inside it when installed."""
    for folder in (Path(__file__).parent / "programs", Path(__file__).parent.parent / "programs"):
        if (folder / "l7gate.c").is_file():
            return folder
    raise DatapathError("the datapath's sources (l7gate.c) are missing from the installation")


def translation_unit(folder: Path, main: str = "l7gate.c") -> str:
    """`main` with its local headers in place of their includes: bcc rewrites map calls in one file only."""
    return "\n".join(_inlined(folder, main, set())) + "\n"


def _inlined(folder: Path, name: str, seen: set[str]) -> Iterator[str]:
    seen.add(name)
    yield f'#line 1 "{name}"'
    for number, line in enumerate((folder / name).read_text().splitlines(), start=1):
        include = _INCLUDE.match(line)
        if include:
            if include[1] not in seen:
                yield from _inlined(folder, include[1], seen)
            yield f'#line {number + 1} "{name}"'
        elif line.strip() == "#pragma once":
            yield ""
        else:
            yield line


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


def _kept_sizes(pins: Path, constants: Constants) -> Iterator[tuple[str, tuple[int, int]]]:
    for spec in MAPS.values():
        if spec.size_macro:
            wanted = int(getattr(constants, spec.size_macro.lower()))
            with bpffs.opened(pins / "maps" / spec.name) as fd:
                actual = libbpf.map_info(fd).max_entries
            if actual != wanted:
                yield spec.name, (actual, wanted)


def _include_folders() -> list[Path]:
    """Where linux-libc-dev put its headers; Debian keeps asm/ in a folder of the machine's name."""
    root = Path("/usr/include")
    machine = platform.machine()
    found = [path.parent.parent for path in root.glob(f"{machine}-*/asm/types.h")]
    if not (root / "linux/bpf.h").is_file() or not (found or (root / "asm/types.h").is_file()):
        raise DatapathError("the kernel's user headers are missing: install linux-libc-dev")
    return [root, *found]


def _build_shim(folder: Path) -> None:
    """What bcc expects of kernel headers, from a few lines and links: no kernel headers are needed."""
    include = folder / "include"
    for name in ("linux", "asm", "uapi"):
        (include / name).mkdir(parents=True)
    (include / "linux/kconfig.h").write_text(_KCONFIG)
    (include / "linux/log2.h").touch()
    (include / "asm/page.h").touch()
    uapi = include / "uapi/linux"
    uapi.mkdir()
    for header in Path("/usr/include/linux").glob("*.h"):
        if header.name != "bpf.h":
            (uapi / header.name).symlink_to(header)
    (uapi / "bpf.h").touch()  # bcc brings its own


def _run_child(python: Path, job: dict[str, Any]) -> dict[str, int]:
    try:
        done = subprocess.run(  # the script and the interpreter are ours
            [str(python), "-I", str(_CHILD)],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except FileNotFoundError as error:
        raise DatapathError(f"{python} is missing: it runs the compiler (python3-bpfcc)") from error
    except subprocess.TimeoutExpired as error:
        raise DatapathError("compiling the datapath took longer than two minutes") from error
    try:
        result = json.loads(done.stdout)
    except json.JSONDecodeError:
        if "No module named 'bcc'" in done.stderr:
            raise DatapathError(f"{python} has no bcc: install python3-bpfcc") from None
        raise DatapathError(f"the compiler ended with {done.returncode}: {_last_line(done.stderr)}") from None
    if "error" not in result:
        return dict(result["instructions"])
    match result["stage"]:
        case "compile":
            raise DatapathError(f"the datapath does not compile: {_first_error(done.stderr) or result['error']}")
        case "load":
            raise DatapathError(
                f"the kernel refuses {result['program']}: {_last_line(done.stderr)} ({result['error']})"
            )
    raise DatapathError(f"the programs cannot be pinned: {result['error']}")


def _first_error(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if "error:" in line), "")


def _last_line(text: str) -> str:
    """The verifier ends with the line that matters, then statistics."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith(("processed ", "HINT"))]
    return lines[-1] if lines else "no message"
