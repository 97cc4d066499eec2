# SPDX-License-Identifier: Apache-2.0
"""Process: a long-running program inside a namespace, its output in a file, stopped by pid.

Each runs in a session of its own, so that Ctrl-C reaches the lab and not its services. This module may not know which
program it runs. One that dies at start raises `LabError` with the end of its output.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from l7lab.namespace import LabError, Namespace, environment

LISTEN = "0A"


def wait_until(condition: Callable[[], bool], what: str, timeout: float = 10.0, step: float = 0.02) -> None:
    """Return as soon as `condition` holds; raise `LabError` naming `what` if it never does."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(step)


class Process:
    """A program that runs until it is stopped."""

    def __init__(
        self, namespace: Namespace, argv: Sequence[str], log: Path, variables: Mapping[str, str] | None = None
    ) -> None:
        self.namespace = namespace
        self.name = Path(argv[0]).name
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                namespace.inside(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment() | dict(variables or {}),
            )

    @property
    def pid(self) -> int:
        """Of the program itself: nsenter becomes it."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: ended by that signal."""
        return self._popen.poll()

    def output(self, last: int = 4000) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-last:] if self.log.exists() else ""

    def last_words(self) -> str:
        """The last line of what it printed."""
        lines = self.output().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def require(self) -> None:
        """Raise if it has ended."""
        if not self.running:
            raise LabError(f"{self.name} ended with {self.exit_code}: {self.last_words()}")

    def wait(self, condition: Callable[[], bool], what: str, timeout: float = 10.0) -> None:
        """Wait until `condition` holds; raise as soon as the program dies, or when time is up."""

        def step() -> bool:
            self.require()
            return condition()

        wait_until(step, f"{self.name}: {what}", timeout)

    def wait_listening(self, *ports: int, protocol: str = "tcp", timeout: float = 10.0) -> None:
        """Wait until its namespace has a listener on each of the ports."""
        self.wait(lambda: set(ports) <= self._listening(protocol), f"a listener on {protocol} {ports}", timeout)

    def _listening(self, protocol: str) -> set[int]:
        ports = set()
        for table in (protocol, f"{protocol}6"):
            try:
                lines = Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]
            except OSError:
                continue
            for columns in (line.split() for line in lines):
                if protocol == "udp" or columns[3] == LISTEN:
                    ports.add(int(columns[1].rpartition(":")[2], 16))
        return ports

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """``kill -9``, then reap it."""
        self.signal(signal.SIGKILL)
        self._popen.wait(10.0)

    def stop(self, patience: float = 5.0) -> None:
        """Ask it to end, then insist."""
        if self.running:
            self.signal(signal.SIGTERM)
            try:
                self._popen.wait(patience)
            except subprocess.TimeoutExpired:
                self.kill()

    def forget(self) -> None:
        """Leave it running beyond this process's life (a lab that is kept)."""
        if self.running:
            # Else the interpreter warns at exit about a child it will not wait for.
            self._popen.returncode = 0
