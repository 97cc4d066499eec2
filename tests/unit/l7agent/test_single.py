# SPDX-License-Identifier: Apache-2.0
"""One process at a time, and the next one asks the one before to go."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from l7agent import single
from l7agent.single import HeldError, Single

HOLDER = """
import signal, sys, time
from pathlib import Path
from l7agent.single import Single
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
held = Single(Path(sys.argv[1]))
print(held.take(), flush=True)
time.sleep(60)
"""


def holder(folder: Path, mode: str) -> subprocess.Popen[str]:
    started = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), mode], stdout=subprocess.PIPE, text=True)
    assert started.stdout is not None
    assert started.stdout.readline() == "True\n"
    return started


def test_the_lock_is_free_again_when_its_holder_is_dead(tmp_path: Path) -> None:
    with holder(tmp_path, "meek") as other:
        assert not Single(tmp_path).take()
        other.kill()
        other.wait(10)
        assert Single(tmp_path).take()


def test_a_successor_asks_the_holder_to_end_and_then_has_the_lock(tmp_path: Path) -> None:
    with holder(tmp_path, "meek") as other:
        successor = Single(tmp_path)
        asyncio.run(successor.take_over())
        assert other.wait(10) != 0
        assert not Single(tmp_path).take()


def test_a_holder_that_does_not_end_keeps_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single, "_PATIENCE", 0.1)
    with holder(tmp_path, "stubborn") as other:
        with pytest.raises(HeldError, match=f"process {other.pid} does not end"):
            asyncio.run(Single(tmp_path).take_over())
        other.kill()
