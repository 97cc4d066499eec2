# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.status."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from l7ctl.status import duration

Run = Callable[..., Result]


def test_the_picture_in_a_few_lines(l7ctl: Run) -> None:
    assert l7ctl("status").stdout.splitlines()[:6] == [
        "Agent       l7d 0.1.0, pid 4711, up 1h 2m",
        "Node        node-1, kernel 6.1.0",
        "Revision    7: 3 policies, 1 endpoint, 12 identities",
        "Datapath    layout v1, attached by tcx, pinned at /sys/fs/bpf/l7",
        "Enforcement default, policy audit mode off",
        "Audit log   /var/log/l7/audit.jsonl: 5 written, 0 lost",
    ]


def test_audit_mode_cannot_be_overlooked(l7ctl: Run, agent: Any) -> None:
    agent.answers["GET /v1/status"] = agent.answers["GET /v1/status"] | {
        "policy_audit_mode": True,
        "audited_endpoints": ["web"],
        "audited": {"packets": 3, "bytes": 180},
    }
    shown = l7ctl("status").stdout
    assert "Enforcement default, policy audit mode on, 3 audited packets reported" in shown
    assert "Audit mode: what policy denies PASSES and is only recorded, for 1 of 1 endpoint:\n  web" in shown


def test_processes_tables_and_drops_are_listed(l7ctl: Run) -> None:
    shown = [line.split() for line in l7ctl("status").stdout.splitlines()]
    assert ["http-0", "4712", "ready", "7", "0", "yes", "0"] in shown
    assert ["policy", "32", "65536", "0%"] in shown
    assert ["Kernel", "tables,", "counted", "3", "s", "ago"] in shown
    assert ["POLICY_DENIED", "4", "240"] in shown


def test_what_is_wrong_is_said(l7ctl: Run, agent: Any) -> None:
    audit = {"path": "/var/log/l7/audit.jsonl", "written": 5, "lost": 9, "error": "no space left on the disk"}
    agent.answers["GET /v1/status"] = agent.answers["GET /v1/status"] | {
        "policy_load_error": "web.yaml:7:5: unknown field",
        "audit": audit,
        "events_lost": 3,
    }
    shown = l7ctl("status").stdout
    assert "stays in force:\n  web.yaml:7:5: unknown field" in shown
    assert "could not be written:\n  no space left on the disk" in shown
    assert "ring was full):\n  3" in shown


def test_what_degrades_it_ends_it_with_one(l7ctl: Run, agent: Any) -> None:
    assert l7ctl("status").exit_code == 0
    agent.answers["GET /v1/status"] = agent.answers["GET /v1/status"] | {
        "problems": ["endpoint web: not attached: to_endpoint", "dns-0 is down"]
    }
    for output in ("table", "json", "yaml"):
        assert l7ctl("status", "-o", output).exit_code == 1
    assert (
        "Degraded: 2 problems\n  endpoint web: not attached: to_endpoint\n  dns-0 is down\n" in l7ctl("status").stdout
    )


def test_verbose_tells_what_the_kernel_has_for_each_endpoint(l7ctl: Run) -> None:
    row = ["web", "ready", "from_endpoint,to_endpoint", "-", "3", "7"]
    assert row in [line.split() for line in l7ctl("status", "--verbose").stdout.splitlines()]
    assert row not in [line.split() for line in l7ctl("status").stdout.splitlines()]


def test_an_answer_that_lacks_parts_is_still_shown(l7ctl: Run, agent: Any) -> None:
    agent.answers["GET /v1/status"] = {"version": "0.0.1"}
    assert l7ctl("status").exit_code == 0


def test_programs_get_the_answer_as_it_is(l7ctl: Run, agent: Any) -> None:
    assert json.loads(l7ctl("status", "-o", "json").stdout) == agent.answers["GET /v1/status"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (61, "1m 1s"), (3600, "1h"), (90061, "1d 1h"), (86401, "1d 1s")],
)
def test_durations_have_two_parts_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text
