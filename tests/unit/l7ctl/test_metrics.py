# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.metrics."""

import json
from collections.abc import Callable

from click.testing import Result

Run = Callable[..., Result]


def test_a_table_leaves_the_buckets_out_unless_asked(l7ctl: Run) -> None:
    assert [line.split() for line in l7ctl("metrics", "list").stdout.splitlines()] == [
        ["METRIC", "LABELS", "VALUE"],
        ["l7gate_drop_count_total", "reason=POLICY_DENIED", "4"],
        ["l7gate_bpf_map_pressure", "map_name=policy", "0.000488"],
    ]
    assert "_bucket" in l7ctl("metrics", "list", "--buckets").stdout


def test_a_pattern_chooses_names(l7ctl: Run) -> None:
    found = json.loads(l7ctl("metrics", "list", "-p", "drop|bucket$", "-o", "json").stdout)
    assert [one["name"] for one in found] == ["l7gate_drop_count_total", "l7gate_dns_response_duration_seconds_bucket"]


def test_a_pattern_that_is_none_is_wrong_use(l7ctl: Run) -> None:
    result = l7ctl("metrics", "list", "-p", "(")
    assert result.exit_code == 2
    assert "no regular expression" in result.output
