# SPDX-License-Identifier: Apache-2.0
"""Registry: which labs exist on this machine, whose they are, and how one is removed without a trace.

A lab is a folder /run/l7lab/ID, recorded there before anything is built and deleted after everything is gone, so that
whatever happens to its owner the next lab can sweep it away. Removal trusts only the lab's own names: namespaces
``l7lab-ID-*``, processes that live in them, mounts below the folder, the cgroup ``l7lab-ID``. It may not touch anything
else, and it can be repeated.
"""

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from l7lab import cgroup
from l7lab.namespace import NAMESPACES, LabError, LabUnavailableError, Namespace

LABS: Final = Path("/run/l7lab")
RECORD: Final = "lab.json"


@dataclass(frozen=True, slots=True)
class Owner:
    """The process a lab belongs to."""

    pid: int
    started: str
    """Its start time in ticks: a pid alone may have been given to another."""
    kept: bool = False
    """The lab outlives its owner, on request."""

    @property
    def alive(self) -> bool:
        """Whether that very process still runs."""
        return started(self.pid) == self.started


def started(pid: int) -> str:
    """Start time of a process, empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def prefix(identifier: str) -> str:
    """What the names of a lab's namespaces begin with."""
    return f"l7lab-{identifier}-"


def cgroups(identifier: str) -> Path:
    """The folder of a lab's cgroups."""
    return cgroup.root() / f"l7lab-{identifier}"


def register() -> tuple[str, Path]:
    """A new lab's identifier and folder, recorded as this process's."""
    LABS.mkdir(mode=0o755, parents=True, exist_ok=True)
    while True:
        identifier = secrets.token_hex(3)
        draft, folder = LABS / f".{identifier}", LABS / identifier
        try:
            draft.mkdir(mode=0o755)
        except FileExistsError:
            continue
        (draft / RECORD).write_text(json.dumps(asdict(Owner(os.getpid(), started(os.getpid())))))
        try:
            draft.rename(folder)  # at once with its record: a sweep never sees a lab without an owner
        except OSError:
            shutil.rmtree(draft)
            continue
        return identifier, folder


def keep(folder: Path) -> None:
    """Let the lab outlive its owner."""
    draft = folder / f"{RECORD}.new"
    draft.write_text(json.dumps(asdict(Owner(os.getpid(), started(os.getpid()), kept=True))))
    draft.replace(folder / RECORD)


def labs() -> dict[str, Owner]:
    """Every lab on this machine."""
    found = {}
    for folder in sorted(LABS.glob("[0-9a-f]*")):
        try:
            found[folder.name] = Owner(**json.loads((folder / RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            # Being removed by someone else just now, or by someone who died at it: nobody's.
            found[folder.name] = Owner(0, "gone")
    return found


def sweep(*, kept: bool = False) -> list[str]:
    """Remove the labs whose owner is dead, those kept on request only if told to; returns what was removed."""
    swept = [name for name, owner in labs().items() if not owner.alive and (kept or not owner.kept)]
    for identifier in swept:
        remove(identifier)
    return swept


def remove(identifier: str) -> None:
    """Make a lab as if it had never been. Everything is tried; what failed is raised at the end."""
    folder = LABS / identifier
    problems = []
    namespaces = [Namespace(path.name) for path in NAMESPACES.glob(f"{prefix(identifier)}*")]
    for namespace in namespaces:
        try:
            namespace.kill_all()
        except LabError as error:
            problems.append(str(error))
    for namespace in namespaces:
        namespace.delete()
    try:
        cgroup.remove(cgroups(identifier))
    except LabUnavailableError:
        pass  # no hierarchy, so nothing in it
    except LabError as error:
        problems.append(str(error))
    for mount in reversed(mounts_below(folder)):
        subprocess.run(["umount", "-l", str(mount)], capture_output=True, timeout=10, check=False)
    if left := mounts_below(folder):
        problems.append(f"still mounted: {left}")
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):
            LABS.rmdir()  # the last one turns off the light
    if problems:
        raise LabError(f"lab {identifier} is not gone: {'; '.join(problems)}")


def mounts_below(folder: Path) -> list[Path]:
    """Mount points in a folder, outermost first."""
    points = [Path(line.split()[1]) for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [point for point in points if point.is_relative_to(folder)]
