# SPDX-License-Identifier: Apache-2.0
"""From the datapath's C sources to bytecode, by a child that has bcc; what was compiled once is kept.

Compiling takes a processor some three seconds, for which a node would be without a datapath, or without an agent. What
is kept is found by a digest of all that went into it. It is loaded as it is, so a folder that others can write to is
not believed. Failure verdict: `DatapathError`.
"""

import contextlib
import hashlib
import json
import logging
import os
import platform
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from l7bpf.bytecode import Bytecode
from l7bpf.errors import DatapathError
from l7bpf.programs import PROGRAMS

_log = logging.getLogger(__name__)

SYSTEM_PYTHON: Final = Path("/usr/bin/python3")
KEPT: Final = 4
"""Files in the cache: of this version, and of some that an operator may go back to."""

_DRAFT: Final = ".draft-"
_DRAFT_SECONDS: Final = 600
"""A draft that is older was left by a process that was killed."""
_CHILD = Path(__file__).with_name("compile_child.py")
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"\s*$')
_KCONFIG = """
#define CONFIG_BPF_SYSCALL 1
#define KBUILD_MODNAME "l7gate"
#include <linux/types.h>
typedef __u8 u8; typedef __u16 u16; typedef __u32 u32; typedef __u64 u64;
typedef __s8 s8; typedef __s16 s16; typedef __s32 s32; typedef __s64 s64;
typedef _Bool bool; typedef __SIZE_TYPE__ size_t; typedef __UINTPTR_TYPE__ uintptr_t;
#define PAGE_SIZE 4096UL
"""


def bytecode(macros: dict[str, int], cache: Path | None = None, python: Path = SYSTEM_PYTHON) -> Bytecode:
    """The datapath, compiled with these macros, or as it was kept in the folder `cache`."""
    source = translation_unit(programs_folder())
    if cache is None:
        return msgspec.json.decode(_compiled(source, macros, python), type=Bytecode)
    what = json.dumps([source, macros, list(PROGRAMS), platform.machine(), _CHILD.read_text()])
    file = cache / f"datapath-{hashlib.sha256(what.encode()).hexdigest()}.json"
    try:
        _own(cache)
    except OSError as error:
        _log.warning("%s: compiled bytecode is not kept: %s", cache, error.strerror or error)
        return msgspec.json.decode(_compiled(source, macros, python), type=Bytecode)
    kept = _kept(file)
    if kept is not None:
        return kept
    text = _compiled(source, macros, python)
    try:
        _keep(file, text)
    except OSError as error:
        _log.warning("%s: cannot be written: %s", file, error.strerror)
    return msgspec.json.decode(text, type=Bytecode)


def _own(cache: Path) -> None:
    """Raises OSError unless only this user can write to the folder, which is made if it is missing."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = cache.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError("others can write to it, so it is not used: remove it")


def _kept(file: Path) -> Bytecode | None:
    """What the file holds; None if it is not there or not whole."""
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Bytecode)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.programs.keys() == PROGRAMS.keys() else None


def _keep(file: Path, text: bytes) -> None:
    for left in file.parent.glob(f"{_DRAFT}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _DRAFT_SECONDS:
                left.unlink()
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=_DRAFT, delete=False) as draft:
        try:
            draft.write(text)
            draft.flush()
            Path(draft.name).rename(file)
        except OSError:
            Path(draft.name).unlink()
            raise
    newest_first = sorted(file.parent.glob("datapath-*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in newest_first[KEPT:]:
        old.unlink(missing_ok=True)


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


@contextmanager
def job(source: str, macros: dict[str, int]) -> Iterator[dict[str, Any]]:
    """What the child needs to compile; the headers it names are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="l7bpf-") as work:
        _build_shim(Path(work))
        yield {
            "source": source,
            "cflags": [
                *(f"-D{name}={value}" for name, value in macros.items()),
                "-Wno-everything",
                *(f"-isystem{folder}" for folder in _include_folders()),
            ],
            "kernel_source": work,
            "programs": list(PROGRAMS),
        }


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


def _compiled(source: str, macros: dict[str, int], python: Path) -> bytes:
    """Bytecode as JSON."""
    try:
        with job(source, macros) as given:
            done = subprocess.run(  # the script and the interpreter are ours
                [str(python), "-I", str(_CHILD)],
                input=json.dumps(given).encode(),
                capture_output=True,
                check=False,
                timeout=120,
            )
    except FileNotFoundError as error:
        raise DatapathError(f"{python} is missing: it runs the compiler (python3-bpfcc)") from error
    except subprocess.TimeoutExpired as error:
        raise DatapathError("compiling the datapath took longer than two minutes") from error
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode(errors="replace")
    if "No module named 'bcc'" in said:
        raise DatapathError(f"{python} has no bcc: install python3-bpfcc")
    with contextlib.suppress(json.JSONDecodeError):
        reason = json.loads(done.stdout)["error"]
        raise DatapathError(f"the datapath does not compile: {_first_error(said) or reason}")
    raise DatapathError(f"the compiler ended with {done.returncode}: {_last_line(said)}")


def _first_error(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if "error:" in line), "")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
