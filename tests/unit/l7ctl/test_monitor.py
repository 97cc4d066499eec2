# SPDX-License-Identifier: Apache-2.0
"""`l7ctl monitor`: the stream's lines for people and programs, and back again. Restarts: the integration tests."""

import json
from typing import Any

import pytest

from l7observe import record
from l7observe.flow import Flow, FlowPeer, FlowType, HttpSummary
from l7policy.verdict import Direction, Reason, Verdict

START = b'{"type":"start","node":"node-1","agent":1,"lost":{"kernel":0,"proxies":0}}\n'
LOST = b'{"type":"lost","source":"kernel","count":12}\n'
DENY = record.encode(
    record.from_flow(
        Flow(
            time=1767225600.25,
            layer="http",
            verdict=Verdict.DROPPED,
            reason=Reason.HTTP_DENIED,
            direction=Direction.EGRESS,
            protocol=6,
            source=FlowPeer("192.0.2.1", 40113, 256, endpoint=1, name="web"),
            destination=FlowPeer("198.51.100.80", 80, 2),
            endpoint=1,
            http=HttpSummary("POST", "api.example", "/admin", 403),
            type=FlowType.L7,
        ),
        "node-1",
    )
)


@pytest.fixture
def streaming(agent: Any) -> Any:
    agent.answers["GET /v1/flows"] = START + DENY + LOST
    return agent


def test_kept_flows_are_shown_as_lines(streaming: Any, l7ctl: Any) -> None:
    done = l7ctl("monitor", "--last", "5", "--no-follow")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        (
            "<- Request http from web:40113 to 198.51.100.80:80, identity 256->2, "
            "verdict Denied POST http://api.example/admin => 403, HTTP_DENIED, no rule"
        ),
        ">> lost 12 flows: the kernel's ring was full or the rate exceeded",
    ]
    assert streaming.asked == [("GET /v1/flows?last=5&follow=false", None)]


def test_the_filters_are_the_streams(streaming: Any, l7ctl: Any) -> None:
    l7ctl(
        "monitor",
        "-t",
        "drop",
        "--type",
        "l7",
        "--from",
        "web",
        "--to",
        "192.0.2.9",
        "--related-to",
        "7",
        "--no-follow",
    )
    query = "type=drop&type=l7&from=web&to=192.0.2.9&related=7&last=0&follow=false"
    assert streaming.asked == [(f"GET /v1/flows?{query}", None)]


def test_json_lines_are_read_back_as_what_they_were(streaming: Any, l7ctl: Any) -> None:
    for_people = l7ctl("monitor", "--no-follow").stdout
    for_programs = l7ctl("monitor", "--no-follow", "-o", "json").stdout
    assert [json.loads(line)["type"] for line in for_programs.splitlines()] == ["l7", "lost"]
    assert l7ctl("monitor", "--input-file", "-", stdin=for_programs).stdout == for_people
    assert l7ctl("monitor", "--input-file", "-", "-o", "json", stdin=for_programs).stdout == for_programs


def test_what_is_no_stream_is_refused(l7ctl: Any) -> None:
    done = l7ctl("monitor", "--input-file", "-", stdin="plain text\n")
    assert done.exit_code == 1
    assert "neither a flow nor a loss" in done.stderr


def test_without_a_daemon_it_does_not_wait_for_one(run: Any) -> None:
    assert run("--socket", "/nonexistent", "monitor").exit_code == 3


def test_a_refusal_is_told(agent: Any, l7ctl: Any) -> None:
    agent.errors["GET /v1/flows"] = (503, {"error": "64 listen already", "hint": "end a `l7ctl monitor`"})
    done = l7ctl("monitor", "--no-follow")
    assert done.exit_code == 1
    assert "64 listen already" in done.stderr
