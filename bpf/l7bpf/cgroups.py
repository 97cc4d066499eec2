# SPDX-License-Identifier: Apache-2.0
"""Cgroups of the unified hierarchy (version 2): where it is mounted, and how the kernel numbers its folders.

Paths are those of /proc/PID/cgroup: absolute, from the root of the hierarchy (``/system.slice/x.service``). Looks only.
Failure verdict: OSError for a cgroup that is not there, `DatapathError` without the hierarchy.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from l7bpf import bpffs
from l7bpf.errors import DatapathError


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One cgroup, as it is now: a path can come back with another one behind it."""

    folder: Path
    number: int
    """What the kernel calls it: the inode of its folder."""
    level: int
    """Depth below the root of the hierarchy, which is 0."""


def root(mountinfo: str | None = None) -> Path:
    """Where the hierarchy is mounted; on machines with both versions below /sys/fs/cgroup/unified."""
    table = bpffs.mounts(Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo)
    found = [mount.point for mount in table if mount.kind == "cgroup2"]
    if not found:
        raise DatapathError(
            "cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with "
            "systemd.unified_cgroup_hierarchy=1"
        )
    return found[0]


def find(path: str) -> Cgroup:
    """The cgroup at a path of the hierarchy. Raises OSError, DatapathError."""
    parts = PurePosixPath(path).relative_to("/").parts
    folder = root().joinpath(*parts)
    return Cgroup(folder, folder.stat().st_ino, len(parts))


def of_process(pid: int | str) -> str:
    """The path of a process's cgroup, ``/`` if it has none in this hierarchy. Raises OSError."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return line[3:]
    return "/"


def populated(folder: Path) -> bool:
    """Whether a process lives in the cgroup or below it. Raises OSError."""
    return "populated 1" in (folder / "cgroup.events").read_text().splitlines()
