# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.run: what is refused before anything is started. The rest is in tests/integration/test_run.py."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from l7ctl.confinement import PREFIX

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--", "true"), 2, "give --policy FILE, or --audit"),
        (("--audit", "--", "no-such-command"), 127, "no-such-command: command not found"),
        (("--policy", "missing.yaml", "--", "true"), 2, "missing.yaml"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_cannot_run_says_why(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = run("--socket", str(tmp_path / "none.sock"), "run", *arguments)
    assert (result.exit_code, message in result.stderr) == (code, True)


def test_a_running_daemon_has_policies_of_its_own(l7ctl: Run, good: Path) -> None:
    result = l7ctl("run", "--policy", str(good), "--", "true")
    assert (result.exit_code, "where no l7d runs" in result.stderr) == (2, True)


@pytest.fixture
def running(agent: Any) -> Any:
    """The daemon, which knows the endpoint that this process would make."""
    agent.answers[f"DELETE /v1/endpoints/{PREFIX}{os.getpid()}"] = None
    return agent


START = b'{"type":"start","node":"node-1","agent":1,"lost":{"kernel":0,"proxies":0}}\n'
LOST = b'{"type":"lost","source":"kernel","count":3}\n'


def test_what_cannot_be_watched_is_not_started(running: Any, l7ctl: Run, tmp_path: Path) -> None:
    running.errors["GET /v1/flows"] = (503, {"error": "64 listen already", "hint": "end a `l7ctl monitor`"})
    touched = tmp_path / "touched"
    result = l7ctl("run", "--", "touch", str(touched))
    assert (result.exit_code, touched.exists()) == (1, False)
    assert "64 listen already" in result.stderr
    assert l7ctl("run", "--quiet", "--", "touch", str(touched)).exit_code == 0
    assert touched.exists()


def test_losses_and_the_end_of_the_stream_are_told(running: Any, l7ctl: Run, tmp_path: Path) -> None:
    running.answers["GET /v1/flows"] = START + LOST + LOST
    report = tmp_path / "report.json"
    result = l7ctl("run", "--report", str(report), "--", "true")
    assert result.exit_code == 0
    assert "6 flows came too fast to be told of" in result.stderr
    assert "l7d went away while the command ran" in result.stderr
    found = json.loads(report.read_text())
    assert (found["lost"], found["complete"], found["exit_code"]) == (6, False, 0)


def test_the_commands_exit_code_counts_also_when_the_daemon_cannot_take_its_endpoint_away(
    running: Any, l7ctl: Run
) -> None:
    running.errors[f"DELETE /v1/endpoints/{PREFIX}{os.getpid()}"] = (503, {"error": "l7d ends", "hint": ""})
    result = l7ctl("run", "--quiet", "--", "sh", "-c", "exit 7")
    assert result.exit_code == 7
    assert "l7d ends" in result.stderr
    assert f"l7ctl endpoint remove {PREFIX}{os.getpid()}" in result.stderr


@pytest.mark.parametrize("option", ["--report", "--suggest"])
def test_a_link_that_stands_where_the_report_is_to_be_is_refused(l7ctl: Run, tmp_path: Path, option: str) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    result = l7ctl("run", option, str(link), "--", "true")
    assert (result.exit_code, "is a link" in result.stderr, victim.read_text()) == (2, True, "mine")
