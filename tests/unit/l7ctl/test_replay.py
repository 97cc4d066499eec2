# SPDX-License-Identifier: Apache-2.0
"""Tests of l7ctl.replay."""

from typing import Any

import msgspec
import pytest

from l7ctl import replay
from l7observe.record import AuditDns, AuditEndpoint, AuditHttp, AuditPeer, AuditRecord
from l7policy.question import HttpRequest, Side
from l7policy.verdict import Protocol

WEB = AuditPeer("192.0.2.1", 4711, 256, ("k8s:app=web",), "web")
OUTSIDE = AuditPeer("2001:db8::7", 443, 2, ("fqdn:**.cdn.example.com", "fqdn:*", "fqdn:a.example", "reserved:world"))


def record(**changed: Any) -> AuditRecord:
    made = AuditRecord(
        time="",
        node="",
        layer="packet",
        verdict="DROPPED",
        reason="POLICY_DENIED",
        reason_text="",
        direction="egress",
        protocol="TCP",
        endpoint=AuditEndpoint(1, "web", ()),
        source=WEB,
        destination=OUTSIDE,
        rule="",
        policies=(),
        revision=1,
        detail="",
    )
    return msgspec.structs.replace(made, **changed)


def test_a_workload_is_its_labels_and_an_address_its_prefix_and_names() -> None:
    found = replay.question(record())
    assert found is not None
    assert found.source == Side("web", labels=frozenset({"k8s:app=web"}))
    assert found.destination == Side(
        "2001:db8::7", prefix="2001:db8::7/128", names=("replayed.cdn.example.com.", "a.example.")
    )
    assert (found.protocols, found.port) == ((Protocol.TCP,), 443)


def test_who_was_audited_is_audited_again() -> None:
    found = replay.question(record(verdict="AUDIT"))
    assert found is not None
    assert (found.source.audit, found.destination.audit) == (True, None)
    found = replay.question(record(verdict="AUDIT", direction="ingress"))
    assert found is not None
    assert (found.source.audit, found.destination.audit) == (None, True)


def test_a_request_and_a_query_are_asked_again() -> None:
    found = replay.question(record(http=AuditHttp("GET", "a.example", "/x//y", 400)))
    assert found is not None
    assert found.http == HttpRequest("GET", "/x//y", "a.example", malformed="empty path segment")
    found = replay.question(record(protocol="UDP", dns=AuditDns("b.example", "A", "REFUSED")))
    assert found is not None
    assert found.dns == "b.example"


@pytest.mark.parametrize("changed", [{"protocol": "47"}, {"protocol": "ANY"}, {"source": AuditPeer("", 0, 0, ())}])
def test_what_policy_cannot_be_asked_about_is_left_out(changed: dict[str, Any]) -> None:
    assert replay.question(record(**changed)) is None


def test_a_request_without_its_query_is_left_out() -> None:
    assert replay.question(record(http=AuditHttp("GET", "a.example", "/x?[redacted]", 403))) is None


def test_lines_that_are_no_records_are_counted() -> None:
    found, skipped = replay.questions([msgspec.json.encode(record()), b"torn\n", b"\n"])
    assert (len(found), skipped) == (1, 1)
