# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.observe: what is asked of the daemon, and what of its answer is shown."""

import json
from typing import Any

import pytest

from l7observe import record
from l7observe.flow import DnsSummary, Flow, FlowPeer, FlowType, HttpSummary
from l7policy.verdict import Direction, Reason, Verdict


def line(verdict: Verdict, reason: Reason, **values: Any) -> bytes:
    flow = Flow(
        time=1767225600.25,
        layer="http" if "http" in values else "dns",
        verdict=verdict,
        reason=reason,
        direction=Direction.EGRESS,
        protocol=6,
        source=FlowPeer("192.0.2.1", 40113, 256, ("k8s:app=web",), endpoint=1, name="web"),
        destination=FlowPeer("198.51.100.80", 80, 2),
        endpoint=1,
        type=FlowType.L7,
        **values,
    )
    return record.encode(record.from_flow(flow, "node-1"))


START = b'{"type":"start","node":"node-1","agent":1,"lost":{"kernel":0,"proxies":0}}\n'
DENIED = line(Verdict.DROPPED, Reason.HTTP_DENIED, http=HttpSummary("POST", "api.example", "/admin", 403))
PASSED = line(Verdict.FORWARDED, Reason.NONE, http=HttpSummary("GET", "api.example", "/items", 200))
ASKED = line(Verdict.DROPPED, Reason.DNS_DENIED, dns=DnsSummary("evil.example", "A", "REFUSED"))


@pytest.fixture
def streaming(agent: Any) -> Any:
    agent.answers["GET /v1/flows"] = START + DENIED + PASSED + b'{"type":"lost","source":"kernel","count":3}\n' + ASKED
    return agent


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), ["/admin", "/items", "evil"]),
        (("--last", "1"), ["evil"]),
        (("--last", "0"), []),
        (("--verdict", "dropped"), ["/admin", "evil"]),
        (("--http-status", "4+", "--http-method", "post"), ["/admin"]),
        (("--http-path", "^/i", "--from", "web", "--from-label", "app=web", "--port", "80"), ["/items"]),
        (("--dns-query", r"\.example$"), ["evil"]),
        (("--not", "--dns-query", r"\.example$"), ["/admin", "/items"]),
        (("--to", "web"), []),
        (("-6",), []),
        (("--until", "2025-12-31T00:00:00Z"), []),
        (("--since", "2025-12-31T00:00:00+01:00"), ["/admin", "/items", "evil"]),
        (("--since", "5m"), []),
    ],
)
def test_what_fits_is_shown_in_its_order(
    streaming: Any, l7ctl: Any, options: tuple[str, ...], shown: list[str]
) -> None:
    result = l7ctl("observe", *options, "-o", "json")
    assert result.exit_code == 0
    found = [json.loads(text) for text in result.stdout.splitlines()]
    assert [one["http"]["path"] if "http" in one else one["dns"]["query"].split(".")[0] for one in found] == shown
    assert "lost" in result.stderr


def test_for_people_it_is_a_line_or_a_row_each(streaming: Any, l7ctl: Any) -> None:
    (compact,) = l7ctl("observe", "--verdict", "FORWARDED").stdout.splitlines()
    assert "web:40113 (ID:256) -> 198.51.100.80:80" in compact
    assert l7ctl("observe", "-o", "table").stdout.splitlines()[0].split()[:2] == ["TIME", "LAYER"]


def test_following_begins_before_the_kept_ones_are_read_and_shows_none_twice(streaming: Any, l7ctl: Any) -> None:
    result = l7ctl("observe", "-f", "-t", "l7", "-o", "json")
    assert [what for what, _ in streaming.asked] == [
        "GET /v1/flows?type=l7&last=0&follow=true",
        "GET /v1/flows?type=l7&last=4096&follow=false",
    ]
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr.endswith("l7ctl: l7d went away\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--http-status", "4"), "write 404, 4+ or 40+"),
        (("--http-path", "("), "is not an expression of RE2"),
        (("--since", "yesterday"), "write 90s, 5m, 2h, 1d"),
        (("--since", "99999999999d"), "write 90s, 5m, 2h, 1d"),
        (("-f", "-o", "table"), "-f goes with -o compact or -o json"),
        (("--type", "nonsense"), "nonsense"),
    ],
)
def test_wrong_use_says_what_is_right(l7ctl: Any, options: tuple[str, ...], message: str) -> None:
    result = l7ctl("observe", *options)
    assert (result.exit_code, message in result.stderr) == (2, True)
