# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.doctor."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from l7agent import preflight
from l7agent.preflight import Check

Run = Callable[..., Result]


def _check(name: str, *, ok: bool, required: bool) -> Check:
    return Check(name=name, ok=ok, found="5.4", needed="6.1", remedy="upgrade", required=required)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    found: list[Check] = []
    monkeypatch.setattr(preflight, "checks", lambda _: found)
    return found


def test_a_fit_machine_is_ready(run: Run, checks: list[Check]) -> None:
    checks += [_check("kernel", ok=True, required=True), _check("TCX links", ok=False, required=False)]
    result = run("doctor")
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["CHECK", "STATE", "FOUND", "NEEDED", "REMEDY"],
        ["kernel", "ok", "5.4", "6.1", "-"],
        ["TCX", "links", "optional", "5.4", "6.1", "upgrade"],
        [],
        ["ready", "to", "run", "l7d"],
    ]


def test_something_missing_exits_with_two_and_says_how_to_get_it(run: Run, checks: list[Check]) -> None:
    checks += [_check("kernel", ok=False, required=True)]
    result = run("doctor")
    assert result.exit_code == 2
    assert result.stdout.splitlines()[1].split() == ["kernel", "missing", "5.4", "6.1", "upgrade"]
    assert result.stdout.endswith("1 requirement missing\n")


def test_programs_get_every_field(run: Run, checks: list[Check]) -> None:
    checks += [_check("kernel", ok=False, required=True)]
    result = run("doctor", "-o", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == [
        {"name": "kernel", "ok": False, "found": "5.4", "needed": "6.1", "remedy": "upgrade", "required": True}
    ]


def test_this_machine_can_be_asked(run: Run) -> None:
    result = run("doctor", "-o", "json")
    assert result.exit_code in (0, 2)
    assert all(
        set(check) == {"name", "ok", "found", "needed", "remedy", "required"} for check in json.loads(result.stdout)
    )
