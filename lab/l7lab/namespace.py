# SPDX-License-Identifier: Apache-2.0
"""Namespace: one network namespace of a lab, and the only way the lab runs anything inside it.

Programs are started by ``nsenter --net``, never by ``ip netns exec`` or ``ip -n``: those remount / and /sys, so that
the bpf and cgroup filesystems that the daemon needs are gone, and they fail in a chroot. It may not know what the lab
is for. A command that fails raises `LabError`: a lab that is not as described proves nothing.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = Path("/run/netns")


class LabError(Exception):
    """The lab could not be built or used as asked; the text says what failed."""


class LabUnavailableError(LabError):
    """This machine lacks what a lab needs; the text says what and how to get it."""


def run(argv: Sequence[str], *, stdin: str = "", timeout: float = 30.0) -> str:
    """Run a program to its end and return what it printed; raise if it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)} failed with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def environment() -> dict[str, str]:
    """The environment for programs in a lab: no proxy of the outside world, no settings of another daemon."""
    foreign = re.compile(r".*_proxy|L7_.*", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.fullmatch(name)}
    return kept | {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Namespace:
    """A named network namespace."""

    name: str

    @property
    def path(self) -> Path:
        """What ``nsenter`` and the daemon open."""
        return NAMESPACES / self.name

    def create(self) -> None:
        """Make it, with its loopback up."""
        run(["ip", "netns", "add", self.name])
        self.ip(["link set lo up"])

    def exists(self) -> bool:
        """Whether the name is taken."""
        return self.path.exists()

    def ip(self, commands: Iterable[str]) -> None:
        """Run ``ip`` commands inside it, in one process, stopping at the first that fails."""
        run(self.inside(["ip", "-batch", "-"]), stdin="".join(f"{command}\n" for command in commands))

    def sysctl(self, values: Mapping[str, int]) -> None:
        """Set kernel parameters of this namespace."""
        run(self.inside(["sysctl", "-qw", *(f"{key}={value}" for key, value in values.items())]))

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the namespace, as the same process."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(
        self, argv: Sequence[str], *, stdin: str | None = None, timeout: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program inside it to its end; its failure is a result, not an error."""
        return subprocess.run(
            self.inside(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=environment(),
            check=False,
        )

    def pids(self) -> list[int]:
        """Every process that lives in it, whoever started it."""
        try:
            own = self.path.stat()
        except FileNotFoundError:
            return []
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.path.samestat((entry / "ns/net").stat(), own):
                    found.append(int(entry.name))
            except OSError:  # gone meanwhile, or a zombie
                continue
        return found

    def kill_all(self, patience: float = 5.0) -> None:
        """Kill every process in it, and wait until none is left."""
        deadline = time.monotonic() + patience
        while pids := self.pids():
            for pid in pids:
                if pid == os.getpid():
                    raise LabError("this process itself lives in the lab's namespace")
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            if time.monotonic() > deadline:
                raise LabError(f"processes in {self.name} do not die: {pids}")
            time.sleep(0.01)

    def delete(self) -> None:
        """Remove it, and with it its links, routes and everything attached to them. Gone already is fine."""
        if self.exists():
            subprocess.run(["ip", "netns", "delete", self.name], capture_output=True, timeout=30.0, check=False)
