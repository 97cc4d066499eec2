# SPDX-License-Identifier: Apache-2.0
"""What scripts/setup says on a machine that cannot run l7gate. It must refuse before it installs anything."""

import os
import subprocess
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[3] / "scripts" / "setup"
ROOT = "echo 0"


def pretend(folder: Path, **programs: str) -> dict[str, str]:
    """An environment where some programs say something else; package tools fail loudly."""
    refused = dict.fromkeys(("apt-get", "dpkg-query", "python3"), "echo must not be run >&2; exit 99")
    for name, script in (refused | programs).items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("programs", "words"),
    [
        ({"id": "echo 1000"}, ["root", "sudo"]),
        ({"id": ROOT, "uname": "echo 5.10.0-30-amd64"}, ["kernel 5.10.0-30-amd64", "5.15"]),
        ({"id": ROOT, "uname": "echo 4.18.0-553.el8"}, ["kernel 4.18.0-553.el8", "5.15"]),
        ({"id": ROOT, "uname": "echo 6.1.0", "grep": '[ "$2" != cgroup2 ]'}, ["cgroup2", "CONFIG_CGROUPS"]),
        ({"id": ROOT, "uname": "echo 6.1.0", "grep": '[ "$2" != bpf ]'}, ["bpf", "CONFIG_BPF_SYSCALL"]),
    ],
    ids=["not root", "old kernel", "very old kernel", "no cgroup v2", "no bpffs"],
)
def test_what_is_missing_is_named_in_one_line(tmp_path: Path, programs: dict[str, str], words: list[str]) -> None:
    environment = pretend(tmp_path, **programs)
    done = subprocess.run([SETUP], env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("kernel", ["5.15.0-113-generic", "6.1.0-21-amd64", "6.18.44-custom", "10.0"])
def test_a_kernel_that_is_new_enough_is_not_refused(tmp_path: Path, kernel: str) -> None:
    environment = pretend(tmp_path, id=ROOT, uname=f"echo {kernel}")
    done = subprocess.run([SETUP], env=environment, capture_output=True, text=True, timeout=20, check=False)
    assert "too old" not in done.stderr
