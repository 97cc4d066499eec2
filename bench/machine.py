# SPDX-License-Identifier: Apache-2.0
"""The machine that a bench ran on: results mean nothing without it."""

import os
import platform
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
