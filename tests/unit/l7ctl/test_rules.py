# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]

GOOD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: web
spec:
  endpointSelector:
    matchLabels:
      app: web
  egress:
    - toCIDR: [198.51.100.0/24]
"""
BAD = GOOD.replace("toCIDR", "toCIDRR")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    return path


def test_reload_prints_the_revision_and_what_changed(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "reload")
    assert agent.asked == [("POST /v1/rules/reload", {})]
    assert result.stdout.splitlines() == [
        "revision 8 is in force: 1 added, 1 removed, 1 modified; 1 endpoint changed; 12.3 ms",
        "  + default/new",
        "  - default/old",
        "  ~ default/web",
    ]


def test_reload_says_when_nothing_changed(l7ctl: Run, agent: Any) -> None:
    agent.answers["POST /v1/rules/reload"] = {"revision": 7, "changed": False}
    assert l7ctl("rules", "reload").stdout == "nothing changed; revision 7 stays in force\n"


def test_reload_of_a_bad_file_exits_with_one_and_names_the_line(l7ctl: Run, agent: Any) -> None:
    problem = {"path": "/etc/l7/policies.d/web.yaml", "line": 7, "column": 5, "message": "bad", "hint": "good"}
    agent.errors["POST /v1/rules/reload"] = (422, {"error": "nothing was changed", "problems": [problem]})
    result = l7ctl("rules", "reload")
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "l7ctl: nothing was changed",
        "/etc/l7/policies.d/web.yaml:7:5: bad",
        "  hint: good",
    ]


@pytest.mark.parametrize(("arguments", "revision"), [([], None), (["6"], 6)])
def test_rollback_asks_for_a_revision_or_the_one_before(
    l7ctl: Run, agent: Any, arguments: list[str], revision: int | None
) -> None:
    result = l7ctl("rules", "rollback", *arguments, "-o", "json")
    assert agent.asked == [("POST /v1/rules/rollback", {"revision": revision})]
    assert json.loads(result.stdout) == agent.answers["POST /v1/rules/rollback"]


def test_rollback_takes_only_numbers(l7ctl: Run) -> None:
    assert l7ctl("rules", "rollback", "latest").exit_code == 2


def test_diff_of_the_policy_directory_sends_no_files(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "diff")
    assert agent.asked == [("POST /v1/rules/diff", {"sources": None})]
    lines = result.stdout.splitlines()
    assert lines[0] == "  + default/new"
    assert lines[-1].split() == ["web", "egress", "any", "default/new"]


def test_diff_of_files_sends_their_text(l7ctl: Run, agent: Any, good: Path) -> None:
    l7ctl("rules", "diff", str(good))
    assert agent.asked[0][1] == {"sources": [{"path": str(good), "text": GOOD}]}


def test_diff_of_an_unreadable_file_sends_nothing(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "diff", "/no/such.yaml")
    assert result.exit_code == 1
    assert "/no/such.yaml: cannot be read" in result.stderr
    assert agent.asked == []


def test_diff_without_a_difference_says_so(l7ctl: Run, agent: Any) -> None:
    agent.answers["POST /v1/rules/diff"] = {"added": [], "removed": [], "modified": [], "endpoints": []}
    assert l7ctl("rules", "diff").stdout == "nothing would change\n"
