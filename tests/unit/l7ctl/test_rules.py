# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.rules."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_reload_prints_the_revision_and_what_changed(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "reload")
    assert agent.asked == [("POST /v1/rules/reload", {})]
    assert result.stdout.splitlines() == [
        "revision 8 is in force: 1 added, 1 removed, 1 modified; 1 endpoint changed; 12.3 ms",
        "  + default/new",
        "  - default/old",
        "  ~ default/web",
        "  other rules for web",
    ]


def test_reload_names_some_of_many_endpoints(l7ctl: Run, agent: Any) -> None:
    agent.answers["POST /v1/rules/reload"] = {"revision": 8, "endpoints": [f"web-{n}" for n in range(12)]}
    assert l7ctl("rules", "reload").stdout.endswith("web-9 and 2 more\n")


def test_reload_of_a_folder_says_which_one_it_loads(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "reload", "mine/")
    assert (result.exit_code, agent.asked) == (2, [])
    assert "key policies" in result.stderr
    assert "l7ctl rules diff mine/" in result.stderr


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
