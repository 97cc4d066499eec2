# SPDX-License-Identifier: Apache-2.0
"""Tests of l7observe.record."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from l7observe import record
from l7observe.flow import Flow, FlowPeer, FlowType, HttpSummary, L7Type, PacketSummary
from l7policy.verdict import Direction, Reason, Verdict


def test_a_packet_deny_is_written_in_the_documented_shape(packet_deny: Flow) -> None:
    line = record.encode(record.from_flow(packet_deny, "node-1"))
    assert line.endswith(b"\n")
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250000Z",
        "node": "node-1",
        "layer": "packet",
        "verdict": "DROPPED",
        "reason": "POLICY_DENIED",
        "reason_text": "No rule allows it",
        "direction": "egress",
        "protocol": "TCP",
        "endpoint": {"id": 1, "name": "web", "labels": ["k8s:app=web"]},
        "source": {
            "address": "192.0.2.1",
            "port": 40112,
            "identity": 256,
            "labels": ["k8s:app=web"],
            "name": "web",
        },
        "destination": {
            "address": "198.51.100.7",
            "port": 443,
            "identity": 2,
            "labels": ["reserved:world"],
            "name": "",
        },
        "rule": "",
        "policies": ["default/web"],
        "revision": 7,
        "detail": "",
        "type": "drop",
    }


def test_an_http_deny_carries_the_request_and_no_query(http_deny: Flow) -> None:
    line = json.loads(record.encode(record.from_flow(http_deny)))
    assert line["http"] == {"method": "POST", "host": "api.example.com", "path": "/admin?x=1", "status": 403}
    assert "dns" not in line


def test_headers_that_a_rule_found_missing_or_took_out_are_in_the_record(http_deny: Flow) -> None:
    summary = HttpSummary(
        "GET", "api.example.com", "/", 200, missing_headers=("X-Team: shop",), rejected_headers=("X-Team: other",)
    )
    line = json.loads(record.encode(record.from_flow(msgspec.structs.replace(http_deny, http=summary))))
    assert line["http"]["missing_headers"] == ["X-Team: shop"]
    assert line["http"]["rejected_headers"] == ["X-Team: other"]


def test_a_dns_deny_carries_the_query_and_no_request(dns_deny: Flow) -> None:
    line = json.loads(record.encode(record.from_flow(dns_deny)))
    assert line["dns"] == {"query": "forbidden.example", "qtype": "A", "rcode": "REFUSED"}
    assert "http" not in line


def test_a_line_is_read_back_as_the_record_it_was(packet_deny: Flow, http_deny: Flow, dns_deny: Flow) -> None:
    for flow in (packet_deny, http_deny, dns_deny):
        written = record.from_flow(flow, "node-1")
        assert record.decode(record.encode(written)) == written


def test_a_field_that_a_later_version_adds_does_not_disturb(packet_deny: Flow) -> None:
    line = record.encode(record.from_flow(packet_deny)).replace(b'{"time"', b'{"later":1,"time"')
    assert record.decode(line) == record.from_flow(packet_deny)


@pytest.mark.parametrize("line", [b"", b"{", b'{"time":"2026', b"null", b"[]", b"{}", b"\xff\xfe", b"plain text"])
def test_a_line_that_is_no_record_is_none(line: bytes) -> None:
    assert record.decode(line) is None


def test_bytes_that_were_no_text_are_escaped(http_deny: Flow) -> None:
    assert http_deny.http is not None
    http_deny.http.path = b"/\xff\n".decode("utf-8", "surrogateescape")
    line = record.encode(record.from_flow(http_deny))
    assert line.count(b"\n") == 1
    assert json.loads(line)["http"]["path"] == "/\\udcff\n"


def test_the_endpoint_is_the_end_whose_policy_decided(packet_deny: Flow) -> None:
    packet_deny.direction = Direction.INGRESS
    packet_deny.destination = FlowPeer("192.0.2.2", 80, 257, ("k8s:app=db",), 2, "db")
    packet_deny.endpoint = 2
    decided = record.from_flow(packet_deny).endpoint
    assert (decided.id, decided.name, decided.labels) == (2, "db", ("k8s:app=db",))


def test_without_a_known_endpoint_the_direction_tells_the_end(packet_deny: Flow) -> None:
    packet_deny.endpoint = 0
    packet_deny.direction = Direction.INGRESS
    decided = record.from_flow(packet_deny).endpoint
    assert (decided.id, decided.labels) == (0, ("reserved:world",))


def test_a_protocol_without_a_name_is_its_number(packet_deny: Flow) -> None:
    packet_deny.protocol = 47
    assert record.from_flow(packet_deny).protocol == "47"


@pytest.mark.parametrize(
    ("verdict", "denied"),
    [
        (Verdict.FORWARDED, False),
        (Verdict.REDIRECTED, False),
        (Verdict.DROPPED, True),
        (Verdict.ERROR, True),
        (Verdict.AUDIT, True),
    ],
)
def test_everything_but_passed_is_a_deny(packet_deny: Flow, verdict: Verdict, denied: bool) -> None:
    packet_deny.verdict = verdict
    assert record.is_deny(packet_deny) is denied


def test_what_policy_says_of_a_packet_is_no_second_deny(packet_deny: Flow) -> None:
    packet_deny.type = FlowType.POLICY_VERDICT
    assert not record.is_deny(packet_deny)
    packet_deny.verdict = Verdict.AUDIT
    assert record.is_deny(packet_deny)


def test_a_forwarded_request_carries_what_came_of_it(http_deny: Flow) -> None:
    http_deny.verdict, http_deny.reason = Verdict.FORWARDED, Reason.NONE
    http_deny.l7_type, http_deny.latency_ns = L7Type.RESPONSE, 1_500_000
    http_deny.http = HttpSummary("GET", "api.example.com", "/", 200, protocol="HTTP/1.1", response_bytes=512)
    line = json.loads(record.encode(record.from_flow(http_deny)))
    assert (line["type"], line["l7_type"], line["latency_ns"]) == ("l7", "response", 1_500_000)
    assert line["http"]["protocol"] == "HTTP/1.1"
    assert line["http"]["response_bytes"] == 512
    assert record.decode(json.dumps(line)) == record.from_flow(http_deny)


def test_a_packet_is_shown_by_the_names_of_its_flags(packet_deny: Flow) -> None:
    packet_deny.packet = PacketSummary(tcp_flags=0x11, length=66, reply=True, point="to-endpoint")
    written = record.from_flow(packet_deny)
    assert json.loads(record.encode(written))["packet"] == {
        "flags": "ACK, FIN",
        "length": 66,
        "reply": True,
        "new": False,
        "point": "to-endpoint",
    }
    assert record.decode(record.encode(written)) == written


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 1e20])
def test_an_impossible_time_is_refused(seconds: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        record.timestamp(seconds)


def test_the_columns_show_who_what_and_why(http_deny: Flow) -> None:
    written = record.from_flow(http_deny)
    assert record.COLUMNS.rows([written]) == [
        [
            "2026-01-01T00:00:01.000000Z",
            "http",
            "web:40113",
            "[2001:db8::80]:80",
            "POST api.example.com/admin?x=1",
            "DROPPED",
            "HTTP_DENIED",
            "default/web",
        ]
    ]


def test_every_reason_has_a_text() -> None:
    assert all(reason.text for reason in Reason)


def test_the_reference_shows_a_record_and_explains_every_field() -> None:
    text = (Path(__file__).parents[3] / "docs/reference/audit-log.md").read_text("utf-8")
    example = text.split("```json\n")[1].split("\n```")[0].encode()
    found = record.decode(example)
    assert found is not None
    assert record.encode(found) == example + b"\n"
    rows = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    assert re.findall(r"`(\w+)`", rows) == list(record.AuditRecord.__struct_fields__)
