# SPDX-License-Identifier: Apache-2.0
"""Cgroup: processes of the node itself, told apart by the cgroup they run in. What works in a `Namespace` works here.

Cgroups are the machine's and not a namespace's, so the lab's are below one folder with the lab's name in the unified
hierarchy. A machine without one raises `LabUnavailableError`.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from l7lab.namespace import LabError, LabUnavailableError, Namespace

_ENTER = 'echo $$ >"$0/cgroup.procs" && exec "$@"'


def root() -> Path:
    """Where version 2 is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(point)
    raise LabUnavailableError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


@dataclass(frozen=True, slots=True)
class Cgroup(Namespace):
    """A cgroup whose processes share the network namespace `name`."""

    folder: Path

    @property
    def where(self) -> str:
        """Its path in the hierarchy, as `l7ctl endpoint add --cgroup` takes it."""
        return "/" + str(self.folder.relative_to(root()))

    def create(self) -> None:
        """Make it, and the folders above it."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in the cgroup and in the network namespace, as the same process."""
        return ["sh", "-c", _ENTER, str(self.folder), "nsenter", f"--net={self.path}", "--", *argv]

    def remove(self) -> None:
        """End its processes, and take it away."""
        remove(self.folder)


def remove(folder: Path, patience: float = 5.0) -> None:
    """Kill all that lives in a cgroup or below, and remove them all. Gone already is fine."""
    deadline = time.monotonic() + patience
    while folder.exists():
        with contextlib.suppress(OSError):
            (folder / "cgroup.kill").write_text("1")
        for below in sorted(folder.rglob("*/"), reverse=True):
            with contextlib.suppress(OSError):
                below.rmdir()
        with contextlib.suppress(OSError):
            folder.rmdir()
        if time.monotonic() > deadline:
            raise LabError(f"cgroup {folder} cannot be removed")
        time.sleep(0.01)
