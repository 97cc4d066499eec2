# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.bpf."""

from collections.abc import Callable
from typing import Any

from click.testing import Result


def test_policy_of_one_endpoint_is_asked_for_by_name(l7ctl: Callable[..., Result], agent: Any) -> None:
    result = l7ctl("bpf", "policy", "get", "web")
    assert [what for what, _ in agent.asked] == ["GET /v1/bpf/policy?endpoint=web"]
    assert "8080-8083" in result.stdout


def test_policy_of_all_is_asked_for_without_a_name(l7ctl: Callable[..., Result], agent: Any) -> None:
    assert l7ctl("bpf", "policy", "get").exit_code == 0
    assert [what for what, _ in agent.asked] == ["GET /v1/bpf/policy"]


def test_numbers_alone_leave_out_the_labels(l7ctl: Callable[..., Result]) -> None:
    assert "fqdn:*.example.com" in l7ctl("bpf", "policy", "get").stdout
    assert "fqdn:*.example.com" not in l7ctl("bpf", "policy", "get", "-n").stdout


def test_one_workload_and_all_are_not_asked_for_at_once(l7ctl: Callable[..., Result]) -> None:
    assert l7ctl("bpf", "policy", "get", "web", "--all").exit_code == 2


def test_flows_of_one_endpoint_are_asked_for_by_name(l7ctl: Callable[..., Result], agent: Any) -> None:
    result = l7ctl("bpf", "ct", "list", "web")
    assert [what for what, _ in agent.asked] == ["GET /v1/bpf/conntrack?endpoint=web"]
    assert result.stdout.splitlines()[1].split() == (
        ["TCP", "192.0.2.1", "40112", "198.51.100.7", "80", "http", "local", "12", "3400", "0.5", "7"]
    )


def test_an_address_matches_the_prefix_that_covers_it_and_is_got_only_by_itself(
    l7ctl: Callable[..., Result], agent: Any
) -> None:
    agent.answers["GET /v1/bpf/ipcache"] = {
        "prefix": "192.0.2.0/24",
        "identity": 256,
        "established": 0,
        "labels": ["k8s:app=web"],
    }
    assert "192.0.2.0/24" in l7ctl("bpf", "ipcache", "match", "192.0.2.1").stdout
    refused = l7ctl("bpf", "ipcache", "get", "192.0.2.1")
    assert (refused.exit_code, "192.0.2.0/24" in refused.stderr) == (1, True)
    assert l7ctl("bpf", "ipcache", "get", "192.0.2.0/24").exit_code == 0
    assert agent.asked[0] == ("GET /v1/bpf/ipcache?covering=192.0.2.1", None)


def test_events_are_the_streams_lines(l7ctl: Callable[..., Result], agent: Any) -> None:
    agent.answers["GET /v1/flows"] = b'{"type":"start"}\n{"type":"drop"}\n'
    assert l7ctl("bpf", "events", "--last", "1", "--no-follow").stdout == '{"type":"start"}\n{"type":"drop"}\n'
    query = "type=drop&type=policy-verdict&type=trace&last=1&follow=false"
    assert [what for what, _ in agent.asked] == [f"GET /v1/flows?{query}"]
