# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.fqdn."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["api.example.com", "other.example"]),
        (["-p", "*.EXAMPLE.com."], ["api.example.com"]),
        (["-e", "db"], ["other.example"]),
        (["-e", "db", "-p", "*.example.com"], []),
    ],
)
def test_the_cache_can_be_narrowed(l7ctl: Callable[..., Result], options: list[str], names: list[str]) -> None:
    result = l7ctl("fqdn", "cache", "list", *options, "-o", "json")
    assert [entry["name"] for entry in json.loads(result.stdout)] == names


def test_names_are_forgotten_only_when_meant(l7ctl: Run, agent: Any) -> None:
    refused = l7ctl("fqdn", "cache", "clean", "-p", "*.example.com", stdin="n\n")
    assert refused.exit_code != 0
    assert agent.asked == []
    done = l7ctl("fqdn", "cache", "clean", "-p", "*.example.com", "-f")
    assert (done.exit_code, done.stdout) == (0, "2 names forgotten\n")
    assert agent.asked == [("POST /v1/fqdn/cache/clean", {"pattern": "*.example.com"})]


def test_an_explanation_names_patterns_that_match_and_those_that_do_not(l7ctl: Run, agent: Any) -> None:
    shown = l7ctl("fqdn", "explain", "api.example.com")
    assert shown.exit_code == 0, shown.output
    assert "may be    asked for by nobody" in shown.stdout
    assert "may be    reached by web" in shown.stdout
    assert "other.example" in shown.stdout
    assert "198.51.100.7" in shown.stdout
    assert agent.asked == [("GET /v1/fqdn/explain?name=api.example.com", None)]
    raw = l7ctl("fqdn", "explain", "api.example.com", "-o", "json")
    assert json.loads(raw.stdout) == agent.answers["GET /v1/fqdn/explain"]


def test_flows_that_no_name_explains_are_listed_for_one_workload_or_all(l7ctl: Run) -> None:
    assert [row["address"] for row in json.loads(l7ctl("fqdn", "audit", "-o", "json").stdout)] == ["198.51.100.99"]
    assert json.loads(l7ctl("fqdn", "audit", "-e", "db", "-o", "json").stdout) == []


def test_the_cache_can_be_limited_to_where_names_came_from(l7ctl: Run) -> None:
    assert len(json.loads(l7ctl("fqdn", "cache", "list", "-s", "lookup", "-o", "json").stdout)) == 2
    assert json.loads(l7ctl("fqdn", "cache", "list", "-s", "operator", "-o", "json").stdout) == []


def test_the_status_is_a_line_for_each_number(l7ctl: Run) -> None:
    shown = l7ctl("fqdn", "status").stdout
    assert "queries                12" in shown
    assert "learn_p99_ms           0.2" in shown
    assert "learn_seconds" not in shown
