# SPDX-License-Identifier: Apache-2.0
"""Lab: a disposable network on this machine, with real servers in it, gone without a trace when it is left.

    with Lab() as lab:
        traffic.http(lab.frontend.namespace, "http://api.example.com/", address="198.51.100.1")

It is removed on every way out: the end of the block, an exception, Ctrl-C, SIGTERM, SIGHUP; and by the next lab's
sweep if its owner was killed with -9. It may not touch the machine's own network. A lab that cannot be built in full is
not entered.
"""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final

from l7lab import registry, topology
from l7lab.cgroup import Cgroup
from l7lab.namespace import LabUnavailableError, run
from l7lab.process import Process
from l7lab.services import BACKEND_PORTS, OUTSIDE_PORTS, Dnsmasq, Nginx
from l7lab.topology import Host, Workload

ENDINGS: Final = (signal.SIGTERM, signal.SIGHUP)
NEEDED: Final = ("ip", "nsenter", "sysctl", "mount", "umount", "curl", "dig", "ping", "nginx", "dnsmasq", "openssl")


class Terminated(KeyboardInterrupt):
    """A signal asked the lab's owner to end. Passes through everything that Ctrl-C passes through."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


class Lab:
    """Namespaces, servers and a folder of one's own."""

    web: Nginx
    """The outside host's web server, on every service address."""
    backend_web: Nginx
    """The backend workload's."""
    resolver: Dnsmasq
    """The outside host's name server."""

    def __init__(self) -> None:
        self.identifier = ""
        self.folder = Path()
        self._topology = topology.plan("")
        self._kept = False
        self._handlers: dict[signal.Signals, signal._HANDLER] = {}
        self._processes: list[Process] = []

    @property
    def node(self) -> Host:
        """Stands in for the machine that l7gate protects."""
        return self._topology.node

    @property
    def outside(self) -> Host:
        """All of the rest of the world."""
        return self._topology.outside

    @property
    def frontend(self) -> Workload:
        """A client."""
        return self._topology.frontend

    @property
    def batch(self) -> Workload:
        """Another client."""
        return self._topology.batch

    @property
    def backend(self) -> Workload:
        """A server among the workloads."""
        return self._topology.backend

    @property
    def workloads(self) -> tuple[Workload, ...]:
        """All three."""
        return self._topology.workloads

    @property
    def bpffs(self) -> Path:
        """A BPF filesystem of the lab's own."""
        return self.folder / "bpf"

    def cgroup(self, name: str) -> Cgroup:
        """A cgroup for processes of the node."""
        made = Cgroup(self.node.namespace.name, self.cgroups / name)
        made.create()
        return made

    @property
    def cgroups(self) -> Path:
        """Above all cgroups of the lab."""
        return registry.cgroups(self.identifier)

    def start(self, host: Host, argv: list[str], name: str) -> Process:
        """Run a program on one of the machines until the lab ends; its output goes to ``NAME.log``."""
        process = Process(host.namespace, argv, self.folder / f"{name}.log")
        self._processes.append(process)
        return process

    def keep(self) -> None:
        """Leave it standing after the block: `registry.sweep(kept=True)` removes it."""
        registry.keep(self.folder)
        self._kept = True

    def __enter__(self) -> "Lab":
        require_tools()
        registry.sweep()
        self._catch_signals()
        try:
            self.identifier, self.folder = registry.register()
            self._topology = topology.plan(registry.prefix(self.identifier))
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def _build(self) -> None:
        topology.build(self._topology)
        self.bpffs.mkdir()
        run(["mount", "-t", "bpf", "bpf", str(self.bpffs)])
        outside, backend = self.outside.namespace, self.backend.namespace
        self.web = Nginx(outside, self.folder / "web", OUTSIDE_PORTS)
        self._processes.append(self.web.process)
        self.resolver = Dnsmasq(outside, self.folder / "resolver")
        self._processes.append(self.resolver.process)
        self.backend_web = Nginx(backend, self.folder / "backend-web", BACKEND_PORTS)
        self._processes.append(self.backend_web.process)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept and error is None:
            for process in self._processes:
                process.forget()
            self._release_signals()
        else:
            self.close()

    def close(self) -> None:
        """Remove everything. No signal interrupts it: each of its steps is short and bounded."""
        with signals_held():
            try:
                if self.identifier:
                    registry.remove(self.identifier)
                    for process in self._processes:
                        process.stop()  # dead already: reaps it
            finally:
                self.identifier = ""
                self._release_signals()

    def _catch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDINGS:
            if signal.getsignal(number) == signal.SIG_DFL:
                self._handlers[number] = signal.SIG_DFL
                signal.signal(number, self._terminated)

    def _release_signals(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    @staticmethod
    def _terminated(number: int, _frame: FrameType | None) -> None:
        raise Terminated(number)


def require_tools() -> None:
    """Raise `LabUnavailableError` naming every program that is missing."""
    if os.geteuid() != 0:
        raise LabUnavailableError("needs root, because it makes network namespaces: use sudo")
    script = "for program; do command -v $program >/dev/null || echo $program; done"
    done = subprocess.run(["sh", "-c", script, "sh", *NEEDED], capture_output=True, text=True, timeout=10, check=False)
    if missing := done.stdout.split():
        raise LabUnavailableError(f"programs missing: {' '.join(missing)}; `make setup` installs them")


@contextmanager
def signals_held() -> Iterator[None]:
    """Let Ctrl-C and its kin wait until the block is done."""
    held = {signal.SIGINT, *ENDINGS}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
