# SPDX-License-Identifier: Apache-2.0
"""The machine that a bench runs on: results mean nothing without it, nor if others load it meanwhile."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def machine() -> dict[str, str]:
    """Where it ran."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "memory_mb": str(memory),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def rss_mb(pid: int | None = None) -> float:
    """MiB of memory of a process, by default this one. Raises OSError if it is gone."""
    lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


@contextmanager
def alone(lock: str | None) -> Iterator[None]:
    """Holds a file's lock, so that nobody who asks for it loads the machine meanwhile."""
    if lock is None:
        yield
        return
    with Path(lock).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
