# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.policydiff."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]

RECORD = {
    "time": "2026-01-31T12:00:00.000000Z",
    "node": "n",
    "layer": "packet",
    "verdict": "DROPPED",
    "reason": "POLICY_DENIED",
    "reason_text": "",
    "direction": "egress",
    "protocol": "TCP",
    "endpoint": {"id": 1, "name": "web", "labels": []},
    "source": {
        "address": "192.0.2.1",
        "port": 4711,
        "identity": 256,
        "labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=default"],
        "name": "web",
    },
    "destination": {"address": "203.0.113.7", "port": 443, "identity": 2, "labels": ["reserved:world"]},
    "rule": "",
    "policies": [],
    "revision": 1,
    "detail": "",
}


@pytest.fixture
def wider(good: Path) -> Path:
    path = good.with_name("wider.yaml")
    path.write_text(good.read_text().replace("[198.51.100.0/24]", "[198.51.100.0/24, 203.0.113.0/24]"))
    return path


def test_what_is_audited_changes_no_packet_but_the_verdict_is_told(run: Run, good: Path, wider: Path) -> None:
    result = run("rules", "diff", str(good), str(wider), "--audit", "-o", "json")
    changes = {(flow["before"], flow["after"]) for flow in json.loads(result.stdout)["flows"]}
    assert ("AUDIT POLICY_DENIED", "FORWARDED") in changes
    assert not any("DROPPED" in word for change in changes for word in change)
    assert (
        json.loads(run("rules", "diff", str(good), str(wider), "--enforcement", "never", "-o", "json").stdout)["flows"]
        == []
    )


def test_diff_of_the_policy_directory_sends_no_files(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "diff")
    assert agent.asked == [("POST /v1/rules/diff", {"sources": None})]
    lines = result.stdout.splitlines()
    assert lines[0] == "  + default/new"
    assert lines[-1].split() == ["web", "egress", "any", "default/new"]


def test_diff_of_files_sends_their_text(l7ctl: Run, agent: Any, good: Path) -> None:
    l7ctl("rules", "diff", str(good))
    assert agent.asked[0][1] == {"sources": [{"path": str(good), "text": good.read_text()}]}


def test_diff_of_an_unreadable_file_sends_nothing(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("rules", "diff", "/no/such.yaml")
    assert result.exit_code == 1
    assert "/no/such.yaml: cannot be read" in result.stderr
    assert agent.asked == []


def test_diff_without_a_difference_says_so(l7ctl: Run, agent: Any) -> None:
    agent.answers["POST /v1/rules/diff"] = {"added": [], "removed": [], "modified": [], "endpoints": []}
    assert l7ctl("rules", "diff").stdout == "nothing would change\n"


def test_two_sets_of_policies_are_compared_without_a_daemon(run: Run, good: Path, wider: Path) -> None:
    result = run("rules", "diff", str(good), str(wider))
    assert result.exit_code == 0
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["~", "default/web"],
        [],
        ["1", "flow", "of", "8", "would", "be", "judged", "differently"],
        ["SOURCE", "DESTINATION", "PORT", "WHAT", "BEFORE", "AFTER", "COUNT"],
        [
            "app=web,io.kubernetes.pod.namespace=default",
            "203.0.113.1",
            "80/TCP",
            "-",
            "DROPPED",
            "POLICY_DENIED",
            "FORWARDED",
            "1",
        ],
    ]
    assert run("rules", "diff", str(good), str(wider), "--exit-code").exit_code == 1


def test_equal_policies_change_nothing(run: Run, good: Path) -> None:
    result = run("rules", "diff", str(good), str(good), "--exit-code")
    assert (result.exit_code, result.stdout) == (0, "nothing would change\n")


def test_what_was_denied_is_asked_again(run: Run, good: Path, wider: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    log.write_text((json.dumps(RECORD) + "\n") * 3 + "torn")
    result = run("rules", "diff", str(good), str(wider), "--replay", str(log), "-o", "json")
    answer = json.loads(result.stdout)
    assert answer["modified"] == ["default/web"]
    (flow,) = answer["flows"]
    assert (flow["source"], flow["destination"], flow["after"], flow["count"]) == ("web", "203.0.113.7", "FORWARDED", 3)
    assert "1 line of" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("a", "b", "c"), ("--replay", "x"), ("/no/such.yaml", "/no/such.yaml"), ("GOOD", "GOOD", "--replay", "/no")],
)
def test_wrong_use_exits_with_two(run: Run, good: Path, arguments: tuple[str, ...]) -> None:
    assert run("rules", "diff", *(str(good) if one == "GOOD" else one for one in arguments)).exit_code == 2
