# SPDX-License-Identifier: Apache-2.0
"""The demo as users run it, and proof that its checks can fail."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from l7lab import Lab, registry
from l7lab.gate import Gate, program
from l7lab.namespace import NAMESPACES
from l7lab.scenario import DROPPED, Scenario, together

DENIALS = {DROPPED, "403", "REFUSED", "refused", "reset", "never arrived"}


def everything_of_labs() -> set[str]:
    """Labs and namespaces of labs on this machine."""
    return set(registry.labs()) | {path.name for path in NAMESPACES.glob("l7lab-*")}


def owned_by(pid: int) -> list[str]:
    return [identifier for identifier, owner in registry.labs().items() if owner.pid == pid]


def test_without_the_daemon_every_denial_check_fails_and_every_other_passes() -> None:
    with Lab() as lab:
        scenario = Scenario(Gate(lab))
        for act in (scenario.packets, scenario.names, scenario.requests):
            for check in together(act()):
                assert check.ok == (check.expected not in DENIALS), check


def test_every_check_of_the_demo_is_ok_and_nothing_is_left(tmp_path: Path) -> None:
    with (tmp_path / "err").open("w+") as err:
        demo = subprocess.Popen([program("l7ctl"), "demo", "-o", "json"], stdout=subprocess.PIPE, stderr=err, text=True)
        out, _ = demo.communicate(timeout=100)
    said = (tmp_path / "err").read_text()
    assert out, said
    checks = json.loads(out)["checks"]
    assert [check for check in checks if not check["ok"]] == [], said
    assert demo.returncode == 0
    assert len(checks) >= 16
    assert all(set(check) == {"name", "expected", "got", "ok"} for check in checks)
    assert owned_by(demo.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(number: signal.Signals) -> None:
    demo = subprocess.Popen([program("l7ctl"), "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert demo.stderr is not None
    seen = ""
    while "registering" not in seen:  # the daemon and its processes run by now
        seen = demo.stderr.readline()
        assert seen, "the demo ended before it was interrupted"
    mine = owned_by(demo.pid)
    assert len(mine) == 1
    demo.send_signal(number)
    demo.communicate(timeout=30)
    assert demo.returncode == 128 + number
    deadline = time.monotonic() + 5
    while any(mine[0] in name for name in everything_of_labs()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
