# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.tables: every list, in every format, against the documented answers."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from click.testing import Result

from l7ctl import tables

Run = Callable[..., Result]

LISTS = [
    ("endpoint list", "GET /v1/endpoints"),
    ("identity list", "GET /v1/identities"),
    ("rules revisions", "GET /v1/rules/revisions"),
    ("fqdn cache list", "GET /v1/fqdn/cache"),
    ("fqdn names", "GET /v1/fqdn/names"),
    ("fqdn audit", "GET /v1/fqdn/audit"),
    ("bpf policy get", "GET /v1/bpf/policy"),
    ("bpf ipcache list", "GET /v1/bpf/ipcache"),
    ("bpf ct list", "GET /v1/bpf/conntrack"),
    ("metrics list", "GET /v1/metrics"),
]


@pytest.mark.parametrize(("command", "source"), LISTS)
def test_json_and_yaml_of_a_list_are_what_the_api_says(l7ctl: Run, agent: Any, command: str, source: str) -> None:
    for output, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        result = l7ctl(*command.split(), "-o", output)
        assert result.exit_code == 0, result.output
        assert load(result.stdout) == agent.answers[source]


def test_the_policies_in_force_are_a_list_too(l7ctl: Run, agent: Any) -> None:
    assert json.loads(l7ctl("rules", "list", "-o", "json").stdout) == agent.answers["GET /v1/rules"]["policies"]


@pytest.mark.parametrize("command", [command for command, _ in LISTS] + ["rules list"])
def test_a_table_has_a_header_and_a_line_per_item(l7ctl: Run, command: str) -> None:
    lines = l7ctl(*command.split()).stdout.splitlines()
    headers = [column.header for column in tables.ALL[command].visible()]
    assert lines[0].split() == " ".join(headers).split()
    assert len(lines) >= 2


def test_the_endpoint_table_reads_as_a_person_expects(l7ctl: Run) -> None:
    lines = l7ctl("endpoint", "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["ID", "NAME", "NETNS", "CGROUP", "ADDRESSES", "LABELS", "IDENTITY", "ENFORCING", "AUDIT", "POLICIES", "STATE"],
        [
            "1",
            "web",
            "blue",
            "-",
            "192.0.2.1,2001:db8::1",
            "k8s:app=web",
            "256",
            "egress",
            "no",
            "default/web",
            "ready",
        ],
    ]


def test_wide_shows_every_column(l7ctl: Run) -> None:
    assert "lxc1" in l7ctl("endpoint", "list", "-o", "wide").stdout
    assert "lxc1" not in l7ctl("endpoint", "list").stdout


def test_times_are_shown_as_such(l7ctl: Run) -> None:
    assert "2026-01-01T00:01:00Z" in l7ctl("rules", "revisions").stdout


@pytest.mark.parametrize(
    ("value", "text"),
    [(1767225600.5, "2026-01-01T00:00:00Z"), ("yesterday", "yesterday"), (1e30, "1e+30"), (0, "1970-01-01T00:00:00Z")],
)
def test_a_moment_that_is_none_is_shown_as_it_is(value: object, text: str) -> None:
    assert tables.moment(value) == text


@pytest.mark.parametrize(("value", "text"), [(59.61, "60"), (7, "7"), ("soon", "soon")])
def test_a_duration_is_shown_in_whole_seconds(value: object, text: str) -> None:
    assert tables.seconds(value) == text


def test_an_unknown_capacity_has_no_share() -> None:
    assert tables.share({"entries": 1, "capacity": 4}) == "25%"
    assert tables.share({"entries": 1, "capacity": 0}) is None


def test_no_two_columns_of_a_list_have_one_name() -> None:
    for columns in tables.ALL.values():
        names = [column.name for column in columns]
        assert len(names) == len(set(names))
