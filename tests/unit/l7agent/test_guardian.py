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
from l7agent.guardian import guard

def work():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
    print(os.getpid(), flush=True)
    if sys.argv[1] == "fail":
        return 7
    if sys.argv[1] == "bug":
        raise ValueError("a bug")
    try:
        time.sleep(60)
    except SystemExit as ended:
        return ended.code
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


def test_a_worker_does_not_outlive_its_guardian() -> None:
    with start("wait") as guardian:
        only = worker(guardian)
        guardian.kill()
        guardian.wait(10)
        assert gone(only)


@pytest.mark.parametrize(("mode", "status", "said"), [("fail", 7, ""), ("bug", 1, "ValueError: a bug")])
def test_a_worker_that_ends_by_itself_ends_the_guardian(mode: str, status: int, said: str) -> None:
    with start(mode) as guardian:
        _, errors = guardian.communicate(timeout=10)
        assert guardian.returncode == status
        assert said in errors
