# SPDX-License-Identifier: Apache-2.0
"""Requests are counted by few things, whatever is sent."""

import pytest

from l7observe.tally import Tally, status_class
from l7policy.verdict import Verdict


@pytest.mark.parametrize(
    ("status", "group"),
    [(0, "none"), (100, "1xx"), (204, "2xx"), (404, "4xx"), (599, "5xx"), (600, "none"), (99, "none"), (-1, "none")],
)
def test_a_status_counts_by_its_class(status: int, group: str) -> None:
    assert status_class(status) == group


def test_what_was_counted_goes_over_the_wire_as_plain_values() -> None:
    tally = Tally()
    for status in (200, 201, 404):
        tally.passed(status)
    tally.request(Verdict.FORWARDED, 204)
    tally.request(Verdict.DROPPED, 403)
    tally.connection(Verdict.DROPPED)
    tally.seconds.observe(0.001)
    plain = tally.plain()
    assert sorted(plain["requests"]) == [["DROPPED", "4xx", 1], ["FORWARDED", "2xx", 3], ["FORWARDED", "4xx", 1]]
    assert plain["connections"] == [["DROPPED", 1]]
    assert plain["request_seconds"][-1][1] == 1
    assert plain["request_seconds_sum"] == 0.001
