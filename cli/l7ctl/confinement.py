# SPDX-License-Identifier: Apache-2.0
"""Confinement: a cgroup of its own for one command, which it cannot leave, and the command line that starts it there.

The command keeps its user, files and terminal. It sees the cgroup file system read-only and has none of the
capabilities that would let it change that or send frames past the datapath (`DROPPED`); a command that must not be
able to ask a service of the machine to start something for it needs a user of its own (`l7ctl run --user`).

Failure verdict: `Failure`; then nothing has been started. A cgroup that is left behind by a crash is found again by
its name, which holds the number of the process that made it (`Confinement.stale`).
"""

import contextlib
import os
import pwd
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from l7bpf import cgroups
from l7bpf.errors import DatapathError
from l7ctl.errors import ExitCode, Failure

PREFIX: Final = "l7ctl-run-"
DROPPED: Final = ("net_raw", "net_admin", "sys_admin", "sys_module", "sys_ptrace", "bpf", "perfmon")
"""Capabilities that lead around policy: packets past the sockets, other namespaces, other processes."""
PATIENCE_SECONDS: Final = 5.0

# The shell becomes the command, so that there is no process beside it; 125 as of env(1): it could not be started.
_ENTER: Final = 'echo $$ >"$1/cgroup.procs" && mount -o remount,bind,ro "$2" || exit 125; shift 2; exec "$@"'


@dataclass(frozen=True, slots=True)
class Confinement:
    """One cgroup below the root of the unified hierarchy."""

    folder: Path
    root: Path

    @classmethod
    def make(cls) -> Self:
        """A new one, for a command of this process. Raises Failure."""
        try:
            root = cgroups.root()
            made = cls(root / f"{PREFIX}{os.getpid()}", root)
            made.remove()  # one of a process that had the same number
            made.folder.mkdir()
        except DatapathError as error:
            raise Failure(str(error), code=ExitCode.USAGE) from error
        except OSError as error:
            raise Failure(f"{error.filename}: {error.strerror}", "needs root: run it with sudo") from error
        return made

    @classmethod
    def stale(cls) -> Iterator[Self]:
        """Those whose makers are gone."""
        try:
            root = cgroups.root()
        except DatapathError:
            return
        for folder in left_over(root):
            yield cls(folder, root)

    @property
    def path(self) -> str:
        """As `l7ctl endpoint add --cgroup` takes it."""
        return f"/{self.folder.relative_to(self.root)}"

    def command(self, argv: Sequence[str], user: str = "") -> list[str]:
        """The command line that runs `argv` inside, as the process that is started. Raises Failure: no such user."""
        identity = _identity(user) if user else []
        dropped = ",".join(f"-{name}" for name in DROPPED)
        limited = ["setpriv", f"--bounding-set={dropped}", f"--inh-caps={dropped}", *identity, "--", *argv]
        # What is made read-only is this mount and no other, so nothing is to be kept from spreading.
        alone = ["unshare", "--mount", "--propagation=unchanged", "--"]
        return [*alone, "sh", "-c", _ENTER, "sh", str(self.folder), str(self.root), *limited]

    def remove(self) -> None:
        """Ends what still runs inside, and takes the cgroup away. Raises Failure if it does not go."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.folder.exists():
            with contextlib.suppress(OSError):  # it may be gone, and is asked again
                (self.folder / "cgroup.kill").write_text("1")
            for below in sorted(self.folder.rglob("*/"), reverse=True):
                with contextlib.suppress(OSError):
                    below.rmdir()
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            if time.monotonic() > deadline:
                raise Failure(f"cgroup {self.folder} cannot be removed", "something in it does not end")
            time.sleep(0.01)


def left_over(place: Path) -> Iterator[Path]:
    """What runs whose makers are gone have left in a folder."""
    for folder in place.glob(f"{PREFIX}*"):
        maker = folder.name.removeprefix(PREFIX)
        if maker.isdecimal() and not Path("/proc", maker).exists():
            yield folder


def _identity(user: str) -> list[str]:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError as error:
        raise Failure(f"no user {user!r} on this machine", code=ExitCode.USAGE) from error
    return [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
