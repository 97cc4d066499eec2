# SPDX-License-Identifier: Apache-2.0
"""The file system that pins live on: found, or mounted.

`ip netns exec` hides what is mounted below /sys, so the answer depends on who asks. Failure verdict: `DatapathError`.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from l7bpf import libbpf
from l7bpf.errors import DatapathError

_SYSTEM_FOLDER = Path("/sys/fs/bpf")
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 2, 4, 8
_ESCAPE = re.compile(r"\\([0-7]{3})")  # a space is written \040
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    point: Path
    kind: str


def mounts(mountinfo: str) -> list[Mount]:
    """What /proc/self/mountinfo says, in the order of mounting."""
    found = []
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        point = _ESCAPE.sub(lambda code: chr(int(code[1], 8)), fields.split(" ")[4])
        found.append(Mount(Path(point), rest.split(" ")[0]))
    return found


def kind_at(path: Path, mountinfo: str | None = None) -> str:
    """Type of the file system that `path` is, or would be, on."""
    path = path.resolve()
    table = mounts(Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo)
    best = Mount(Path("/"), "")
    for mount in table:
        if path.is_relative_to(mount.point) and len(mount.point.parts) >= len(best.point.parts):
            best = mount  # of equally long ones, the last is on top
    return best.kind


def ensure(pins: Path) -> Path | None:
    """Makes `pins` a folder on a bpffs. Returns where one was mounted for it, or None if one was there."""
    mounted = None
    try:
        if kind_at(pins) != "bpf":
            mounted = _SYSTEM_FOLDER if pins.is_relative_to(_SYSTEM_FOLDER) else pins
            mounted.mkdir(parents=True, exist_ok=True)
            _mount(mounted)
        pins.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DatapathError(f"{pins} cannot be made a folder on a bpf file system: {error.strerror}") from error
    return mounted


def unmount(point: Path) -> None:
    """Takes away what `ensure` mounted, and with it every pin there."""
    if _libc.umount2(os.fsencode(point), 0) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(point))


@contextmanager
def opened(path: Path, hint: str = "") -> Iterator[int]:
    """The descriptor of what is pinned there, for a while. Raises DatapathError, ending in the hint, if nothing is."""
    try:
        fd = libbpf.obj_get(path)
    except OSError as error:
        raise DatapathError(f"{path}: {error.strerror}{hint}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _mount(point: Path) -> None:
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    if _libc.mount(b"bpf", os.fsencode(point), b"bpf", flags, b"mode=0700") < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(point))
