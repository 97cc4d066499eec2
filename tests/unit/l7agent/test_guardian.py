# SPDX-License-Identifier: Apache-2.0
"""A killed worker is followed by the next one; one that ends by itself ends the guardian."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, signal, sys, time
from l7agent.guardian import ORPHANED, guard

def work():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    print(os.getpid(), flush=True)
    if sys.argv[1] == "fail":
        return 7
    if sys.argv[1] == "lasting":
        signal.signal(ORPHANED, lambda *_: print("orphaned", flush=True))
    if sys.argv[1] == "dying":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "bug":
        raise ValueError("a bug")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(1)
    return 0

sys.exit(guard(work))
"""


def start(mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def worker(guardian: subprocess.Popen[str]) -> int:
    assert guardian.stdout is not None
    return int(guardian.stdout.readline())


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether it has said what it does when it gets that signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        path = Path(f"/proc/{pid}/stat")
        if not path.exists() or path.read_text().rpartition(") ")[2].startswith("Z"):
            return True
        time.sleep(0.01)
    return False


def test_a_killed_worker_is_started_again_and_sigterm_ends_both() -> None:
    with start("wait") as guardian:
        first = worker(guardian)
        os.kill(first, signal.SIGKILL)
        second = worker(guardian)
        assert second != first
        assert gone(first)
        guardian.send_signal(signal.SIGTERM)
        assert guardian.wait(10) == 5
        assert gone(second)


def test_a_worker_that_knows_no_better_does_not_outlive_its_guardian() -> None:
    with start("wait") as guardian:
        only = worker(guardian)
        guardian.kill()
        guardian.wait(10)
        assert gone(only)


def test_a_worker_that_does_is_told_and_goes_on() -> None:
    with start("lasting") as guardian:
        only = worker(guardian)
        assert guardian.stdout is not None
        while not catches(only, signal.SIGUSR1):
            time.sleep(0.01)
        guardian.kill()
        assert guardian.stdout.readline() == "orphaned\n"
        os.kill(only, signal.SIGKILL)
        assert gone(only)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.2])
def test_being_told_to_end_is_heard_whenever_it_comes(seconds: float) -> None:
    """Workers that die at once: most of the time there is none, or one that has only just begun."""
    with start("dying") as guardian:
        worker(guardian)
        time.sleep(seconds)
        guardian.send_signal(signal.SIGTERM)
        assert guardian.wait(10) in (5, 137, 143)


@pytest.mark.parametrize(("mode", "status", "said"), [("fail", 7, ""), ("bug", 1, "ValueError: a bug")])
def test_a_worker_that_ends_by_itself_ends_the_guardian(mode: str, status: int, said: str) -> None:
    with start(mode) as guardian:
        _, errors = guardian.communicate(timeout=10)
        assert guardian.returncode == status
        assert said in errors
