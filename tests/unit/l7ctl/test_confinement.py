# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.confinement. What cannot be left is tried in tests/integration/test_run.py."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from l7bpf import cgroups
from l7ctl.confinement import DROPPED, PREFIX, Confinement
from l7ctl.errors import ExitCode, Failure


@pytest.fixture
def confinement() -> Iterator[Confinement]:
    made = Confinement.make()
    yield made
    made.remove()


def test_a_command_runs_inside_without_the_capabilities_that_lead_around_policy(confinement: Confinement) -> None:
    script = "cat /proc/self/cgroup; grep CapEff /proc/self/status"
    done = subprocess.run(confinement.command(["sh", "-c", script]), capture_output=True, text=True, check=True)
    assert f"0::/{PREFIX}{os.getpid()}" in done.stdout.splitlines()
    effective = int(done.stdout.rpartition(":")[2], 16)
    numbers = {
        "net_admin": 12,
        "net_raw": 13,
        "sys_module": 16,
        "sys_ptrace": 19,
        "sys_admin": 21,
        "perfmon": 38,
        "bpf": 39,
    }
    assert set(numbers) == set(DROPPED)
    assert not any(effective >> number & 1 for number in numbers.values())


def test_removing_ends_what_runs_inside_and_below(confinement: Confinement) -> None:
    running = subprocess.Popen(confinement.command(["sleep", "60"]))
    (confinement.folder / "below").mkdir()
    confinement.remove()
    assert running.wait(5) != 0
    assert not confinement.folder.exists()
    confinement.remove()  # gone already is fine


def test_what_a_process_that_is_gone_has_left_is_found(confinement: Confinement) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    left = cgroups.root() / f"{PREFIX}{gone.pid}"
    left.mkdir()
    try:
        assert left in [one.folder for one in Confinement.stale()]
        assert confinement.folder not in [one.folder for one in Confinement.stale()]
    finally:
        left.rmdir()


def test_what_a_process_of_the_same_number_has_left_makes_room() -> None:
    left = cgroups.root() / f"{PREFIX}{os.getpid()}"
    (left / "below").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        (left / "cgroup.procs").write_text(str(sleeper.pid))
        made = Confinement.make()
        assert sleeper.wait(5) != 0
    assert list(made.folder.glob("*/")) == []
    made.remove()


def test_a_user_that_is_not_there_is_wrong_use(confinement: Confinement) -> None:
    with pytest.raises(Failure, match="no user 'no-such-user'") as caught:
        confinement.command(["true"], "no-such-user")
    assert caught.value.code == ExitCode.USAGE
