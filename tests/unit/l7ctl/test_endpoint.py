# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.endpoint."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


def test_add_sends_what_was_said_and_shows_what_came_of_it(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("endpoint", "add", "--netns", "blue", "--label", "app=web", "--label", "tier=front")
    assert agent.asked == [("POST /v1/endpoints", {"netns": "blue", "labels": ["app=web", "tier=front"]})]
    assert result.stdout == ("endpoint 1 (web) added: 192.0.2.1,2001:db8::1, identity 256, enforcing egress, ready\n")


def test_add_sends_the_name_and_the_interface_when_given(l7ctl: Run, agent: Any) -> None:
    l7ctl("endpoint", "add", "--netns", "/proc/1/ns/net", "--name", "web", "--interface", "lxc1")
    assert agent.asked[0][1] == {"netns": "/proc/1/ns/net", "labels": [], "name": "web", "interface": "lxc1"}


def test_add_says_why_an_endpoint_waits(l7ctl: Run, agent: Any) -> None:
    waiting = agent.answers["POST /v1/endpoints"] | {"state": "waiting", "message": "its interface is down"}
    agent.answers["POST /v1/endpoints"] = waiting
    assert "waiting\n  its interface is down\n" in l7ctl("endpoint", "add", "--netns", "blue").stdout
    assert json.loads(l7ctl("endpoint", "add", "--netns", "blue", "-o", "json").stdout) == waiting


def test_add_without_a_namespace_is_wrong_use(l7ctl: Run, agent: Any) -> None:
    result = l7ctl("endpoint", "add")
    assert result.exit_code == 2
    assert "--netns" in result.stderr
    assert agent.asked == []


def test_a_missing_namespace_is_one_line_and_a_hint(l7ctl: Run, agent: Any) -> None:
    error = {"error": "no network namespace 'green'", "hint": "ip netns list"}
    agent.errors["POST /v1/endpoints"] = (404, error)
    result = l7ctl("endpoint", "add", "--netns", "green")
    assert result.exit_code == 1
    assert result.stderr == "l7ctl: no network namespace 'green'\nhint: ip netns list\n"


def test_remove_takes_several(l7ctl: Run, agent: Any) -> None:
    agent.answers["DELETE /v1/endpoints/2"] = None
    result = l7ctl("endpoint", "remove", "web", "2")
    assert [what for what, _ in agent.asked] == ["DELETE /v1/endpoints/web", "DELETE /v1/endpoints/2"]
    assert result.stdout == "endpoint web removed\nendpoint 2 removed\n"


def test_removing_what_is_not_there_fails(l7ctl: Run) -> None:
    assert l7ctl("endpoint", "remove", "nobody").exit_code == 1


def test_add_sends_ports_and_audit_mode_when_given(l7ctl: Run, agent: Any) -> None:
    agent.answers["POST /v1/endpoints"] = agent.answers["POST /v1/endpoints"] | {"audit": True}
    shown = l7ctl("endpoint", "add", "--netns", "blue", "--port", "http=8080/TCP", "--audit").stdout
    assert agent.asked[0][1] == {"netns": "blue", "labels": [], "ports": ["http=8080/TCP"], "audit": True}
    assert shown.endswith("audit mode: what its policy denies PASSES and is only recorded\n")


def test_get_shows_everything_of_one(l7ctl: Run, agent: Any) -> None:
    lines = l7ctl("endpoint", "get", "web").stdout.splitlines()
    shown = {line[:16].strip(): line[17:] for line in lines}
    assert (shown["NAME"], shown["PORTS"], shown["AUDIT"]) == ("web", "http=8080/TCP", "no")
    assert json.loads(l7ctl("endpoint", "get", "web", "-o", "json").stdout) == agent.answers["GET /v1/endpoints/web"]


def test_labels_are_changed_and_shown(l7ctl: Run, agent: Any) -> None:
    shown = l7ctl("endpoint", "labels", "web", "-a", "tier=front", "-d", "team").stdout.splitlines()
    assert agent.asked == [("PATCH /v1/endpoints/web/labels", {"add": ["tier=front"], "delete": ["team"]})]
    assert shown == ["k8s:app=web", "k8s:pod-template-hash=1  (does not count: policies do not know it)"]
    assert json.loads(l7ctl("endpoint", "labels", "web", "-o", "json").stdout) == ["k8s:app=web"]


@pytest.mark.parametrize(
    ("option", "sent"),
    [("PolicyAuditMode=Enabled", True), ("policyauditmode=disabled", False), ("PolicyAuditMode=Default", None)],
)
def test_audit_mode_is_an_option(l7ctl: Run, agent: Any, option: str, sent: bool | None) -> None:
    assert l7ctl("endpoint", "config", "web", option).stdout == "PolicyAuditMode  Enabled\n"
    assert agent.asked == [("PATCH /v1/endpoints/web/config", {"audit": sent})]


def test_options_are_shown(l7ctl: Run) -> None:
    assert l7ctl("endpoint", "config", "web").stdout == "PolicyAuditMode  Disabled (by default)\n"
    assert json.loads(l7ctl("endpoint", "config", "web", "-o", "json").stdout) == {"PolicyAuditMode": "Disabled"}


@pytest.mark.parametrize("option", ["PolicyAuditMode", "PolicyAuditMode=on", "Debug=Enabled"])
def test_another_option_is_wrong_use(l7ctl: Run, agent: Any, option: str) -> None:
    result = l7ctl("endpoint", "config", "web", option)
    assert (result.exit_code, agent.asked) == (2, [])
    assert "the one option is PolicyAuditMode=Enabled" in result.stderr
